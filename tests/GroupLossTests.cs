using IlgpuPeft.Losses;
using Xunit;

namespace IlgpuPeft.Tests;

public class GroupLossTests
{
    const double Epsilon = 0.2, High = 0.28, Delta = 1.6, Beta = 0.05;

    public static TheoryData<GroupReduction, ImportanceLevel, double?, double> Variants => new(
        from reduction in Enum.GetValues<GroupReduction>() from level in Enum.GetValues<ImportanceLevel>() from bounds in new[] { ((double?)null, 0.0), (Delta, Beta) }
        select (reduction, level, bounds.Item1, bounds.Item2));

    [Fact]
    public void Advantages_handRewards_areTheFormula()
    {
        // Means 2 and 5, unbiased deviations √2 and 0; squares about the mean 3.5 of all: 6.25, 0.25, 2.25, 2.25.
        double deviation = Math.Sqrt(11.0 / 3);
        var group = GroupAdvantages.Compute([1, 3, 5, 5], 2);
        LossArrays.Close([-1 / (Math.Sqrt(2) + 1e-4), 1 / (Math.Sqrt(2) + 1e-4), 0, 0], group.Values, "group", 1e-15);
        LossArrays.Close(new Dictionary<string, double> { ["reward"] = 3.5, ["reward_std"] = deviation, ["frac_reward_zero_std"] = 0.5 }, group.Metrics);

        var batch = GroupAdvantages.Compute([1, 3, 5, 5], 2, ScaleRewards.Batch);
        LossArrays.Close([-1 / (deviation + 1e-4), 1 / (deviation + 1e-4), 0, 0], batch.Values, "batch", 1e-15);
        Assert.Equal(0, batch.Metrics["frac_reward_zero_std"]);

        var none = GroupAdvantages.Compute([1, 3, 5, 5], 2, ScaleRewards.None);
        Assert.Equal([-1, 1, 0, 0], none.Values);
        Assert.Equal(0.5, none.Metrics["frac_reward_zero_std"]);
    }

    [Fact]
    public void Advantages_groupOfOne_areZero() => Assert.Equal([0, 0], GroupAdvantages.Compute([4, 7], 1).Values);

    [Fact]
    public void Advantages_badRewards_saySo()
    {
        Assert.Contains("3 rewards in groups of 2", Assert.Throws<ArgumentException>(() => GroupAdvantages.Compute([1, 2, 3], 2)).Message);
        Assert.Contains("0 rewards in groups of 2", Assert.Throws<ArgumentException>(() => GroupAdvantages.Compute([], 2)).Message);
        Assert.Contains("reward 1 is NaN", Assert.Throws<ArgumentException>(() => GroupAdvantages.Compute([1, double.NaN], 2)).Message);
    }

    [Theory]
    [InlineData(1.0, 2, null, -2, -2)] // where the policy starts: −A, −A·ρ
    [InlineData(1.1, 2, null, -2.2, -2.2)]
    [InlineData(1.5, 2, null, -2.56, 0)] // above: clipped at 1.28
    [InlineData(1.5, -2, null, 3, 3)] // above, against the advantage: the whole ratio
    [InlineData(1.5, -2, 1.4, 2.8, 0)] // unless it is bounded
    [InlineData(0.5, 2, null, -1, -1)] // below, against the advantage
    [InlineData(0.5, -2, null, 1.6, 0)] // below: clipped at 0.8
    [InlineData(1.5, 0, null, 0, 0)]
    public void Compute_oneToken_isTheFormula(double ratio, double advantage, double? delta, double loss, double gradient)
    {
        var result = GroupLoss.Compute([[Math.Log(ratio)]], [[0]], [], [advantage], new GroupLossOptions(Epsilon, High, delta), new GroupStep(1, 1));

        LossArrays.Close(loss, result.Loss, "loss", 1e-15);
        LossArrays.Close(gradient, result.Gradient[0][0], "gradient", 1e-15);
        Assert.Equal(ratio < 0.8 && advantage < 0 ? 1 : 0, result.Metrics["clip_ratio/low_mean"]);
        Assert.Equal(ratio > 1.28 && advantage > 0 ? 1 : 0, result.Metrics["clip_ratio/high_mean"]);
        Assert.False(result.Metrics.ContainsKey("kl"));
    }

