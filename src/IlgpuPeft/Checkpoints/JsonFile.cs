using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Unicode;

namespace IlgpuPeft.Checkpoints;

/// <summary>Reads the small JSON files of checkpoint folders as hostile input, and writes them as Python's tools do.</summary>
static class JsonFile
{
    // Real ones are below 1 MB (the index of a 400-billion-parameter model has 0.1 MB); the limit bounds what a hostile file can allocate.
    const long MaxBytes = 64 << 20;

    // ASCII only, because Python readers open the file in the locale's encoding.
    static readonly JsonSerializerOptions Indented = new()
    {
        WriteIndented = true,
        IndentSize = 2,
        NewLine = "\n",
        Encoder = JavaScriptEncoder.Create(UnicodeRanges.BasicLatin),
    };

    static readonly JsonDocumentOptions Strict = new() { AllowDuplicateProperties = false };

    /// <summary>The file's top-level object; duplicate keys are refused.</summary>
    /// <exception cref="CheckpointException">The file is missing, larger than 64 MB, not JSON, or not an object.</exception>
    public static JsonElement ReadObject(string path)
    {
        if (!File.Exists(path))
        {
            throw new CheckpointException(path, null, "no such file.");
        }

        long length = new FileInfo(path).Length;
        if (length > MaxBytes)
        {
            throw new CheckpointException(path, null, $"has {length} bytes, expected at most {MaxBytes} in a JSON file of a checkpoint.");
        }

        return ParseObject(File.ReadAllBytes(path), path, null);
    }

    /// <summary>Parses UTF-8 <paramref name="json"/> that must be one object without duplicate keys.</summary>
    /// <exception cref="CheckpointException">It is not.</exception>
    public static JsonElement ParseObject(ReadOnlyMemory<byte> json, string file, string? tensor)
    {
        // The parser itself does not look at the encoding of strings until they are read.
        if (!Utf8.IsValid(json.Span))
        {
            throw new CheckpointException(file, tensor, "is not valid UTF-8, expected JSON. The file is damaged; fetch it again.");
        }

        try
        {
            using var document = JsonDocument.Parse(json, Strict);
            if (document.RootElement.ValueKind != JsonValueKind.Object)
            {
                throw new CheckpointException(file, tensor, $"holds a JSON {document.RootElement.ValueKind}, expected an object.");
            }

            CheckStrings(document.RootElement);
            return document.RootElement.Clone();
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException) // the latter: an escaped lone surrogate
        {
            throw new CheckpointException(file, tensor, $"is not valid JSON. {e.Message} The file is damaged; fetch it again.", e);
        }
    }

    /// <summary>Decodes every string once, so that what the parser reports only on access is reported here and nowhere else.</summary>
    static void CheckStrings(JsonElement element)
    {
        if (element.ValueKind == JsonValueKind.Object)
        {
            foreach (var property in element.EnumerateObject())
            {
                _ = property.Name;
                CheckStrings(property.Value);
            }
        }
        else if (element.ValueKind == JsonValueKind.Array)
        {
            foreach (var item in element.EnumerateArray())
            {
                CheckStrings(item);
            }
        }
        else if (element.ValueKind == JsonValueKind.String)
        {
            _ = element.GetString();
        }
    }

    /// <summary>The text of <paramref name="json"/> indented by two spaces, ASCII only, with a final newline.</summary>
    public static string ToText(JsonObject json) => json.ToJsonString(Indented) + "\n";
}
