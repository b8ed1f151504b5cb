using System.Text;

namespace IlgpuPeft.Data;

/// <summary>
/// Reads comma-separated values (RFC 4180): fields in double quotes may hold commas, line ends and doubled quotes. Lines end in LF, CRLF or CR.
/// </summary>
static class CsvReader
{
    /// <summary>The records of <paramref name="text"/>, each with the line it starts on, from 1. Empty lines are skipped.</summary>
    /// <param name="text">What to read.</param>
    /// <param name="file">Its name, for messages.</param>
    /// <exception cref="InvalidDataException">A quote that is not closed, or that stands inside an unquoted field.</exception>
    public static IEnumerable<(int Line, List<string> Fields)> Read(TextReader text, string file)
    {
        int line = 1;
        while (text.Peek() >= 0)
        {
            int start = line;
            List<string> fields = [];
            while (true)
            {
                bool quoted = text.Peek() == '"';
                fields.Add(quoted ? Quoted(text, file, ref line) : Plain(text, file, line));
                int end = text.Read();
                if (end == '\r' && text.Peek() == '\n')
                {
                    end = text.Read();
                }

                if (end == ',')
                {
                    continue;
                }

                if (end is not ('\r' or '\n' or -1))
                {
                    throw new InvalidDataException($"{file}:{line}: field {fields.Count} goes on after its closing quote. " +
                        "Double every quote inside a quoted field.");
                }

                line++;
                break;
            }

            if (fields is not [""])
            {
                yield return (start, fields);
            }
        }
    }

    static string Plain(TextReader text, string file, int line)
    {
        var field = new StringBuilder();
        while (text.Peek() is not (',' or '\r' or '\n' or -1))
        {
            char c = (char)text.Read();
            if (c == '"')
            {
                throw new InvalidDataException($"{file}:{line}: a quote stands inside an unquoted field. Put the whole field in quotes, and double the quotes inside.");
            }

            field.Append(c);
        }

        return field.ToString();
    }

    static string Quoted(TextReader text, string file, ref int line)
    {
        int start = line;
        var field = new StringBuilder();
        text.Read();
        while (true)
        {
            int c = text.Read();
            if (c < 0)
            {
                throw new InvalidDataException($"{file}:{start}: the quote that opens here is never closed. Add the closing quote.");
            }

            if (c == '"')
            {
                if (text.Peek() != '"')
                {
                    return field.ToString();
                }

                text.Read();
            }
            else if (c == '\n')
            {
                line++;
            }

            field.Append((char)c);
        }
    }
}