    [Fact]
    public void Compute_divergence_pullsToTheReference()
    {
        // Policy ½, reference ¼: k3 = ½ − 1 + ln 2, slope 1 − ½.
        var result = GroupLoss.Compute([[Math.Log(0.5)]], [[Math.Log(0.5)]], [[Math.Log(0.25)]], [0], new GroupLossOptions(Beta: 0.1), new GroupStep(1, 1));

        LossArrays.Close(0.1 * 0.19314718055994531, result.Loss, "loss", 1e-15);
        LossArrays.Close(0.05, result.Gradient[0][0], "gradient", 1e-15);
        LossArrays.Close(0.19314718055994531, result.Metrics["kl"], "kl", 1e-15);
    }

    [Theory]
    [InlineData(GroupReduction.Grpo, -(1 + 1.0 / 3) / 2, -0.5, -1.0 / 18)] // (A of one token + mean of three)/2
    [InlineData(GroupReduction.Dapo, -(1 + 1) / 4.0, -0.25, -1.0 / 12)]
    [InlineData(GroupReduction.Bnpo, -(1 + 1) / 4.0, -0.25, -1.0 / 12)]
    [InlineData(GroupReduction.DrGrpo, -(1 + 1) / 20.0, -0.05, -1.0 / 60)]
    public void Compute_reductions_weighTokensAsTheyShould(GroupReduction reduction, double loss, double first, double others)
    {
        // Advantages 1 and ⅓ at the old policy: −1 for one token, −⅓ for each of three.
        var result = GroupLoss.Compute([[-1], [-1, -2, -3]], [[-1], [-1, -2, -3]], [], [1, 1.0 / 3], new GroupLossOptions(Reduction: reduction), new GroupStep(2, 4, 10));

        LossArrays.Close(loss, result.Loss, "loss", 1e-15);
        LossArrays.Close([[first], [others, others, others]], result.Gradient, "gradient", 1e-15);
    }

    [Fact]
    public void Compute_bySequence_takesTheGeometricMeanOfRatios()
    {
        // ln ρ = (0.6 − 0.2)/2 = 0.2: below 1.28 though one token alone is above it.
        double ratio = Math.Exp(0.2);
        var result = GroupLoss.Compute([[0.6, -0.2]], [[0, 0]], [], [3], new GroupLossOptions(Epsilon, High, Level: ImportanceLevel.Sequence), new GroupStep(1, 2));

        LossArrays.Close(-3 * ratio, result.Loss, "loss", 1e-15);
        LossArrays.Close([[-1.5 * ratio, -1.5 * ratio]], result.Gradient, "gradient", 1e-15);
        Assert.Equal(0, result.Metrics["clip_ratio/region_mean"]);
        Assert.Equal(0.5, GroupLoss.Compute([[0.6, -0.2]], [[0, 0]], [], [3], new GroupLossOptions(Epsilon, High), new GroupStep(1, 2)).Metrics["clip_ratio/high_mean"]);
    }

    [Theory]
    [InlineData(ImportanceLevel.Sequence, 0.5, 0.25)] // two and one of four sequences
    [InlineData(ImportanceLevel.Token, 0.4, 0.3)] // four and three of ten tokens
    public void Compute_clipRatios_areSharesOfWhatRatiosAreTakenOver(ImportanceLevel level, double high, double low)
    {
        double[][] own = [[0.6, 0.6, 0.6], [0.6], [-0.6, -0.6, -0.6], [0, 0, 0]], old = [.. own.Select(tokens => new double[tokens.Length])];

        var metrics = GroupLoss.Compute(own, old, [], [3, 1, -2, 1], new GroupLossOptions(Epsilon, High, Level: level), new GroupStep(4, 10)).Metrics;

        Assert.Equal(high, metrics["clip_ratio/high_mean"], 1e-12);
        Assert.Equal(low, metrics["clip_ratio/low_mean"], 1e-12);
        Assert.Equal(high + low, metrics["clip_ratio/region_mean"], 1e-12);
    }

    [Theory, MemberData(nameof(Variants))]
    public void Compute_gradient_matchesFiniteDifferences(GroupReduction reduction, ImportanceLevel level, double? delta, double beta)
    {
        const int Seed = 9;
        var (own, old, reference, advantages) = Random(Seed);
        GroupLossOptions options = new(Epsilon, High, delta, beta, reduction, level);
        GroupStep step = new(own.Length + 2, LossArrays.Flat(own).Length + 9, 12, 3);
        var result = GroupLoss.Compute(own, old, reference, advantages, options, step);
        if (level == ImportanceLevel.Token)
        {
            Assert.True(result.Metrics["clip_ratio/low_mean"] > 0 && result.Metrics["clip_ratio/high_mean"] > 0, "nothing is clipped");
        }

        FiniteDifference.Check($"{options}", Seed, LossArrays.Flat(own), LossArrays.Flat(result.Gradient),
            moved => GroupLoss.Compute(LossArrays.Shape(moved, own), old, reference, advantages, options, step).Loss);
    }

