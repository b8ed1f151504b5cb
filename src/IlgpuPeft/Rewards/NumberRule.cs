using System.Text.RegularExpressions;

namespace IlgpuPeft.Rewards;

/// <summary>The rule that compares numbers. Of any length and exactly: as digits, not as floating-point numbers.</summary>
static partial class NumberRule
{
    const string ResultMark = "####"; // GSM8K's

    public static Reward NumberMatch(RuleOptions options)
    {
        var field = options.Field();
        return Reward.OfText(options, sample => NumberIn(sample.Text) is { } number && number == NumberIn(field(sample.Prompt)) ? 1 : 0, prompt =>
        {
            string value = field(prompt);
            if (NumberIn(value) is null)
            {
                throw new ArgumentException($"{prompt.File}:{prompt.Line}: reward {options.Label} compares numbers, and \"{value}\" has none. Correct the row, or name another with the option field.");
            }
        });
    }

    /// <summary>The number that a text comes to, without needless zeros and commas; null if there is none.</summary>
    internal static string? NumberIn(string text)
    {
        int mark = text.LastIndexOf(ResultMark, StringComparison.Ordinal);
        var match = mark < 0 ? Number().Matches(text).LastOrDefault() : Number().Match(text, mark);
        if (match is not { Success: true })
        {
            return null;
        }

        string[] parts = match.Groups["digits"].Value.Replace(",", "").Split('.');
        string whole = parts[0].TrimStart('0'), fraction = parts.Length > 1 ? parts[1].TrimEnd('0') : "";
        string magnitude = (whole.Length > 0 ? whole : "0") + (fraction.Length > 0 ? "." + fraction : "");
        return match.Groups["minus"].Success && magnitude != "0" ? "-" + magnitude : magnitude;
    }

    // A hyphen after a digit is a subtraction or a range. Commas count where they part thousands.
    [GeneratedRegex(@"(?:(?<![0-9])(?<minus>[-−]))?(?<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?)", RegexOptions.CultureInvariant)]
    private static partial Regex Number();
}
