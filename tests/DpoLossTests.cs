using IlgpuPeft.Losses;
using Xunit;

namespace IlgpuPeft.Tests;

public class DpoLossTests
{
    public static TheoryData<DpoKind, double, bool> Variants => new(
        (DpoKind.Sigmoid, 0, false), (DpoKind.Sigmoid, 0.2, false), (DpoKind.Sigmoid, 0, true), (DpoKind.Ipo, 0, false), (DpoKind.Hinge, 0, false), (DpoKind.Hinge, 0, true));

    // Policy −10 and −12, reference −11 and −11: log-ratios 1 and −1, δ = 2.
    static readonly DpoPair Pair = new(-10, -12, -11, -11, 4, 5);

    [Theory]
    [InlineData(DpoKind.Sigmoid, 0, false, 0.31326168751822286, -0.5 * 0.26894142136999510, 0.5 * 0.26894142136999510)] // ln(1 + e^−1), −β·σ(−1)
    [InlineData(DpoKind.Sigmoid, 0.25, false, 0.31326168751822286 + 0.25, -0.5 * (0.26894142136999510 - 0.25), 0.5 * (0.26894142136999510 - 0.25))] // −ln σ(−1) is 1 more; σ(−1) − ε
    [InlineData(DpoKind.Sigmoid, 0, true, 0.31326168751822286, -0.5 * 0.26894142136999510, 0.5 * 0.26894142136999510)] // δ is 2 without the reference, too
    [InlineData(DpoKind.Hinge, 0, false, 0, 0, 0)] // β·δ = 1
    [InlineData(DpoKind.Ipo, 0, false, 0.3025, -0.275, 0.22)] // δ̄ = 1/4 + 1/5, 1/(2β) = 1: (−0.55)², 2·(−0.55)/4 and /5
    public void Compute_handPair_isTheFormula(DpoKind kind, double smoothing, bool referenceFree, double loss, double chosen, double rejected)
    {
        var result = DpoLoss.Compute([Pair], new DpoLossOptions(0.5, kind, smoothing, referenceFree), 1);

        LossArrays.Close(loss, result.Loss, "loss", 1e-15);
        LossArrays.Close(chosen, result.ChosenGradient[0], "chosen", 1e-15);
        LossArrays.Close(rejected, result.RejectedGradient[0], "rejected", 1e-15);
    }

    [Fact]
    public void Compute_hingeWithinItsMargin_pullsByBeta()
    {
        var result = DpoLoss.Compute([Pair], new DpoLossOptions(0.1, DpoKind.Hinge), 2);

        LossArrays.Close(0.8 / 2, result.Loss, "loss", 1e-15);
        Assert.Equal((-0.05, 0.05), (result.ChosenGradient[0], result.RejectedGradient[0]));
    }

    [Fact]
    public void Compute_handPairs_haveTrlsMetrics()
    {
        var metrics = DpoLoss.Compute([Pair, new(-3, -2, -1, -4, 1, 1)], new DpoLossOptions(), 2).Metrics; // log-ratios 1, −1 and −2, 2

        LossArrays.Close(
            new Dictionary<string, double>
            {
                ["rewards/chosen"] = -0.05,
                ["rewards/rejected"] = 0.05,
                ["rewards/margins"] = -0.1,
                ["rewards/accuracies"] = 0.5,
                ["logps/chosen"] = -6.5,
                ["logps/rejected"] = -7,
            },
            metrics);
        Assert.Equal(-0.65, DpoLoss.Compute([Pair, new(-3, -2, -1, -4, 1, 1)], new DpoLossOptions(ReferenceFree: true), 2).Metrics["rewards/chosen"], 1e-15);
    }

    [Theory, MemberData(nameof(Variants))]
    public void Compute_gradients_matchFiniteDifferences(DpoKind kind, double smoothing, bool referenceFree)
    {
        const int Seed = 17;
        DpoPair[] pairs = Random(Seed, 9);
        var options = new DpoLossOptions(0.2, kind, smoothing, referenceFree);
        var result = DpoLoss.Compute(pairs, options, 12);
        if (kind == DpoKind.Hinge)
        {
            Assert.InRange(result.ChosenGradient.Count(x => x == 0), 1, pairs.Length - 1); // both sides of the kink
        }

        FiniteDifference.Check("chosen", Seed, [.. pairs.Select(pair => pair.Chosen)], result.ChosenGradient,
            moved => DpoLoss.Compute([.. pairs.Zip(moved, (pair, x) => pair with { Chosen = x })], options, 12).Loss, step: 1e-4);
        FiniteDifference.Check("rejected", Seed, [.. pairs.Select(pair => pair.Rejected)], result.RejectedGradient,
            moved => DpoLoss.Compute([.. pairs.Zip(moved, (pair, x) => pair with { Rejected = x })], options, 12).Loss, step: 1e-4);
    }

    [Theory, MemberData(nameof(Variants))]
    public void Compute_inMicroBatches_addsUpToTheWhole(DpoKind kind, double smoothing, bool referenceFree)
    {
        DpoPair[] pairs = Random(4, 8);
        var options = new DpoLossOptions(0.2, kind, smoothing, referenceFree);
        var whole = DpoLoss.Compute(pairs, options, 8);
        DpoLossResult[] parts = [DpoLoss.Compute(pairs.AsSpan(..3), options, 8), DpoLoss.Compute(pairs.AsSpan(3..4), options, 8), DpoLoss.Compute(pairs.AsSpan(4..), options, 8)];

        LossArrays.Close(whole.Loss, parts.Sum(part => part.Loss), "loss", 1e-13);
        Assert.Equal(whole.ChosenGradient, LossArrays.Flat(parts.Select(part => part.ChosenGradient)));
        Assert.Equal(whole.RejectedGradient, LossArrays.Flat(parts.Select(part => part.RejectedGradient)));
        LossArrays.Close(whole.Metrics, MetricShares.Sum(parts.Select(part => part.Metrics)));
    }

    [Fact]
    public void Compute_ratiosFarApart_staysFinite()
    {
        DpoPair lost = new(-9000, -10, -10, -9000, 3, 3);
        var result = DpoLoss.Compute([lost], new DpoLossOptions(1), 1);

        Assert.Equal((17980, -1, 1), (result.Loss, result.ChosenGradient[0], result.RejectedGradient[0]));
    }

    [Fact]
    public void Compute_badOptionsOrPairs_saySo()
    {
        Says("beta is 0, expected more than 0", [Pair], new DpoLossOptions(0));
        Says("label smoothing is 0.5, expected at least 0 and less than 0.5", [Pair], new DpoLossOptions(LabelSmoothing: 0.5));
        Says("label smoothing is 0.1 with the loss Ipo, expected 0", [Pair], new DpoLossOptions(0.1, DpoKind.Ipo, 0.1));
        Says("no loss of kind 9", [Pair], new DpoLossOptions(0.1, (DpoKind)9));
        Says("pair 1 has responses of 0 and 5 tokens", [Pair, Pair with { ChosenTokens = 0 }], new DpoLossOptions());
        Says("pairs is 2, expected at least 3", [Pair, Pair, Pair], new DpoLossOptions());

        static void Says(string message, DpoPair[] pairs, DpoLossOptions options) =>
            Assert.Contains(message, Assert.Throws<ArgumentException>(() => DpoLoss.Compute(pairs, options, 2)).Message);
    }

    static DpoPair[] Random(int seed, int count)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => { double[] x = LossArrays.Normal(random, 4, 8, -30); return new DpoPair(x[0], x[1], x[2], x[3], random.Next(1, 20), random.Next(1, 20)); })];
    }
}
