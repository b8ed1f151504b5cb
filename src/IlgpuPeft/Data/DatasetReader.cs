using System.Text;
using System.Text.Json;

namespace IlgpuPeft.Data;

/// <summary>Reads the rows of JSON, JSONL and CSV files. Every error names file and line.</summary>
public static class DatasetReader
{
    // A byte sequence that is not UTF-8 is an error: quietly replaced characters would be trained on.
    static readonly UTF8Encoding Utf8 = new(false, throwOnInvalidBytes: true);

    /// <summary>The rows of a source's file, in file order.</summary>
    /// <exception cref="FileNotFoundException">There is no such file; says so if the path looks like a Hugging Face dataset.</exception>
    /// <exception cref="InvalidDataException">The file's format is not supported, or its contents are not in that format.</exception>
    public static IEnumerable<DataRow> Read(DatasetSource source)
    {
        string path = source.Path;
        if (!File.Exists(path))
        {
            throw Absent(path);
        }

        return (source.FileType ?? TypeOf(path)) switch
        {
            DataFileType.Csv => ReadCsv(path),
            _ => StartsWithBracket(path) ? ReadJsonArray(path) : ReadJsonLines(path),
        };
    }

    static DataFileType TypeOf(string path) => Path.GetExtension(path).ToLowerInvariant() switch
    {
        ".json" or ".jsonl" or ".ndjson" => DataFileType.Json,
        ".csv" => DataFileType.Csv,
        ".parquet" or ".arrow" => throw new InvalidDataException(
            $"{path}: Parquet and Arrow files are not supported, expected JSON, JSONL or CSV. Convert it, for example with datasets' to_json()."),
        var extension => throw new InvalidDataException(
            $"{path}: cannot tell the format from \"{extension}\", expected .json, .jsonl or .csv. Set ds_type: json or ds_type: csv for this dataset."),
    };

    static FileNotFoundException Absent(string path)
    {
        if (Directory.Exists(path))
        {
            return new FileNotFoundException($"{path}: is a folder, expected a data file. Name the .json, .jsonl or .csv file in it.", path);
        }

        return new FileNotFoundException(HubName.Matches(path)
            ? $"{path}: there is no such file. If it is a dataset on the Hugging Face Hub: datasets are not downloaded; save it as JSONL and give the path of that file."
            : $"{path}: there is no such file. Relative paths start at the folder of the configuration file.", path);
    }

    static bool StartsWithBracket(string path)
    {
        using var stream = File.OpenRead(path);
        Span<byte> start = stackalloc byte[256];
        var text = start[..stream.ReadAtLeast(start, start.Length, throwOnEndOfStream: false)];
        text = text.StartsWith(Utf8Mark) ? text[Utf8Mark.Length..] : text;
        text = text.TrimStart(" \t\r\n"u8);
        return text is [(byte)'[', ..];
    }

    static ReadOnlySpan<byte> Utf8Mark => [0xEF, 0xBB, 0xBF];

    static IEnumerable<DataRow> ReadJsonLines(string path)
    {
        int line = 0;
        foreach (string text in Lines(path))
        {
            line++;
            if (!string.IsNullOrWhiteSpace(text))
            {
                yield return new DataRow(path, line, ParseObject(text, path, line));
            }
        }
    }

    static JsonElement ParseObject(string text, string path, int line)
    {
        try
        {
            var row = JsonElement.Parse(text);
            return row.ValueKind == JsonValueKind.Object
                ? row
                : throw new InvalidDataException($"{path}:{line}: the line holds a JSON {row.ValueKind.ToString().ToLowerInvariant()}, expected an object such as {{\"text\": \"...\"}}.");
        }
        catch (JsonException cause)
        {
            throw new InvalidDataException($"{path}:{line}: the line is not a JSON object (character {cause.BytePositionInLine + 1}). " +
                "A .jsonl file has one whole object on every line; write an array in [ ] to spread objects over lines.", cause);
        }
    }

    static List<DataRow> ReadJsonArray(string path)
    {
        byte[] bytes = File.ReadAllBytes(path);
        var json = bytes.AsSpan();
        json = json.StartsWith(Utf8Mark) ? json[Utf8Mark.Length..] : json;
        var rows = new List<DataRow>();
        int line = 1, counted = 0;
        try
        {
            var reader = new Utf8JsonReader(json);
            reader.Read();
            while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
            {
                int start = (int)reader.TokenStartIndex;
                line += json[counted..start].Count((byte)'\n');
                counted = start;
                rows.Add(reader.TokenType == JsonTokenType.StartObject
                    ? new DataRow(path, line, JsonElement.ParseValue(ref reader))
                    : throw new InvalidDataException($"{path}:{line}: the array holds a {reader.TokenType.ToString().ToLowerInvariant()}, expected objects."));
            }

            reader.Read(); // anything after the closing bracket is an error
            return rows;
        }
        catch (JsonException cause)
        {
            throw new InvalidDataException($"{path}:{cause.LineNumber + 1}: not valid JSON at character {cause.BytePositionInLine + 1}. " +
                "Repair the file there; it starts with [, so it is read as one array of objects.", cause);
        }
    }

    static IEnumerable<DataRow> ReadCsv(string path)
    {
        using var text = new StreamReader(path, Utf8);
        List<(int Line, List<string> Fields)> records;
        try
        {
            records = [.. CsvReader.Read(text, path)];
        }
        catch (DecoderFallbackException cause)
        {
            throw NotUtf8($"{path}", cause);
        }

        List<string>? header = null;
        foreach (var (line, fields) in records)
        {
            if (header is null)
            {
                header = fields;
                if (header.Distinct().Count() != header.Count)
                {
                    throw new InvalidDataException($"{path}:{line}: two columns have the same name. The first row must name each column once.");
                }

                continue;
            }

            if (fields.Count != header.Count)
            {
                throw new InvalidDataException($"{path}:{line}: the row has {fields.Count} fields, expected {header.Count} as in the header. Put fields with commas in quotes.");
            }

            var row = header.Zip(fields).ToDictionary(pair => pair.First, pair => pair.Second);
            yield return new DataRow(path, line, JsonSerializer.SerializeToElement(row));
        }
    }

    static IEnumerable<string> Lines(string path)
    {
        using var reader = new StreamReader(path, Utf8);
        for (int line = 1; ; line++)
        {
            string? text;
            try
            {
                text = reader.ReadLine();
            }
            catch (DecoderFallbackException cause) // decoded in blocks: the bad bytes are here or a little later
            {
                throw NotUtf8($"{path}:{line} or later", cause);
            }

            if (text is null)
            {
                yield break;
            }

            yield return text;
        }
    }

    static InvalidDataException NotUtf8(string where, DecoderFallbackException cause) =>
        new($"{where}: there are bytes that are not UTF-8 text. Save the file as UTF-8.", cause);
}
