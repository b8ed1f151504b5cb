using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace IlgpuPeft.Config;

/// <summary>Writes a configuration as YAML: every key that the run reads, with its effective value, so that a run's folder says what was run.</summary>
public static partial class ConfigWriter
{
    /// <summary>YAML that <see cref="ConfigReader"/> reads back as the same configuration.</summary>
    public static string ToYaml(RunConfig config)
    {
        var text = new StringBuilder();
        Group(text, [.. RunKeys.Table.Write(config).Where(pair => UnreadKeys.Reason(config, pair.Key) is null)], "");
        return text.ToString();
    }

    static void Group(StringBuilder text, IReadOnlyList<KeyValuePair<string, object>> pairs, string indent)
    {
        string lead = indent;
        foreach (var (name, value) in pairs)
        {
            text.Append(lead).Append(name).Append(':');
            Value(text, value, indent + "  ");
            lead = indent;
        }
    }

    static void Value(StringBuilder text, object value, string indent)
    {
        switch (value)
        {
            case IReadOnlyList<KeyValuePair<string, object>> pairs:
                text.Append('\n');
                Group(text, pairs, indent);
                break;
            case IReadOnlyList<object?> items:
                text.Append('\n');
                foreach (object? item in items)
                {
                    int dash = text.Length;
                    if (item is IReadOnlyList<KeyValuePair<string, object>> inner)
                    {
                        Group(text, inner, indent + "  ");
                        text.Remove(dash, indent.Length + 2).Insert(dash, indent + "- ");
                    }
                    else
                    {
                        text.Append(indent).Append('-');
                        Value(text, item!, indent);
                    }
                }

                break;
            default:
                text.Append(' ').Append(Scalar(value)).Append('\n');
                break;
        }
    }

    static string Scalar(object value) => value switch
    {
        bool flag => flag ? "true" : "false",
        string words => PlainWord().IsMatch(words) ? words : Quoted(words),
        double number => number.ToString("R", CultureInfo.InvariantCulture),
        IFormattable number => number.ToString(null, CultureInfo.InvariantCulture),
        _ => throw new ArgumentException($"ConfigWriter: no YAML form for {value.GetType().Name}.", nameof(value)),
    };

    // Words that no YAML reader takes for a number, a flag or null.
    [GeneratedRegex("^(?!(true|false|yes|no|on|off|null|y|n)$)[A-Za-z/][A-Za-z0-9_/.-]*$", RegexOptions.IgnoreCase)]
    private static partial Regex PlainWord();

    static string Quoted(string words)
    {
        var text = new StringBuilder("\"");
        foreach (char c in words)
        {
            _ = c is '"' or '\\' ? text.Append('\\').Append(c)
                : char.IsControl(c) || c is '\u2028' or '\u2029' or '\uFEFF' ? text.Append($"\\u{(int)c:X4}")
                : text.Append(c);
        }

        return text.Append('"').ToString();
    }
}
