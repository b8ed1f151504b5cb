using IlgpuPeft.Losses;
using Xunit;

namespace IlgpuPeft.Tests;

public class OrpoLossTests
{
    [Fact]
    public void Compute_handPair_isTheFormula()
    {
        // Probabilities ½ and ¼: odds 1 and ⅓, odds ratio 3, σ(ln 3) = ¾. Gradients −β·¼/(1 − ½) and β·¼/(1 − ¼).
        OrpoPair pair = new(Math.Log(0.5), Math.Log(0.25), -2, 10);
        var result = OrpoLoss.Compute([pair], 0.5, new OrpoStep(1, 10));

        LossArrays.Close(2 - 0.5 * Math.Log(0.75), result.Loss, "loss", 1e-15);
        LossArrays.Close([-0.25], result.ChosenGradient, "chosen", 1e-15);
        LossArrays.Close([0.5 / 3], result.RejectedGradient, "rejected", 1e-15);
        LossArrays.Close([-1.0], result.ChosenWithPromptGradient, "with prompt", 1e-15);
        LossArrays.Close(
            new Dictionary<string, double>
            {
                ["rewards/chosen"] = 0.5 * Math.Log(0.5),
                ["rewards/rejected"] = 0.5 * Math.Log(0.25),
                ["rewards/accuracies"] = 1,
                ["rewards/margins"] = 0.5 * Math.Log(2),
                ["logps/chosen"] = Math.Log(0.5),
                ["logps/rejected"] = Math.Log(0.25),
                ["nll_loss"] = 2,
                ["log_odds_ratio"] = Math.Log(0.75),
                ["log_odds_chosen"] = Math.Log(3),
            },
            result.Metrics);
    }

    [Fact]
    public void Compute_likelihood_countsEveryTokenTheSame()
    {
        var result = OrpoLoss.Compute([new(-1, -1, -2, 10), new(-1, -1, -5, 30)], 0.1, new OrpoStep(2, 40));

        LossArrays.Close(4.25, result.Metrics["nll_loss"], "nll", 1e-15); // (20 + 150)/40
        Assert.Equal([-0.25, -0.75], result.ChosenWithPromptGradient);
    }

    [Fact]
    public void Compute_gradients_matchFiniteDifferences()
    {
        const int Seed = 5;
        OrpoPair[] pairs = Random(Seed, 8);
        OrpoStep step = new(11, 200);
        var result = OrpoLoss.Compute(pairs, 0.3, step);

        Check("chosen", result.ChosenGradient, pair => pair.Chosen, (pair, x) => pair with { Chosen = x });
        Check("rejected", result.RejectedGradient, pair => pair.Rejected, (pair, x) => pair with { Rejected = x });
        Check("with prompt", result.ChosenWithPromptGradient, pair => pair.ChosenWithPrompt, (pair, x) => pair with { ChosenWithPrompt = x });

        void Check(string what, double[] gradient, Func<OrpoPair, double> read, Func<OrpoPair, double, OrpoPair> write) =>
            FiniteDifference.Check(what, Seed, [.. pairs.Select(read)], gradient, moved => OrpoLoss.Compute([.. pairs.Zip(moved, write)], 0.3, step).Loss);
    }

    [Fact]
    public void Compute_inMicroBatches_addsUpToTheWhole()
    {
        OrpoPair[] pairs = Random(6, 7);
        OrpoStep step = new(7, pairs.Sum(pair => pair.TokensWithPrompt));
        var whole = OrpoLoss.Compute(pairs, 0.3, step);
        OrpoLossResult[] parts = [OrpoLoss.Compute(pairs.AsSpan(..1), 0.3, step), OrpoLoss.Compute(pairs.AsSpan(1..5), 0.3, step), OrpoLoss.Compute(pairs.AsSpan(5..), 0.3, step)];

        LossArrays.Close(whole.Loss, parts.Sum(part => part.Loss), "loss", 1e-14);
        Assert.Equal(whole.ChosenGradient, LossArrays.Flat(parts.Select(part => part.ChosenGradient)));
        Assert.Equal(whole.RejectedGradient, LossArrays.Flat(parts.Select(part => part.RejectedGradient)));
        Assert.Equal(whole.ChosenWithPromptGradient, LossArrays.Flat(parts.Select(part => part.ChosenWithPromptGradient)));
        LossArrays.Close(whole.Metrics, MetricShares.Sum(parts.Select(part => part.Metrics)));
    }

    [Theory]
    [InlineData(0, -3)]
    [InlineData(-3, 0)]
    [InlineData(0, 0)]
    [InlineData(-1e-12, -800)]
    [InlineData(-800, -1e-12)]
    [InlineData(-800, -800)]
    public void Compute_certainAndHopelessResponses_giveFiniteNumbers(double chosen, double rejected)
    {
        var result = OrpoLoss.Compute([new(chosen, rejected, chosen, 5)], 0.1, new OrpoStep(1, 5));

        Assert.All([result.Loss, result.ChosenGradient[0], result.RejectedGradient[0], .. result.Metrics.Values], x => Assert.True(double.IsFinite(x), $"{x}"));
        Assert.True(result.ChosenGradient[0] <= 0 && result.RejectedGradient[0] >= 0);
    }

    [Fact]
    public void Compute_wrongCounts_saySo()
    {
        OrpoPair pair = new(-1, -2, -1, 5);

        Assert.Contains("Pairs is 1, expected at least 2", Assert.Throws<ArgumentException>(() => OrpoLoss.Compute([pair, pair], 0.1, new OrpoStep(1, 10))).Message);
        Assert.Contains("TokensWithPrompt is 9, expected at least 10", Assert.Throws<ArgumentException>(() => OrpoLoss.Compute([pair, pair], 0.1, new OrpoStep(2, 9))).Message);
        Assert.Contains("pair 0 has 0 tokens", Assert.Throws<ArgumentException>(() => OrpoLoss.Compute([pair with { TokensWithPrompt = 0 }], 0.1, new OrpoStep(2, 9))).Message);
    }

    static OrpoPair[] Random(int seed, int count)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => new OrpoPair(-3 * random.NextDouble() - 0.01, -3 * random.NextDouble() - 0.01, -4 * random.NextDouble(), random.Next(1, 20)))];
    }
}
