using System.Globalization;
using System.Text;
using System.Text.RegularExpressions;

namespace IlgpuPeft.Text;

/// <summary>The <c>pattern</c> of a tokenizer.json component: a literal string or a regular expression over code points.</summary>
/// <remarks>.NET matches UTF-16 units, so that <c>\p{L}</c> would miss every letter outside the Basic Multilingual Plane and <c>.</c> would split one.
/// Where a text has such code points each is replaced, for matching only, by one BMP character of the same general category.</remarks>
sealed class TextPattern
{
    // A pattern comes from a file; one with catastrophic backtracking must not hang the program. RegexMatchTimeoutException names it.
    static readonly TimeSpan Limit = TimeSpan.FromSeconds(30);

    // Constructs that .NET accepts with another meaning than Oniguruma (POSIX brackets, set intersection, set subtraction).
    static readonly string[] OtherMeaning = ["[[", "&&", "-["];

    readonly Regex regex;

    TextPattern(Regex regex) => this.regex = regex;

    /// <summary>Compiles a regular expression that the caller wrote.</summary>
    public static TextPattern Regex(string expression) => new(new Regex(expression, RegexOptions.Compiled | RegexOptions.CultureInvariant | RegexOptions.Multiline, Limit));

    /// <summary>Reads <c>{"String": ...}</c> or <c>{"Regex": ...}</c>.</summary>
    public static TextPattern Read(JsonPart part)
    {
        if (part.Optional("String") is JsonPart literal)
        {
            string text = literal.Text();
            return text.Length > 0 && !text.Any(char.IsSurrogate)
                ? Regex(System.Text.RegularExpressions.Regex.Escape(text))
                : throw literal.Unsupported($"the pattern \"{text}\"", "strings of at least one character, all of them below U+10000");
        }

        JsonPart expression = part["Regex"];
        string pattern = expression.Text();
        if (pattern.Any(char.IsSurrogate) || OtherMeaning.FirstOrDefault(pattern.Contains) is not null)
        {
            throw expression.Unsupported($"the regular expression {pattern}", $"those without {string.Join(", ", OtherMeaning)} and without characters above U+FFFF");
        }

        try
        {
            return Regex(pattern);
        }
        catch (ArgumentException e)
        {
            throw expression.Error($"the regular expression {pattern} does not compile: {e.Message}", e);
        }
    }

    /// <summary>The non-empty matches from left to right as ranges of UTF-16 units.</summary>
    public List<(int Start, int End)> Matches(ReadOnlySpan<char> text)
    {
        var matches = new List<(int, int)>();
        if (!text.ContainsAnyInRange('\uD800', '\uDFFF'))
        {
            foreach (ValueMatch match in regex.EnumerateMatches(text))
            {
                if (match.Length > 0)
                {
                    matches.Add((match.Index, match.Index + match.Length));
                }
            }

            return matches;
        }

        var standIns = new char[text.Length];
        var starts = new int[text.Length + 1]; // UTF-16 index in text of each stand-in
        int count = 0;
        int position = 0;
        while (position < text.Length)
        {
            Rune.DecodeFromUtf16(text[position..], out Rune rune, out int length); // U+FFFD for a lone surrogate, as it will be encoded
            starts[count] = position;
            standIns[count++] = rune.IsBmp ? (char)rune.Value : StandIn(Rune.GetUnicodeCategory(rune));
            position += length;
        }

        starts[count] = text.Length;
        foreach (ValueMatch match in regex.EnumerateMatches(standIns.AsSpan(0, count)))
        {
            if (match.Length > 0)
            {
                matches.Add((starts[match.Index], starts[match.Index + match.Length]));
            }
        }

        return matches;
    }

    /// <summary>The text with every match replaced by a literal.</summary>
    public string Replace(string text, string content)
    {
        List<(int Start, int End)> matches = Matches(text);
        if (matches.Count == 0)
        {
            return text;
        }

        var result = new StringBuilder(text.Length);
        int copied = 0;
        foreach ((int start, int end) in matches)
        {
            result.Append(text, copied, start - copied).Append(content);
            copied = end;
        }

        return result.Append(text, copied, text.Length - copied).ToString();
    }

    /// <summary>A character of the BMP with the given category, remote enough that no pattern names it.</summary>
    internal static char StandIn(UnicodeCategory category) => category switch
    {
        UnicodeCategory.UppercaseLetter => '\u03D2',
        UnicodeCategory.LowercaseLetter => '\u0138',
        UnicodeCategory.ModifierLetter => '\uA7F8',
        UnicodeCategory.OtherLetter => '\uA000',
        UnicodeCategory.NonSpacingMark => '\uA806',
        UnicodeCategory.SpacingCombiningMark => '\uA823',
        UnicodeCategory.EnclosingMark => '\u20DD',
        UnicodeCategory.DecimalDigitNumber => '\uA8D0',
        UnicodeCategory.LetterNumber => '\uA6E6',
        UnicodeCategory.OtherNumber => '\uA830',
        UnicodeCategory.DashPunctuation => '\uFE31',
        UnicodeCategory.OtherPunctuation => '\uA874',
        UnicodeCategory.MathSymbol => '\u29B5',
        UnicodeCategory.CurrencySymbol => '\uA838',
        UnicodeCategory.ModifierSymbol => '\uA700',
        UnicodeCategory.OtherSymbol => '\uA828',
        UnicodeCategory.Format => '\uFFF9',
        UnicodeCategory.PrivateUse => '\uE000',
        UnicodeCategory.OtherNotAssigned => '\uFFFE',
        _ => throw new ArgumentOutOfRangeException(nameof(category), category, "No code point above U+FFFF has this category."),
    };
}
