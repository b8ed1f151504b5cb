using System.Globalization;
using System.Text.Json;

namespace IlgpuPeft.Data;

/// <summary>One row of a data file: named fields, and the place to name when one of them is wrong.</summary>
/// <param name="file">The data file.</param>
/// <param name="line">Line where the row starts, from 1.</param>
/// <param name="fields">A JSON object.</param>
/// <param name="hints">What to do about a field that is not there; null for <see cref="DatasetHints.Code"/>.</param>
public sealed class DataRow(string file, int line, JsonElement fields, DatasetHints? hints = null)
{
    /// <summary>The data file.</summary>
    public string File => file;

    /// <summary>Line where the row starts, from 1.</summary>
    public int Line => line;

    /// <summary>Whether a field is there and not null.</summary>
    public bool Has(string name) => Find(name, out _);

    /// <summary>The text of a field that must be there.</summary>
    /// <exception cref="InvalidDataException">The field is absent, null or not text.</exception>
    public string Text(string name) => OptionalText(name) ?? throw Missing(name);

    /// <summary>The text of a field, or null where it is absent or null.</summary>
    /// <exception cref="InvalidDataException">The field is not text.</exception>
    public string? OptionalText(string name)
    {
        if (!Find(name, out var value))
        {
            return null;
        }

        if (value.ValueKind != JsonValueKind.String)
        {
            throw Problem($"field \"{name}\" is {Describe(value)}, expected text. Put the value in quotes. {Hints.Field}");
        }

        try
        {
            return value.GetString();
        }
        catch (InvalidOperationException) // an escape such as \ud800 that is half of a character
        {
            throw Problem($"field \"{name}\" is not valid Unicode: it holds half of a surrogate pair. Repair or remove the row.");
        }
    }

    /// <summary>The whole numbers of a list that must be there.</summary>
    /// <exception cref="InvalidDataException">The field is absent, or not a list of 32-bit whole numbers.</exception>
    public int[] Integers(string name) => OptionalIntegers(name) ?? throw Missing(name);

    /// <summary>The whole numbers of a list, or null where the field is absent or null.</summary>
    /// <exception cref="InvalidDataException">The field is not a list of 32-bit whole numbers.</exception>
    public int[]? OptionalIntegers(string name)
    {
        if (!Find(name, out var list))
        {
            return null;
        }

        if (list.ValueKind != JsonValueKind.Array)
        {
            throw Problem($"field \"{name}\" is {Describe(list)}, expected a list of token numbers such as [1, 15, 2].");
        }

        int[] numbers = new int[list.GetArrayLength()];
        int i = 0;
        foreach (var item in list.EnumerateArray())
        {
            if (item.ValueKind != JsonValueKind.Number || !item.TryGetInt32(out numbers[i]))
            {
                throw Problem($"field \"{name}\" holds {Describe(item)} at index {i}, expected a whole number. Write token ids, not text.");
            }

            i++;
        }

        return numbers;
    }

    /// <summary>A number, or null where the field is absent or null. Its text counts as the number: CSV files know nothing else.</summary>
    /// <exception cref="InvalidDataException">The field is not a finite number.</exception>
    public double? OptionalNumber(string name)
    {
        if (!Find(name, out var value))
        {
            return null;
        }

        string? text = value.ValueKind switch { JsonValueKind.Number => value.GetRawText(), JsonValueKind.String => Text(name), _ => null };
        return double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double number) && double.IsFinite(number)
            ? number
            : throw Problem($"field \"{name}\" is {Describe(value)}, expected a finite number.");
    }

    /// <summary>Yes or no, in a field that must be there: true or false, 1 or 0, or their texts.</summary>
    /// <exception cref="InvalidDataException">The field is absent, or something else.</exception>
    public bool Boolean(string name)
    {
        if (!Find(name, out var value))
        {
            throw Missing(name);
        }

        string text = value.ValueKind == JsonValueKind.String ? Text(name) : value.GetRawText();
        return text switch
        {
            "true" or "True" or "1" => true,
            "false" or "False" or "0" => false,
            _ => throw Problem($"field \"{name}\" is {Describe(value)}, expected true or false."),
        };
    }

    /// <summary>Whether a field is text.</summary>
    public bool HasText(string name) => Find(name, out var value) && value.ValueKind == JsonValueKind.String;

    /// <summary>Whether a field is a list.</summary>
    public bool HasList(string name) => Find(name, out var value) && value.ValueKind == JsonValueKind.Array;

    /// <summary>The fields that hold text, a number, true or false, as text by their names.</summary>
    /// <exception cref="InvalidDataException">A text is not valid Unicode.</exception>
    public Dictionary<string, string> Scalars()
    {
        var texts = new Dictionary<string, string>(StringComparer.Ordinal);
        try
        {
            foreach (var field in fields.EnumerateObject())
            {
                if (field.Value.ValueKind is JsonValueKind.String or JsonValueKind.Number or JsonValueKind.True or JsonValueKind.False)
                {
                    texts[field.Name] = field.Value.ValueKind == JsonValueKind.String ? field.Value.GetString()! : field.Value.GetRawText();
                }
            }
        }
        catch (InvalidOperationException)
        {
            throw Problem("a field's name or text is not valid Unicode: it holds half of a surrogate pair. Repair or remove the row.");
        }

        return texts;
    }

    /// <summary>The objects of a list that must be there, each as a row at the same place; one object counts as a list of one.</summary>
    /// <exception cref="InvalidDataException">The field is absent, or not a list of objects.</exception>
    public IReadOnlyList<DataRow> Rows(string name)
    {
        if (!Find(name, out var list))
        {
            throw Missing(name);
        }

        if (list.ValueKind == JsonValueKind.Object)
        {
            return [new DataRow(file, line, list, hints)];
        }

        return list.ValueKind == JsonValueKind.Array && list.EnumerateArray().All(item => item.ValueKind == JsonValueKind.Object)
            ? [.. list.EnumerateArray().Select(item => new DataRow(file, line, item, hints))]
            : throw Problem($"field \"{name}\" is {Describe(list)}, expected a list of objects such as [{{\"role\": \"user\", \"content\": \"...\"}}].");
    }

    /// <summary>An error in this row: <c>file:line: what is wrong.</c></summary>
    public InvalidDataException Problem(string message) => new($"{file}:{line}: {message}");

    DatasetHints Hints => hints ?? DatasetHints.Code;

    InvalidDataException Missing(string name) => Problem(fields.TryGetProperty(name, out _)
        ? $"field \"{name}\" is null, expected a value. Complete or remove the row."
        : $"there is no field \"{name}\"; the row has {Names()}. {Hints.Field}");

    bool Find(string name, out JsonElement value)
    {
        try
        {
            return fields.TryGetProperty(name, out value) && value.ValueKind != JsonValueKind.Null;
        }
        catch (InvalidOperationException)
        {
            throw Problem("a field's name is not valid Unicode: it holds half of a surrogate pair. Repair or remove the row.");
        }
    }

    string Names()
    {
        string names = string.Join(", ", fields.EnumerateObject().Take(12).Select(field => field.Name));
        return names.Length == 0 ? "no fields" : names;
    }

    static string Describe(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.String => "text",
        JsonValueKind.Number => "a number",
        JsonValueKind.True or JsonValueKind.False => "true or false",
        JsonValueKind.Array => "a list",
        JsonValueKind.Object => "an object",
        _ => "null",
    };
}
