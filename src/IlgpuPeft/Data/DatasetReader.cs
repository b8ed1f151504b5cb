using System.Text;
using System.Text.Json;

namespace IlgpuPeft.Data;

/// <summary>Reads the rows of JSON, JSONL and CSV files. Every error names file and line.</summary>
public static class DatasetReader
{
    // A byte sequence that is not UTF-8 is an error: quietly replaced characters would be trained on.
    static readonly UTF8Encoding Utf8 = new(false, throwOnInvalidBytes: true);

    /// <summary>The rows of a source's file, in file order.</summary>
    /// <param name="source">The file.</param>
    /// <param name="cancel">Stops between two rows.</param>
    /// <exception cref="FileNotFoundException">There is no such file; says so if the path looks like a Hugging Face dataset.</exception>
    /// <exception cref="InvalidDataException">The file's format is not supported, or its contents are not in that format.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancel"/> asked for it.</exception>
    public static IEnumerable<DataRow> Read(DatasetSource source, CancellationToken cancel = default)
    {
        string path = source.Path;
        if (!File.Exists(path))
        {
            throw Absent(path, source.Hints.Path);
        }

        var rows = (source.FileType ?? TypeOf(path, source.Hints.Format)) switch
        {
            DataFileType.Csv => ReadCsv(path, source.Hints, cancel),
            _ => StartsWithBracket(path) ? ReadJsonArray(path, source.Hints, cancel) : ReadJsonLines(path, source.Hints),
        };
        return Until(rows, cancel);
    }

    // What is done with a row, such as tokenising it, takes longer than reading it.
    static IEnumerable<DataRow> Until(IEnumerable<DataRow> rows, CancellationToken cancel)
    {
        foreach (var row in rows)
        {
            cancel.ThrowIfCancellationRequested();
            yield return row;
        }
    }

    static DataFileType TypeOf(string path, string hint) => Path.GetExtension(path).ToLowerInvariant() switch
    {
        ".json" or ".jsonl" or ".ndjson" => DataFileType.Json,
        ".csv" => DataFileType.Csv,
        ".parquet" or ".arrow" => throw new InvalidDataException(
            $"{path}: Parquet and Arrow files are not supported, expected JSON, JSONL or CSV. Convert it, for example with datasets' to_json()."),
        var extension => throw new InvalidDataException(
            $"{path}: cannot tell the format from \"{extension}\", expected .json, .jsonl or .csv. {hint}"),
    };

    static FileNotFoundException Absent(string path, string hint)
    {
        if (Directory.Exists(path))
        {
            return new FileNotFoundException($"{path}: is a folder, expected a data file. Name the .json, .jsonl or .csv file in it.", path);
        }

        return new FileNotFoundException(HubName.Matches(path)
            ? $"{path}: there is no such file. If it is a dataset on the Hugging Face Hub: datasets are not downloaded; save it as JSONL and give the path of that file."
            : $"{path}: there is no such file. {hint}", path);
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

    static IEnumerable<DataRow> ReadJsonLines(string path, DatasetHints hints)
    {
        int line = 0;
        foreach (string text in Lines(path))
        {
            line++;
            if (!string.IsNullOrWhiteSpace(text))
            {
                yield return new DataRow(path, line, ParseObject(text, path, line), hints);
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

    static List<DataRow> ReadJsonArray(string path, DatasetHints hints, CancellationToken cancel)
    {
        byte[] bytes = File.ReadAllBytes(path);
        var json = bytes.AsSpan();
        json = json.StartsWith(Utf8Mark) ? json[Utf8Mark.Length..] : json;
        RequireUtf8(json, path);
        var rows = new List<DataRow>();
        int line = 1, counted = 0;
        try
        {
            var reader = new Utf8JsonReader(json);
            reader.Read();
            while (reader.Read() && reader.TokenType != JsonTokenType.EndArray)
            {
                cancel.ThrowIfCancellationRequested();
                int start = (int)reader.TokenStartIndex;
                line += json[counted..start].Count((byte)'\n');
                counted = start;
                rows.Add(reader.TokenType == JsonTokenType.StartObject
                    ? new DataRow(path, line, JsonElement.ParseValue(ref reader), hints)
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

    static IEnumerable<DataRow> ReadCsv(string path, DatasetHints hints, CancellationToken cancel)
    {
        using var text = new StreamReader(path, Utf8);
        List<(int Line, List<string> Fields)> records = [];
        try
        {
            foreach (var record in CsvReader.Read(text, path))
            {
                cancel.ThrowIfCancellationRequested();
                records.Add(record);
            }
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
            yield return new DataRow(path, line, JsonSerializer.SerializeToElement(row), hints);
        }
    }

    // The JSON reader looks at the bytes of a text only when the text is asked for, and then cannot say what is wrong with them.
    static void RequireUtf8(ReadOnlySpan<byte> text, string path)
    {
        try
        {
            Utf8.GetCharCount(text);
        }
        catch (DecoderFallbackException cause)
        {
            throw NotUtf8($"{path}:{1 + text[..cause.Index].Count((byte)'\n')}", cause);
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
