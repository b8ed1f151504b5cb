using System.Text.Json;

namespace IlgpuPeft.Models;

/// <summary>Typed access to the fields of a <c>config.json</c>, whose errors name the file and the field.</summary>
sealed class ConfigFields(string path, JsonElement root, string prefix = "")
{
    // Larger than any published model, and small enough that products of two fit in 64 bits.
    public const int Largest = 1 << 24;

    readonly JsonElement root = root.ValueKind == JsonValueKind.Object ? root
        : throw new InvalidDataException($"{path}: expected a JSON object{(prefix.Length == 0 ? "" : $" at {prefix.TrimEnd('.')}")}, got {root.ValueKind}.");

    public bool Has(string name) => Find(name) is not null;

    /// <summary>Whether the field is there and says null, where that differs from being absent.</summary>
    public bool IsNull(string name) => root.TryGetProperty(name, out var value) && value.ValueKind == JsonValueKind.Null;

    public ConfigFields? Section(string name) => Find(name) is { } value ? new ConfigFields(path, value, prefix + name + ".") : null;

    public string Text(string name) => Find(name) is { } value ? AsText(name, value) : throw Missing(name);

    public string Text(string name, string fallback) => Find(name) is { } value ? AsText(name, value) : fallback;

    public List<string> Texts(string name) =>
        Find(name) is { ValueKind: JsonValueKind.Array } list ? [.. list.EnumerateArray().Select(item => AsText(name, item))] : [];

    public int Positive(string name) => Find(name) is null ? throw Missing(name) : Positive(name, 1);

    public int Positive(string name, int fallback)
    {
        int value = Whole(name, fallback);
        return value is > 0 and <= Largest ? value : throw Wrong(name, $"expected a number from 1 to {Largest}, got {value}");
    }

    public int Whole(string name, int fallback)
    {
        if (Find(name) is not { } value)
        {
            return fallback;
        }

        return value.ValueKind == JsonValueKind.Number && value.TryGetInt32(out int number) ? number : throw Wrong(name, $"expected a whole number, got {value.GetRawText()}");
    }

    public double Number(string name) => Find(name) is null ? throw Missing(name) : Number(name, 0);

    public double Number(string name, double fallback)
    {
        if (Find(name) is not { } value)
        {
            return fallback;
        }

        return value.ValueKind == JsonValueKind.Number && value.TryGetDouble(out double number) && double.IsFinite(number) && number > 0
            ? number : throw Wrong(name, $"expected a positive number, got {value.GetRawText()}");
    }

    public bool Flag(string name, bool fallback) => Find(name) switch
    {
        null => fallback,
        { ValueKind: JsonValueKind.True } => true,
        { ValueKind: JsonValueKind.False } => false,
        { } value => throw Wrong(name, $"expected true or false, got {value.GetRawText()}"),
    };

    /// <summary>One token id or a list of them; Hugging Face writes both.</summary>
    public List<int> TokenIds(string name)
    {
        if (Find(name) is not { } value)
        {
            return [];
        }

        List<JsonElement> items = value.ValueKind == JsonValueKind.Array ? [.. value.EnumerateArray()] : [value];
        return [.. items.Select(item => item.ValueKind == JsonValueKind.Number && item.TryGetInt32(out int id) ? id : throw Wrong(name, $"expected token ids, got {value.GetRawText()}"))];
    }

    public void Require(string name, string supported)
    {
        string value = Text(name, supported);
        if (value != supported)
        {
            throw Unsupported(name, value, supported);
        }
    }

    public void RequireAbsentOr(string name, double supported)
    {
        double value = Number(name, supported);
        if (value != supported)
        {
            throw Unsupported(name, value.ToString(), supported.ToString());
        }
    }

    public InvalidDataException Wrong(string name, string problem) => new($"{path}: {prefix}{name}: {problem}.");

    public InvalidDataException Unsupported(string name, string value, string supported) =>
        new($"{path}: {prefix}{name}: '{value}' is not supported, expected one of: {supported}. This model needs a feature that this version lacks.");

    InvalidDataException Missing(string name) => Wrong(name, "the field is missing, and it has no default");

    string AsText(string name, JsonElement value) => value.ValueKind == JsonValueKind.String ? value.GetString()! : throw Wrong(name, $"expected text, got {value.GetRawText()}");

    JsonElement? Find(string name) => root.TryGetProperty(name, out var value) && value.ValueKind != JsonValueKind.Null ? value : null;
}
