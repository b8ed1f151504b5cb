using System.Globalization;
using System.Text.Encodings.Web;
using System.Text.Json;
using IlgpuPeft.Data;

namespace IlgpuPeft.Rewards;

/// <summary>The options of one rule as a configuration file has them, read by kind.</summary>
/// <param name="rule">Its name, for messages.</param>
/// <param name="values">What was given.</param>
sealed class RuleOptions(string rule, IReadOnlyDictionary<string, string> values)
{
    public const string LabelName = "label";

    static readonly JsonSerializerOptions Readable = new() { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    const string DefaultField = "answer";

    /// <summary>What metrics and messages call the reward.</summary>
    public string Label => Text(LabelName) ?? rule;

    /// <summary>The rule and all that it was given.</summary>
    public string Description => $"{rule} {JsonSerializer.Serialize(new SortedDictionary<string, string>(values.ToDictionary(), StringComparer.Ordinal), Readable)}";

    public string? Text(string name) => values.GetValueOrDefault(name);

    public bool Flag(string name) => Text(name) is { } text && (bool.TryParse(text, out bool value) ? value : throw Bad(name, "true or false"));

    /// <summary>A count of at least 1.</summary>
    public int? Count(string name) => Text(name) is not { } text ? null
        : int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int value) && value >= 1 ? value : throw Bad(name, "a whole number of at least 1");

    /// <summary>One of several words, of which the first is the default.</summary>
    public string Choice(string name, params string[] words) => Text(name) is not { } text ? words[0] : words.Contains(text) ? text : throw Bad(name, string.Join(" or ", words));

    public StringComparison Comparison => Flag("ignore_case") ? StringComparison.OrdinalIgnoreCase : StringComparison.Ordinal;

    string FieldName => Text("field") ?? DefaultField;

    /// <summary>What answers are compared with: the field of a prompt's row that the option <c>field</c> names.</summary>
    public Func<Prompt, string> Field()
    {
        string name = FieldName;
        return prompt => prompt.Fields.TryGetValue(name, out string? value) ? value
            : throw new ArgumentException($"{prompt.File}:{prompt.Line}: reward {Label} needs the field {name}, and the row has {(prompt.Fields.Count == 0 ? "none" : string.Join(", ", prompt.Fields.Keys))}. Add it to the data, or name another with the option field.");
    }

    /// <summary>The same, or the option <c>text</c>, whichever is given; not empty.</summary>
    public Func<Prompt, string> TextOrField()
    {
        if (Text("text") is not { } text)
        {
            var field = Field();
            return prompt => field(prompt) is { Length: > 0 } value ? value
                : throw new ArgumentException($"{prompt.File}:{prompt.Line}: the field {FieldName} is empty, which every answer contains, so the reward {Label} would pay for any. Correct the row, or name another with the option field.");
        }

        Require(Text("field") is null, "both text and field are given, expected one of them");
        Require(text.Length > 0, "text is empty, and every answer contains that");
        return _ => text;
    }

    public void Require(bool holds, string problem)
    {
        if (!holds)
        {
            throw new ArgumentException($"reward {Label}: {problem}.");
        }
    }

    ArgumentException Bad(string name, string expected) => new($"reward {Label}: {name} is \"{values[name]}\", expected {expected}.");
}
