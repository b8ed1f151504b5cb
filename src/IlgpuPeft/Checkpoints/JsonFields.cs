using System.Text.Json;

namespace IlgpuPeft.Checkpoints;

/// <summary>Typed access to the keys of one JSON object from a file; a value of the wrong kind is reported with file, key, expected and found.</summary>
/// <param name="json">The object.</param>
/// <param name="file">Path of the file, for messages.</param>
/// <param name="place">Where in the file, for messages: a tensor or a section; null for the whole file.</param>
sealed class JsonFields(JsonElement json, string file, string? place = null)
{
    public IEnumerable<string> Names => json.EnumerateObject().Select(property => property.Name);

    /// <summary>The value of <paramref name="key"/>, or null where it is absent or JSON null.</summary>
    public JsonElement? Find(string key) =>
        json.TryGetProperty(key, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;

    public bool Bool(string key, bool absent) => Find(key) is not { } value ? absent
        : value.ValueKind is JsonValueKind.True or JsonValueKind.False ? value.GetBoolean() : throw Wrong(key, value, "true or false");

    public int Int(string key, int absent) => Find(key) is { } value ? AsInt(key, value) : absent;

    public double Number(string key, double absent) => Find(key) is { } value ? AsNumber(key, value) : absent;

    public string? String(string key) => Find(key) is { } value ? AsString(key, value) : null;

    public List<string>? Strings(string key) => Find(key) is { } value ? AsList(key, value, "a list of strings", AsString) : null;

    /// <summary>A list of integers; a single integer counts as a list of one.</summary>
    public List<int>? Ints(string key) => Find(key) is not { } value ? null
        : value.ValueKind == JsonValueKind.Number ? [AsInt(key, value)] : AsList(key, value, "a list of integers", AsInt);

    /// <summary>An object of numbers, empty where it is absent.</summary>
    public Dictionary<string, double> Numbers(string key)
    {
        if (Find(key) is not { } value)
        {
            return [];
        }

        return value.ValueKind == JsonValueKind.Object
            ? value.EnumerateObject().ToDictionary(property => property.Name, property => AsNumber($"{key}.{property.Name}", property.Value))
            : throw Wrong(key, value, "an object of numbers");
    }

    public CheckpointException Wrong(string key, JsonElement value, string expected)
    {
        string text = value.GetRawText();
        return new CheckpointException(file, place, $"{key} is {(text.Length > 80 ? text[..80] + "..." : text)}, expected {expected}.");
    }

    List<T> AsList<T>(string key, JsonElement value, string expected, Func<string, JsonElement, T> element) =>
        value.ValueKind == JsonValueKind.Array ? [.. value.EnumerateArray().Select(item => element(key, item))] : throw Wrong(key, value, expected);

    int AsInt(string key, JsonElement value) =>
        value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int number) ? number : throw Wrong(key, value, "a 32-bit integer");

    double AsNumber(string key, JsonElement value) =>
        value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out double number) && double.IsFinite(number) ? number : throw Wrong(key, value, "a finite number");

    string AsString(string key, JsonElement value) =>
        value.ValueKind == JsonValueKind.String ? value.GetString()! : throw Wrong(key, value, "a string");
}
