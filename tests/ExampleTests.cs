using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The programs that users copy from: each runs as on a fresh machine, and what it prints shows that it learned.</summary>
public sealed partial class ExampleTests(ExampleTests.Adapters adapters, ITestOutputHelper output) : IClassFixture<ExampleTests.Adapters>
{
    const double StillRight = 0.25; // of training for a manner: it must not cost the answers themselves

    /// <summary>The folder in which examples find the adapters of those that ran before.</summary>
    public sealed class Adapters : IDisposable
    {
        readonly TempFolder folder = new();

        internal string Folder => folder.Path;

        public void Dispose() => folder.Dispose();
    }

    [Theory]
    [InlineData("supervised", "right answers", 0.1, 0.6)]
    [InlineData("reward", "held-out pairs ranked as people did", 0.6, 0.95, "score of \"cats :)\"")]
    [InlineData("ppo", "friendly answers", 0.2, 0.4, "\" is answered by \"", "objective/scores")]
    [InlineData("dpo", "friendly answers", 0.2, 0.4)]
    [InlineData("kto", "friendly answers", 0.2, 0.4)]
    [InlineData("orpo", "friendly answers", 0.2, 0.4)]
    [InlineData("grpo", "friendly answers", 0.2, 0.4, " :)\" +", "reward ")]
    [InlineData("generate", "right answers", 0.1, 0.6, "User: ", "Assistant: ")]
    public async Task Example_ofItsBuiltInData_printsWhatItLearned(string name, string what, double atMostBefore, double atLeastAfter, params string[] also)
    {
        var (code, text) = await RunAsync(TestContext.Current.CancellationToken, name, adapters.Folder);

        Assert.Equal(0, code);
        var compared = Comparison().Matches(text).ToLookup(match => match.Groups[1].Value, match => (Before: Number(match.Groups[2]), After: Number(match.Groups[3])));
        var (before, after) = compared[what].Last(); // a stage before it may have printed its own
        Assert.True(before <= atMostBefore && after >= atLeastAfter, $"{what}: {before} before and {after} after, expected at most {atMostBefore} and at least {atLeastAfter}");
        Assert.All(also, part => Assert.Contains(part, text, StringComparison.Ordinal));
        Assert.All(compared["right answers"], right => Assert.True(right.After >= StillRight, $"{right.After} of the answers are right, expected at least {StillRight}"));
        Assert.All(compared["held-out loss"], loss => Assert.True(loss.After < loss.Before));
        Assert.All(compared["held-out margin"].Concat(compared["held-out log-odds of the chosen answer"]), margin => Assert.True(margin.After > margin.Before + 0.3));
    }

    [Fact]
    public async Task Example_cancelledInARun_endsAfterItsStep()
    {
        using var folder = new TempFolder();
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
        using var printed = new Printed("step 5/", cancel.Cancel);

        int code = await Examples.Program.RunAsync(["reward", folder.Path], printed, cancel.Token);

        Assert.Equal(130, code);
        Assert.Contains("cancelled after step 5 of", printed.ToString(), StringComparison.Ordinal);
        Assert.True(Directory.Exists(folder.File("reward/checkpoint-5")));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1, "pop")]
    [InlineData(1, "ppo", "a", "b")]
    public async Task Examples_withoutAKnownName_areListedAsTheirReadmeDoes(int expected, params string[] args)
    {
        var (code, text) = await RunAsync(TestContext.Current.CancellationToken, args);

        Assert.Equal(expected, code);
        string readme = File.ReadAllText(Path.Combine(TestAssets.Checkout(), "src", "IlgpuPeft.Examples", "README.md"));
        var names = Regex.Matches(text, @"^  (\w+)", RegexOptions.Multiline).Select(match => match.Groups[1].Value);
        Assert.Equal(Regex.Matches(readme, @"^\| `(\w+)`", RegexOptions.Multiline).Select(match => match.Groups[1].Value), names);
    }

    async Task<(int Code, string Text)> RunAsync(CancellationToken cancel, params string[] args)
    {
        using var printed = new StringWriter();
        var time = Stopwatch.StartNew();
        int code = await Examples.Program.RunAsync(args, printed, cancel);
        output.WriteLine($"{printed}\n{time.Elapsed.TotalSeconds:0.0} s");
        return (code, printed.ToString());
    }

    static double Number(Group group) => double.Parse(group.Value, CultureInfo.InvariantCulture);

    /// <summary>Keeps what is printed, and acts on a line that begins as given.</summary>
    sealed class Printed(string beginning, Action act) : StringWriter
    {
        public override void WriteLine(string? value)
        {
            base.WriteLine(value);
            if (value?.StartsWith(beginning, StringComparison.Ordinal) == true)
            {
                act();
            }
        }
    }

    [GeneratedRegex(@"^(.+): (-?[\d.]+) before, (-?[\d.]+) after$", RegexOptions.Multiline)]
    private static partial Regex Comparison();
}
