using IlgpuPeft.Text;

namespace IlgpuPeft.Rewards;

/// <summary>
/// The built-in rewards: rules that need no model, by the names and options of configuration files. All read <see cref="Sample.Text"/> or count <see cref="Sample.Response"/>, the
/// end-of-sequence token included. What is right earns 1 and what is not 0; penalties are negative; a weight scales and turns around.
/// </summary>
/// <remarks>
/// Every rule takes <c>label</c>, its name in metrics; the default is the rule's own.
/// <list type="table">
/// <item><term>contains</term><description>1 if <c>text</c>, or the row's <c>field</c> (answer), occurs in the answer; neither may be empty. <c>ignore_case</c> (false).</description></item>
/// <item><term>ended</term><description>1 if the policy ended the answer by itself.</description></item>
/// <item><term>exact-match</term><description>1 if the answer is the row's <c>field</c> (answer), blanks around both aside. <c>ignore_case</c> (false).</description></item>
/// <item><term>json-valid</term><description>1 if the answer is JSON, whose root is <c>root</c>: any (default), object or array.</description></item>
/// <item><term>length</term><description>
/// 0 from <c>min</c> to <c>max</c>; below, −(min − n)/min; above, −(n − max)/max. <c>target</c> is both at once: −|n − target|/target. n counts the <c>unit</c>: tokens (default) or
/// characters. <c>per_token</c> (false) has each token beyond <c>max</c> cost 1/max instead, which comes to the same.
/// </description></item>
/// <item><term>number-match</term><description>
/// 1 if the answer's number equals that of the row's <c>field</c> (answer). A text's number is the first after its last <c>####</c>, as GSM8K marks results, or else its last;
/// thousands may be parted by commas, and a point may lead (.5) and an exponent follow (1e3).
/// </description></item>
/// <item><term>regex</term><description>1 if <c>pattern</c> (.NET's syntax) matches anywhere in the answer; (?i) at its start ignores case.</description></item>
/// <item><term>repetition</term><description>
/// Minus the share of runs of <c>size</c> (3) tokens that were there before. <c>per_token</c> (false) has each repeated run paid for by its last token, which comes to the same.
/// </description></item>
/// <item><term>starts-with</term><description>1 if the answer, blanks before it aside, starts with <c>text</c> or the row's <c>field</c> (answer); neither may be empty. <c>ignore_case</c> (false).</description></item>
/// </list>
/// </remarks>
public static class RewardRules
{
    static readonly SortedDictionary<string, (string[] Options, Func<RuleOptions, Reward> Make)> Rules = new(StringComparer.Ordinal)
    {
        ["contains"] = (["field", "ignore_case", "text"], TextRules.Contains),
        ["ended"] = ([], LengthRules.Ended),
        ["exact-match"] = (["field", "ignore_case"], TextRules.ExactMatch),
        ["json-valid"] = (["root"], TextRules.JsonValid),
        ["length"] = (["max", "min", "per_token", "target", "unit"], LengthRules.Length),
        ["number-match"] = (["field"], NumberRule.NumberMatch),
        ["regex"] = (["pattern"], TextRules.Pattern),
        ["repetition"] = (["per_token", "size"], LengthRules.Repetition),
        ["starts-with"] = (["field", "ignore_case", "text"], TextRules.StartsWith),
    };

    /// <summary>The rules there are, in alphabetical order.</summary>
    public static IReadOnlyList<string> Names => [.. Rules.Keys];

    /// <summary>The options of a rule, in alphabetical order.</summary>
    /// <exception cref="ArgumentException">There is no such rule.</exception>
    public static IReadOnlyList<string> Options(string name) => [.. Find(name).Options.Append(RuleOptions.LabelName).Order(StringComparer.Ordinal)];

    /// <summary>Makes a rule.</summary>
    /// <param name="name">One of <see cref="Names"/>.</param>
    /// <param name="options">Values by name, as a configuration file spells them.</param>
    /// <exception cref="ArgumentException">There is no such rule or option, a value is not of its kind, or one is missing.</exception>
    public static Reward Create(string name, IReadOnlyDictionary<string, string>? options = null)
    {
        var make = Find(name).Make;
        var given = options ?? new Dictionary<string, string>();
        var known = Options(name);
        foreach (string option in given.Keys.Where(option => !known.Contains(option)))
        {
            throw new ArgumentException($"reward {name}: there is no option {option}, expected {string.Join(", ", known)}.{Meant(option, known)}", nameof(options));
        }

        return make(new RuleOptions(name, given));
    }

    static (string[] Options, Func<RuleOptions, Reward> Make) Find(string name) => Rules.TryGetValue(name, out var rule) ? rule
        : throw new ArgumentException($"RewardRules: there is no rule {name}, expected {string.Join(", ", Names)}.{Meant(name, Names)}", nameof(name));

    static string Meant(string word, IEnumerable<string> names) => Spelling.Nearest(word, names) is { } near ? $" Did you mean {near}?" : "";
}
