using IlgpuPeft.Losses;
using Xunit;

namespace IlgpuPeft.Tests;

public class KtoLossTests
{
    static readonly KtoLossOptions Weighted = new(0.5, 1.5, 0.75);

    [Fact]
    public void Compute_handExamples_areTheFormula()
    {
        // β·(r − k) = 0.5·(3 − 1) = 1 for the good response and 0.5·(−1 − 1) = −1 for the bad one: both weigh 1 − σ(1); σ(1)·σ(−1) = 0.19661.
        const double Left = 0.26894142136999510, Slope = 0.19661193324148185;
        var result = KtoLoss.Compute([new(-7, -10, true), new(-11, -10, false)], 1, Weighted, new KtoStep(1, 1));

        LossArrays.Close((1.5 * Left + 0.75 * Left) / 2, result.Loss, "loss", 1e-15);
        LossArrays.Close([-1.5 * 0.5 * Slope / 2, 0.75 * 0.5 * Slope / 2], result.Gradient, "gradient", 1e-15);
        LossArrays.Close(
            new Dictionary<string, double>
            {
                ["kl"] = 1,
                ["rewards/chosen"] = 1.5,
                ["rewards/rejected"] = -0.5,
                ["rewards/margins"] = 2,
                ["logps/chosen"] = -7,
                ["logps/rejected"] = -11,
            },
            result.Metrics);
    }

    [Fact]
    public void Baseline_isTheMeanAndNeverNegative()
    {
        Assert.Equal(1.5, KtoLoss.Baseline([-1, -4], [-5, -3]));
        Assert.Equal(0, KtoLoss.Baseline([-5, -3], [-1, -4]));
        Assert.Contains("reference has 1, expected 2", Assert.Throws<ArgumentException>(() => KtoLoss.Baseline([-5, -3], [-1])).Message);
        Assert.Contains("no mismatched responses", Assert.Throws<ArgumentException>(() => KtoLoss.Baseline([], [])).Message);
    }

    [Fact]
    public void Compute_stepOfOneMark_leavesTheOtherOut()
    {
        Assert.Equal(["kl", "logps/rejected", "rewards/rejected"], KtoLoss.Compute([new(-1, -2, false)], 0, new KtoLossOptions(), new KtoStep(0, 3)).Metrics.Keys.Order());
        Assert.Equal(["kl", "logps/chosen", "rewards/chosen"], KtoLoss.Compute([new(-1, -2, true)], 0, new KtoLossOptions(), new KtoStep(3, 0)).Metrics.Keys.Order());
    }

    [Fact]
    public void Compute_gradient_matchesFiniteDifferences()
    {
        const int Seed = 7;
        KtoExample[] examples = Random(Seed, 10);
        KtoStep step = new(8, 9);

        FiniteDifference.Check("policy", Seed, [.. examples.Select(example => example.Policy)], KtoLoss.Compute(examples, 0.8, Weighted, step).Gradient,
            moved => KtoLoss.Compute([.. examples.Zip(moved, (example, x) => example with { Policy = x })], 0.8, Weighted, step).Loss, step: 1e-4);
    }

    [Fact]
    public void Compute_inMicroBatches_addsUpToTheWhole()
    {
        KtoExample[] examples = Random(8, 9);
        KtoStep step = new(examples.Count(example => example.Desirable), examples.Count(example => !example.Desirable));
        var whole = KtoLoss.Compute(examples, 0.8, Weighted, step);
        KtoLossResult[] parts = [.. examples.Chunk(2).Select(chunk => KtoLoss.Compute(chunk, 0.8, Weighted, step))];

        LossArrays.Close(whole.Loss, parts.Sum(part => part.Loss), "loss", 1e-14);
        Assert.Equal(whole.Gradient, LossArrays.Flat(parts.Select(part => part.Gradient)));
        LossArrays.Close(whole.Metrics, MetricShares.Sum(parts.Select(part => part.Metrics)));
    }

    [Fact]
    public void Compute_ratiosFarApart_staysFinite()
    {
        var result = KtoLoss.Compute([new(-9000, -10, true), new(-10, -9000, false), new(-10, -9000, true)], 0, new KtoLossOptions(1), new KtoStep(2, 1));

        Assert.Equal(2.0 / 3, result.Loss, 1e-15);
        Assert.All(result.Gradient, x => Assert.Equal(0, x));
    }

    [Fact]
    public void Compute_wrongCountsOrBeta_saySo()
    {
        Assert.Contains("the step has 0 desirable and 4 undesirable examples, expected at least 1 and 0",
            Assert.Throws<ArgumentException>(() => KtoLoss.Compute([new(-1, -2, true)], 0, new KtoLossOptions(), new KtoStep(0, 4))).Message);
        Assert.Contains("beta is -1", Assert.Throws<ArgumentException>(() => KtoLoss.Compute([new(-1, -2, true)], 0, new KtoLossOptions(-1), new KtoStep(1, 0))).Message);
    }

    static KtoExample[] Random(int seed, int count)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(i => new KtoExample(LossArrays.Normal(random, 1, 3, -20)[0], LossArrays.Normal(random, 1, 3, -20)[0], i % 3 != 1))];
    }
}
