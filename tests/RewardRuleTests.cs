using System.Diagnostics;
using IlgpuPeft.Data;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The built-in rewards: what each pays, what it refuses, and texts that a policy could write to break it.</summary>
public class RewardRuleTests
{
    const string HalfAPair = "\ud83d"; // a text that is not valid UTF-16

    // Options are written key=value, one a line.
    [Theory]
    [InlineData("length", "target=4", "", 4, 0)]
    [InlineData("length", "target=4", "", 1, -0.75)]
    [InlineData("length", "target=4", "", 10, -1.5)]
    [InlineData("length", "target=4", "", 0, -1)]
    [InlineData("length", "min=4\nmax=8", "", 2, -0.5)]
    [InlineData("length", "min=4\nmax=8", "", 8, 0)]
    [InlineData("length", "min=4\nmax=8", "", 12, -0.5)]
    [InlineData("length", "max=8", "", 0, 0)]
    [InlineData("length", "min=3", "", 99, 0)]
    [InlineData("length", "target=4\nunit=characters", "😀😀", 9, -0.5)]
    [InlineData("regex", "pattern=<b>.+</b>", "so: <b>4</b>.", 1, 1)]
    [InlineData("regex", "pattern=^4", "so 4", 1, 0)]
    [InlineData("regex", "pattern=(?i)FOUR", "four", 1, 1)]
    [InlineData("regex", @"pattern=(.)\1", "hello", 1, 1)] // looks back, so it is matched with backtracking
    [InlineData("exact-match", "", " 42\n", 1, 1)]
    [InlineData("exact-match", "", "42.", 1, 0)]
    [InlineData("exact-match", "field=city", "paris", 1, 0)]
    [InlineData("exact-match", "field=city\nignore_case=true", "paris", 1, 1)]
    [InlineData("contains", "", "it is 42!", 1, 1)]
    [InlineData("contains", "field=city", "it is 42!", 1, 0)]
    [InlineData("contains", "text=IS\nignore_case=true", "it is 42!", 1, 1)]
    [InlineData("starts-with", "text=it", " it is", 1, 1)]
    [InlineData("starts-with", "text=is", "it is", 1, 0)]
    [InlineData("starts-with", "field=city\nignore_case=true", "PARIS, of course", 1, 1)]
    [InlineData("json-valid", "", """ {"a": [1, 2]} """, 1, 1)]
    [InlineData("json-valid", "", """{"a": [1, 2]""", 1, 0)]
    [InlineData("json-valid", "", "{} {}", 1, 0)]
    [InlineData("json-valid", "", "", 1, 0)]
    [InlineData("json-valid", "root=object", "[1]", 1, 0)]
    [InlineData("json-valid", "root=array", "[1]", 1, 1)]
    [InlineData("number-match", "", "6 times 7 is 42.", 1, 1)]
    [InlineData("number-match", "", "42 is 6 times 7", 1, 0)]
    [InlineData("number-match", "field=solution", "It is $1,234.50.", 1, 1)]
    [InlineData("number-match", "field=solution", "#### 1234.5 dollars for 2", 1, 1)]
    [InlineData("number-match", "field=solution", "#### 2 dollars for 1234.5", 1, 0)]
    [InlineData("number-match", "", "no idea", 1, 0)]
    [InlineData("repetition", "size=2", "", 5, -0.75)] // the tokens are all the same: one run of two is new, three are not
    [InlineData("repetition", "size=9", "", 5, 0)]
    public void Rule_ofAnAnswer_pays(string rule, string options, string text, int tokens, double expected) =>
        Assert.Equal(expected, Make(rule, options).Judge([Answer(text, new int[tokens])])[0].Total, 12);

    [Fact]
    public void Ended_isWhatTheSampleSays()
    {
        var rule = RewardRules.Create("ended");

        Assert.Equal([1, 0], rule.Judge([Answer("", [1]), Answer("", [1]) with { Ended = false }]).Select(judgement => judgement.Total));
    }