    [Theory, MemberData(nameof(Variants))]
    public void Compute_inMicroBatches_addsUpToTheWhole(GroupReduction reduction, ImportanceLevel level, double? delta, double beta)
    {
        var (own, old, reference, advantages) = Random(10);
        GroupLossOptions options = new(Epsilon, High, delta, beta, reduction, level);
        GroupStep step = new(own.Length, LossArrays.Flat(own).Length, 12);
        var whole = GroupLoss.Compute(own, old, reference, advantages, options, step);
        Range[] ranges = [0..2, 2..5, 5..];
        GroupLossResult[] parts = [.. ranges.Select(range => Part(range, step with { MicroBatches = 3 }))];

        LossArrays.Close(whole.Metrics, MetricShares.Sum(parts.Select(part => part.Metrics)));
        if (reduction == GroupReduction.Bnpo) // by definition not a function of the whole: the mean over the parts, each by its own tokens
        {
            double mean = ranges.Average(range => Part(range, step with { MicroBatches = 1 }).Loss);
            LossArrays.Close(mean, parts.Sum(part => part.Loss), "loss", 1e-14);
            return;
        }

        LossArrays.Close(whole.Loss, parts.Sum(part => part.Loss), "loss", 1e-14);
        Assert.Equal(LossArrays.Flat(whole.Gradient), LossArrays.Flat(parts.SelectMany(part => part.Gradient)));

        GroupLossResult Part(Range range, GroupStep counts) => GroupLoss.Compute(own[range], old[range], reference[range], advantages[range], options, counts);
    }

    [Theory]
    [InlineData(GroupReduction.Grpo, 3)]
    [InlineData(GroupReduction.Dapo, 2)]
    [InlineData(GroupReduction.Bnpo, 2)]
    [InlineData(GroupReduction.DrGrpo, 30)]
    public void Compute_maskedResponse_countsAsASequenceOfNoTokens(GroupReduction reduction, double denominator)
    {
        // Two responses of one token each, and one without: TRL's mean over sequences keeps it.
        var result = GroupLoss.Compute([[-1], [], [-1]], [[-1], [], [-1]], [], [1, 5, 1], new GroupLossOptions(Reduction: reduction), new GroupStep(3, 2, 10));

        LossArrays.Close(-2 / denominator, result.Loss, "loss", 1e-15);
        Assert.Empty(result.Gradient[1]);
        Assert.Equal(0, GroupLoss.Compute([[]], [[]], [], [1], new GroupLossOptions(Reduction: reduction), new GroupStep(1, 0, 10)).Loss);
    }

    [Fact]
    public void Compute_badInput_saysSo()
    {
        Says("oldLogProbs[0] has 2, expected 1 tokens, as newLogProbs[0] has", () => GroupLoss.Compute([[1]], [[1, 2]], [], [1], new(), new(1, 1)));
        Says("referenceLogProbs has 0, expected 1 sequences", () => GroupLoss.Compute([[1]], [[1]], [], [1], new(Beta: 0.1), new(1, 1)));
        Says("advantages has 2, expected 1", () => GroupLoss.Compute([[1]], [[1]], [], [1, 2], new(), new(1, 1)));
        Says("Sequences is 0, expected at least 1", () => GroupLoss.Compute([[1]], [[1]], [], [1], new(), new(0, 1)));
        Says("Tokens is 1, expected at least 2", () => GroupLoss.Compute([[1, 2]], [[1, 2]], [], [1], new(), new(1, 1)));
        Says("MaxLength is 0", () => GroupLoss.Compute([[1]], [[1]], [], [1], new(Reduction: GroupReduction.DrGrpo), new(1, 1)));
        Says("MicroBatches is 0", () => GroupLoss.Compute([[1]], [[1]], [], [1], new(Reduction: GroupReduction.Bnpo), new(1, 1, 0, 0)));
        Says("epsilon low 1.5", () => GroupLoss.Compute([[1]], [[1]], [], [1], new(1.5), new(1, 1)));

        static void Says(string message, Func<object> call) => Assert.Contains(message, Assert.Throws<ArgumentException>(call).Message);
    }

    static (double[][] Own, double[][] Old, double[][] Reference, double[] Advantages) Random(int seed)
    {
        var random = new Random(seed);
        double[][] old = LossArrays.Random(random, 0.5, -2);
        return (LossArrays.Near(random, old, 0.4), old, LossArrays.Near(random, old, 0.5), LossArrays.Normal(random, LossArrays.Lengths.Length, 1));
    }
}
