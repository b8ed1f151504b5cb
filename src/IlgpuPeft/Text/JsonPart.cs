using System.Text.Json;

namespace IlgpuPeft.Text;

/// <summary>A value inside a JSON file together with its path, so that every complaint says where: <c>tokenizer.json: model.merges[12]: ...</c>.</summary>
/// <param name="Element">The value.</param>
/// <param name="File">Full name of the file.</param>
/// <param name="Path">Names and indices from the root, empty at the root.</param>
readonly record struct JsonPart(JsonElement Element, string File, string Path)
{
    /// <summary>The string in <c>type</c>.</summary>
    public string Type => this["type"].Text();

    /// <summary>A property that must be there.</summary>
    public JsonPart this[string name] => Optional(name) ?? throw Error($"has no '{name}'");

    /// <summary>Reads a file whose root is an object.</summary>
    public static JsonPart Read(string file)
    {
        try
        {
            var root = new JsonPart(JsonElement.Parse(System.IO.File.ReadAllBytes(file)), file, "");
            return root.Expect(JsonValueKind.Object);
        }
        catch (JsonException e)
        {
            throw new InvalidDataException($"{file}: not JSON: {e.Message} Fetch the file again.", e);
        }
    }

    /// <summary>A property, or null where it is absent or null.</summary>
    public JsonPart? Optional(string name) => Expect(JsonValueKind.Object).Element.TryGetProperty(name, out JsonElement value) && value.ValueKind != JsonValueKind.Null
        ? new JsonPart(value, File, Path.Length == 0 ? name : $"{Path}.{name}")
        : null;

    /// <summary>The elements of an array.</summary>
    public IEnumerable<JsonPart> Items()
    {
        int index = 0;
        foreach (JsonElement item in Expect(JsonValueKind.Array).Element.EnumerateArray())
        {
            yield return new JsonPart(item, File, $"{Path}[{index++}]");
        }
    }

    /// <summary>The properties of an object, with a name that occurs twice as often as it occurs.</summary>
    public IEnumerable<(string Name, JsonPart Value)> Properties()
    {
        foreach (JsonProperty property in Expect(JsonValueKind.Object).Element.EnumerateObject())
        {
            yield return (Name(property), new JsonPart(property.Value, File, Path));
        }
    }

    /// <summary>The value as a string.</summary>
    public string Text()
    {
        try
        {
            return Expect(JsonValueKind.String).Element.GetString()!;
        }
        catch (InvalidOperationException e)
        {
            throw Error("the string is not valid Unicode", e);
        }
    }

    /// <summary>The value as a number from 0 to <paramref name="limit"/> - 1.</summary>
    public int Integer(int limit) => Expect(JsonValueKind.Number).Element.TryGetInt32(out int value) && value >= 0 && value < limit
        ? value
        : throw Error($"expected a whole number from 0 to {limit - 1}, found {Element.GetRawText()}");

    /// <summary>A property that is true or false.</summary>
    public bool Flag(string name, bool absent = false) => Optional(name) is not JsonPart part ? absent : part.Element.ValueKind switch
    {
        JsonValueKind.True => true,
        JsonValueKind.False => false,
        _ => throw part.Error($"expected true or false, found {part.Element.ValueKind}"),
    };

    /// <summary>An exception that begins with the place.</summary>
    public InvalidDataException Error(string problem, Exception? inner = null) => new($"{File}: {(Path.Length == 0 ? "" : $"{Path}: ")}{problem}.", inner);

    /// <summary>An exception for a component that exists in the format and not here.</summary>
    public InvalidDataException Unsupported(string what, string supported) => Error($"{what} is not supported; supported are {supported}");

    JsonPart Expect(JsonValueKind kind) => Element.ValueKind == kind ? this : throw Error($"expected {kind}, found {Element.ValueKind}");

    string Name(JsonProperty property)
    {
        try
        {
            return property.Name;
        }
        catch (InvalidOperationException e)
        {
            throw Error("a property name is not valid Unicode", e);
        }
    }
}