    [Fact]
    public void Repetition_countsRunsAndNotTokens()
    {
        var rule = Make("repetition", "size=2");

        Assert.Equal([-0.5, 0, -0.25], new int[][] { [5, 6, 5, 6, 5], [5, 6, 7, 5, 7, 6], [1, 65536, 9, 1, 65536] }.Select(tokens => rule.Judge([Answer("", tokens)])[0].Total));
    }

    [Theory]
    [InlineData("repetition", "size=3\nper_token=true", "size=3")]
    [InlineData("length", "max=4\nper_token=true", "max=4")]
    public void TokenRule_paysWhatItsWholeDoes(string rule, string perToken, string whole)
    {
        var sample = Answer("", [3, 3, 3, 3, 1, 3, 3, 3, 4]);

        var paid = Make(rule, perToken).Judge([sample])[0];

        Assert.Equal(sample.Response.Length, paid.PerToken!.Length);
        Assert.Equal(0, paid.PerToken[2]);
        Assert.True(paid.PerToken[7] < 0, "the token that is too many, or repeats a run, pays");
        Assert.Equal(Make(rule, whole).Judge([sample])[0].Total, paid.Total, 12);
    }

    [Theory]
    [InlineData("007", "7")]
    [InlineData("-0.0", "0")]
    [InlineData("7.50", "7.5")]
    [InlineData("10-3", "3")]
    [InlineData("is −3", "-3")]
    [InlineData("1,000,000", "1000000")]
    [InlineData("1,0000", "0")] // not a group of thousands: 1, and then 0000
    [InlineData("3.", "3")]
    [InlineData(".5", "0.5")]
    [InlineData("is -.250", "-0.25")]
    [InlineData("from 1 to ($.5)", "0.5")]
    [InlineData("it is.5", "5")] // a sentence ended
    [InlineData("1...5", "5")]
    [InlineData("1.2.3", "3")]
    [InlineData("1e3", "1000")]
    [InlineData("-1.2345E+2", "-123.45")]
    [InlineData("2,500e−4", "0.25")]
    [InlineData(".5e1", "5")]
    [InlineData("0e999", "0")]
    [InlineData("12e-3", "0.012")]
    [InlineData("1e3x", "3")] // no exponent: 1, and then a word with a 3
    [InlineData("1e1000", "1000")] // nor is this one, of four digits
    [InlineData("7 eggs", "7")]
    [InlineData("123456789012345678901234567890.10", "123456789012345678901234567890.1")]
    [InlineData("5 #### and then 6, not 7", "6")]
    [InlineData("5 ####", null)]
    [InlineData("٣", null)]
    public void NumberIn_aText_isExact(string text, string? expected) => Assert.Equal(expected, NumberRule.NumberIn(text));

