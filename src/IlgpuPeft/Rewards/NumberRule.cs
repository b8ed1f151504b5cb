using System.Globalization;
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

        string[] parts = [.. match.Groups["digits"].Value.Replace(",", "").Split('.'), ""];
        var exponent = match.Groups["exponent"];
        (string whole, string fraction) = Shift(parts[0], parts[1], exponent.Success ? int.Parse(exponent.Value.Replace('−', '-'), NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) : 0);
        (whole, fraction) = (whole.TrimStart('0'), fraction.TrimEnd('0'));
        string magnitude = (whole.Length > 0 ? whole : "0") + (fraction.Length > 0 ? "." + fraction : "");
        return match.Groups["minus"].Success && magnitude != "0" ? "-" + magnitude : magnitude;
    }

    // The point of a number, moved to the right.
    static (string Whole, string Fraction) Shift(string whole, string fraction, int places)
    {
        string digits = whole + fraction;
        int point = whole.Length + places;
        return point <= 0 ? ("", new string('0', -point) + digits) : point >= digits.Length ? (digits + new string('0', point - digits.Length), "") : (digits[..point], digits[point..]);
    }

    // A hyphen after a digit is a subtraction or a range. Commas count where they part thousands. A point after a word or another point ends a sentence. An exponent has at most three digits,
    // so that a number in full stays short, and nothing of a word after it.
    [GeneratedRegex(@"(?:(?<![0-9])(?<minus>[-−]))?(?<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)(?:[eE](?<exponent>[-−+]?[0-9]{1,3})(?!\w))?", RegexOptions.CultureInvariant)]
    private static partial Regex Number();
}
