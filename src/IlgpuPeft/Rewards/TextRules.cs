using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using IlgpuPeft.Data;

namespace IlgpuPeft.Rewards;

/// <summary>Rules that read an answer's text. <see cref="RewardRules"/> says what each computes.</summary>
static class TextRules
{
    // Of one match: a pattern that could backtrack for ever must not stop a run for ever.
    static readonly TimeSpan MatchLimit = TimeSpan.FromSeconds(1);

    public static Reward Contains(RuleOptions options) => Compare(options, options.TextOrField(), (text, part, comparison) => text.Contains(part, comparison));

    public static Reward StartsWith(RuleOptions options) => Compare(options, options.TextOrField(), (text, part, comparison) => text.TrimStart().StartsWith(part, comparison));

    public static Reward ExactMatch(RuleOptions options) => Compare(options, options.Field(), (text, whole, comparison) => text.AsSpan().Trim().Equals(whole.AsSpan().Trim(), comparison));

    public static Reward JsonValid(RuleOptions options)
    {
        JsonValueKind? root = options.Choice("root", "any", "object", "array") switch { "object" => JsonValueKind.Object, "array" => JsonValueKind.Array, _ => null };
        return Reward.OfText(options, sample => RootOf(sample.Text) is { } kind && (root ?? kind) == kind ? 1 : 0);
    }

    public static Reward Pattern(RuleOptions options)
    {
        options.Require(options.Text("pattern") is { Length: > 0 }, "no pattern is given, expected a regular expression");
        var regex = Compile(options.Label, options.Text("pattern")!);
        return Reward.OfText(options, sample =>
        {
            try
            {
                return regex.IsMatch(sample.Text) ? 1 : 0;
            }
            catch (RegexMatchTimeoutException cause)
            {
                throw new InvalidOperationException($"pattern {regex} takes more than {MatchLimit.TotalSeconds} s. Write it without nested repetition, or without looking around and back.", cause);
            }
        });
    }

    static Reward Compare(RuleOptions options, Func<Prompt, string> with, Func<string, string, StringComparison, bool> holds)
    {
        var comparison = options.Comparison;
        return Reward.OfText(options, sample => holds(sample.Text, with(sample.Prompt), comparison) ? 1 : 0, prompt => with(prompt));
    }

    // Without backtracking, time grows with the text alone, whatever the policy writes. A pattern that needs to look around or back gets the time limit instead.
    static Regex Compile(string label, string pattern)
    {
        try
        {
            return new Regex(pattern, RegexOptions.CultureInvariant | RegexOptions.NonBacktracking, MatchLimit);
        }
        catch (NotSupportedException)
        {
            return new Regex(pattern, RegexOptions.CultureInvariant, MatchLimit);
        }
        catch (RegexParseException cause)
        {
            throw new ArgumentException($"reward {label}: pattern is not a regular expression: {cause.Message}", cause);
        }
    }

    static JsonValueKind? RootOf(string text)
    {
        try
        {
            using var document = JsonDocument.Parse(Encoding.UTF8.GetBytes(text)); // half a surrogate pair becomes U+FFFD, as in decoded tokens
            return document.RootElement.ValueKind;
        }
        catch (JsonException)
        {
            return null;
        }
    }
}