    [Fact]
    public void EveryRule_ofAHostileText_paysAFiniteRewardSoon()
    {
        string[] hostile =
        [
            "", HalfAPair, "{\"a\": \"" + HalfAPair + "\"}", "\0\0\0", new string('[', 100_000), new string('9', 1_000_000), new string('a', 30_000) + "!", new string('#', 100_000),
            string.Concat(Enumerable.Repeat("1,", 100_000)), string.Concat(Enumerable.Repeat("-1", 100_000)), "\"" + new string('x', 1_000_000), new string('\n', 100_000),
        ];
        var options = new Dictionary<string, string> { ["length"] = "target=5\nunit=characters", ["regex"] = "pattern=^(a+)+$" };
        var clock = Stopwatch.StartNew();
        foreach (string name in RewardRules.Names)
        {
            var sum = new RewardSum([(Make(name, options.GetValueOrDefault(name, "")), 1)]);

            Assert.All(sum.Judge([.. hostile.Select(text => Answer(text, [1, int.MaxValue, -1]))]).Sums, judgement => Assert.True(double.IsFinite(judgement.Total)));
        }

        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(30), $"the rules took {clock.Elapsed}: one of them is not linear");
    }

    [Fact]
    public void Regex_thatBacktracksForEver_stopsWithItsPattern()
    {
        var sum = new RewardSum([(Make("regex", @"pattern=^(a+)+\1$"), 1)]);

        var problem = Assert.Throws<RewardException>(() => sum.Judge([Answer(new string('a', 5_000) + "!", [1])]));

        Assert.Contains(@"pattern ^(a+)+\1$ takes more than 1 s", problem.Message);
    }

    [Theory]
    [InlineData("lenght", "", "there is no rule lenght, expected contains, ended, exact-match, json-valid, length, number-match, regex, repetition, starts-with. Did you mean length?")]
    [InlineData("length", "traget=3", "there is no option traget, expected label, max, min, per_token, target, unit. Did you mean target?")]
    [InlineData("ended", "verbosity=3", "there is no option verbosity, expected label.")]
    [InlineData("length", "", "no length is given")]
    [InlineData("length", "target=0", "target is \"0\", expected a whole number of at least 1")]
    [InlineData("length", "target=5\nmin=3", "target is given with min or max")]
    [InlineData("length", "min=5\nmax=3", "min is 5 and max 3")]
    [InlineData("length", "max=3\nunit=words", "unit is \"words\", expected tokens or characters")]
    [InlineData("length", "target=3\nper_token=true", "per_token needs max")]
    [InlineData("repetition", "per_token=maybe", "per_token is \"maybe\", expected true or false")]
    [InlineData("regex", "", "no pattern is given")]
    [InlineData("regex", "pattern=(", "pattern is not a regular expression")]
    [InlineData("contains", "text=", "text is empty")]
    [InlineData("contains", "text=a\nfield=answer", "both text and field are given")]
    public void Create_ofBadOptions_saysWhichAndWhatIsThere(string rule, string options, string expected) =>
        Assert.Contains(expected, Assert.Throws<ArgumentException>(() => Make(rule, options)).Message);

    [Fact]
    public void Check_ofARowWithoutTheField_saysWhereBeforeTheRun()
    {
        foreach (string rule in new[] { "exact-match", "contains", "starts-with", "number-match" })
        {
            var sum = new RewardSum([(Make(rule, "field=solutoin"), 1)]);
            Assert.Contains("prompts.jsonl:3: reward " + rule + " needs the field solutoin, and the row has answer, solution, city", Assert.Throws<ArgumentException>(() => sum.Check([Question])).Message);
        }

        Assert.Contains("\"Paris\" has none", Assert.Throws<ArgumentException>(() => Make("number-match", "field=city").Check(Question)).Message);
        new RewardSum([(Make("number-match", ""), 1), (Make("contains", "text=x"), 1)]).Check([Question]);
    }

    [Fact]
    public void Check_ofAnEmptyField_thatEveryAnswerContains_saysWhere()
    {
        var question = Question with { Fields = new Dictionary<string, string> { ["answer"] = "", ["city"] = "" } };
        foreach (var (rule, field) in new[] { ("contains", "answer"), ("starts-with", "city") })
        {
            var sum = new RewardSum([(Make(rule, "field=" + field), 1)]);
            Assert.Contains($"prompts.jsonl:3: the field {field} is empty, which every answer contains, so the reward {rule} would pay for any.", Assert.Throws<ArgumentException>(() => sum.Check([question])).Message);
        }

        new RewardSum([(Make("exact-match", ""), 1)]).Check([question]); // which pays for an empty answer alone
    }

    [Fact]
    public void Label_isTheNameInMetrics()
    {
        Assert.Equal("brevity", Make("length", "max=9\nlabel=brevity").Name);
        Assert.Equal("length", Make("length", "max=9").Name);
    }

    static readonly Prompt Question = new([1], "6 times 7?", new Dictionary<string, string> { ["answer"] = "42", ["solution"] = "6 * 7 ... #### 1,234.5", ["city"] = "Paris" }, "prompts.jsonl", 3);

    static Sample Answer(string text, int[] tokens) => new(Question, tokens, text, Ended: true);

    static Reward Make(string rule, string options) =>
        RewardRules.Create(rule, options.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split('=', 2)).ToDictionary(pair => pair[0], pair => pair[1]));
}
