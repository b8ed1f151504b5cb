using IlgpuPeft.Losses;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Divergence, rewards, advantages and the two clipped losses of policy optimization.</summary>
public class PpoMathTests
{
    static readonly PpoLossOptions Options = new(0.2, 0.3, 0.5, 0.01);

    [Fact]
    public void KlEstimate_handRatios_haveTrlsSigns()
    {
        // Policy ½, reference ¼ and the other way round: d = ±ln 2.
        double[][] own = [[Math.Log(0.5)], [Math.Log(0.25)]], reference = [[Math.Log(0.25)], [Math.Log(0.5)]];
        const double Ln2 = 0.69314718055994531;

        LossArrays.Close([[Ln2], [-Ln2]], KlEstimate.PerToken(own, reference, KlEstimator.K1), "k1", 1e-15);
        LossArrays.Close([[Ln2 - 0.5], [1 - Ln2]], KlEstimate.PerToken(own, reference, KlEstimator.K3), "k3", 1e-15);
        LossArrays.Close([[Ln2], [Ln2]], KlEstimate.PerToken(own, reference, KlEstimator.Abs), "abs", 1e-15);
        LossArrays.Close([[Ln2 * Ln2 / 2], [Ln2 * Ln2 / 2]], KlEstimate.PerToken(own, reference, KlEstimator.Mse), "mse", 1e-15);
        Assert.Contains("no estimator 9", Assert.Throws<ArgumentException>(() => KlEstimate.PerToken(own, reference, (KlEstimator)9)).Message);
        Assert.Contains("referenceLogProbs has 1, expected 2 sequences, as logProbs has", Assert.Throws<ArgumentException>(() => KlEstimate.PerToken(own, reference[..1], 0)).Message);
    }

    [Fact]
    public void KlEstimate_k1AndK3UnderThePolicy_haveTheDivergenceAsMean()
    {
        double[] policy = [0.5, 0.3, 0.15, 0.05], reference = [0.1, 0.2, 0.3, 0.4];
        double divergence = policy.Zip(reference, (p, q) => p * Math.Log(p / q)).Sum();

        foreach (var estimator in new[] { KlEstimator.K1, KlEstimator.K3 })
        {
            double[] perToken = KlEstimate.PerToken([Array.ConvertAll(policy, Math.Log)], [Array.ConvertAll(reference, Math.Log)], estimator)[0];
            Assert.Equal(divergence, policy.Zip(perToken, (p, k) => p * k).Sum(), 1e-14);
        }
    }

    [Fact]
    public void AdaptiveKl_movesTowardsItsTargetByAtMostAFifth()
    {
        var coefficient = new AdaptiveKl(0.5, target: 4, horizon: 1000);

        coefficient.Update(4.4, 100); // error 0.1
        Assert.Equal(0.505, coefficient.Value, 1e-15);
        coefficient.Update(400, 100);
        Assert.Equal(0.505 * 1.02, coefficient.Value, 1e-15);
        coefficient.Update(-1, 500);
        Assert.Equal(0.505 * 1.02 * 0.9, coefficient.Value, 1e-15);

        var still = new FixedKl(0.05);
        still.Update(400, 100);
        Assert.Equal(0.05, still.Value);
        coefficient.Update(-1, 4999);
        Assert.InRange(coefficient.Value, double.Epsilon, 1e-3);
        Assert.Contains("horizon 1000 for 5000 responses at once", Assert.Throws<ArgumentException>(() => coefficient.Update(-1, 5000)).Message);
        Assert.Contains("target 0 and horizon 5", Assert.Throws<ArgumentException>(() => new AdaptiveKl(1, 0, 5)).Message);
    }

    [Fact]
    public void TokenRewards_score_isOnTheLastTokenOrInTheSlotAfterIt()
    {
        double[][] kl = [[1, 2, -3], [4]];

        LossArrays.Close([[-0.1, -0.2, 5.3], [6.6]], TokenRewards.Compute(kl, [5, 7], 0.1), "rewards", 1e-15);
        double[][] padded = TokenRewards.Compute(kl, [5, 7], 0.1, [false, true]);
        LossArrays.Close([[-0.1, -0.2, 5.3], [-0.4, 7]], padded, "rewards", 1e-15);
        Assert.Equal([3, 1], TokenRewards.WithoutExtraSlot(padded, kl).Select(array => array.Length));
        Assert.Equal(-0.4, TokenRewards.WithoutExtraSlot(padded, kl)[1][0]);
    }

    [Fact]
    public void TokenRewards_badInput_saysSo()
    {
        Assert.Contains("response 1 is empty", Assert.Throws<ArgumentException>(() => TokenRewards.Compute([[1], []], [1, 2], 1)).Message);
        Assert.Contains("scores has 1, expected 2", Assert.Throws<ArgumentException>(() => TokenRewards.Compute([[1], [1]], [1], 1)).Message);
        Assert.Contains("padded has 1, expected 2", Assert.Throws<ArgumentException>(() => TokenRewards.Compute([[1], [1]], [1, 2], 1, [true])).Message);
        Assert.Contains("response 0 has 1 slots, expected at least 2", Assert.Throws<ArgumentException>(() => TokenRewards.WithoutExtraSlot([[1]], [[1, 2]])).Message);
        Assert.Contains("penalty for a missing end is -1", Assert.Throws<ArgumentException>(() => TokenRewards.WithMissingEosPenalty([1], [true], -1)).Message);
    }

    [Fact]
    public void WithMissingEosPenalty_takesItFromResponsesWithoutAnEnd()
    {
        double[] scores = [5, -1, 2];

        Assert.Equal([5, -2.5, 2], TokenRewards.WithMissingEosPenalty(scores, [true, false, true], 1.5));
        Assert.Equal([5, -1, 2], scores);
    }

    [Fact]
    public void Advantages_handSequence_areTheRecursion()
    {
        // γ ½, λ ½. δ: 1 + ½·4 − 2 = 1, 0 + ½·6 − 4 = −1, 8 − 6 = 2. A: 2, −1 + ¼·2 = −½, 1 − ⅛ = ⅞. Returns add the values.
        var result = Advantages.Compute([[1, 0, 8], [3]], [[2, 4, 6], [1]], 0.5, 0.5);

        Assert.Equal([0.875, -0.5, 2, 2], LossArrays.Flat(result.Values));
        Assert.Equal([2.875, 3.5, 8, 3], LossArrays.Flat(result.Returns));
    }

    [Fact]
    public void Advantages_lambdaOne_areRewardsToComeLessTheValue()
    {
        double[][] rewards = LossArrays.Random(new Random(11), 1), values = LossArrays.Random(new Random(12), 1);
        var result = Advantages.Compute(rewards, values, 0.9, 1);

        for (int s = 0; s < rewards.Length; s++)
        {
            for (int t = 0; t < rewards[s].Length; t++)
            {
                double toCome = rewards[s][t..].Index().Sum(x => Math.Pow(0.9, x.Index) * x.Item);
                LossArrays.Close(toCome, result.Returns[s][t], "return", 1e-14);
                LossArrays.Close(toCome - values[s][t], result.Values[s][t], "advantage", 1e-14);
            }
        }
    }

    [Fact]
    public void Whiten_overAllSequences_hasMeanZeroOrItsOwnAndVarianceOne()
    {
        double[][] x = [[1, 4], [7]]; // mean 4, unbiased variance 9

        LossArrays.Close([[-1, 0], [1]], Advantages.Whiten(x), "shifted", 1e-8);
        LossArrays.Close([[3, 4], [5]], Advantages.Whiten(x, shiftMean: false), "kept", 1e-8);
        Assert.Equal((4, 9), Advantages.Moments(x));
        Assert.Equal([0, 0], Advantages.Whiten([[2, 2]])[0]);
        Assert.Contains("1 tokens in the whole batch, expected at least 2", Assert.Throws<ArgumentException>(() => Advantages.Whiten([[1]])).Message);
        Assert.Contains("values[1] has 2, expected 1 tokens", Assert.Throws<ArgumentException>(() => Advantages.Compute([[1], [1]], [[1], [1, 2]], 1, 1)).Message);
        Assert.Contains("gamma 1.1", Assert.Throws<ArgumentException>(() => Advantages.Compute([[1]], [[1]], 1.1, 1)).Message);
    }

    [Theory]
    [InlineData(1.0, 3, -3, -3, 0)]
    [InlineData(1.5, 3, -3.6, 0, 1)] // already likelier than the clip allows
    [InlineData(1.5, -3, 4.5, 4.5, 0)] // likelier, and should not be
    [InlineData(0.5, 3, -1.5, -1.5, 0)]
    [InlineData(0.5, -3, 2.4, 0, 1)]
    public void Policy_oneToken_isTheFormula(double ratio, double advantage, double loss, double gradient, double clipped)
    {
        var result = PpoLoss.Policy([[Math.Log(ratio) - 1]], [[-1]], [[advantage]], [], new PpoLossOptions(), new PpoMiniBatch(1, 1));

        LossArrays.Close(loss, result.Loss, "loss", 1e-15);
        LossArrays.Close(gradient, result.LogProbGradient[0][0], "gradient", 1e-15);
        LossArrays.Close(Math.Pow(Math.Log(ratio), 2) / 2, result.Statistics.ApproximateKl, "approxkl", 1e-15);
        LossArrays.Close(ratio - 1, result.Statistics.RatioMinusOne, "ratio", 1e-15);
        Assert.Equal(clipped, result.Statistics.ClipFraction);
    }

    [Theory]
    [InlineData(1.1, 2, 0.405, -0.9, 0)] // within ±0.2 of the old value 1
    [InlineData(1.5, 2, 0.32, 0, 1)] // nearer to the return than the clip allows: ½·(1.2 − 2)²
    [InlineData(0.5, 2, 1.125, -1.5, 0)] // away from the return
    [InlineData(1.5, 1.1, 0.08, 0.4, 0)] // beyond it
    public void Value_oneToken_isTheFormula(double value, double target, double loss, double gradient, double clipped)
    {
        var result = PpoLoss.Value([[value]], [[1]], [[target]], new PpoLossOptions(ValueCoefficient: 0.5), new PpoMiniBatch(1, 1));

        LossArrays.Close(loss, result.Statistics.ValueLoss, "value loss", 1e-15);
        LossArrays.Close(loss / 2, result.Loss, "loss", 1e-15);
        LossArrays.Close(gradient / 2, result.ValueGradient[0][0], "gradient", 1e-15);
        Assert.Equal(clipped, result.Statistics.ValueClipFraction);
    }

    [Fact]
    public void Policy_entropyBonus_lowersTheLoss()
    {
        var result = PpoLoss.Policy([[-1, -1], [-1]], [[-1, -1], [-1]], [[0, 0], [0]], [[1, 2], [6]], new PpoLossOptions(EntropyCoefficient: 0.1), new PpoMiniBatch(4, 4));

        LossArrays.Close(-0.1 * 9 / 4, result.Loss, "loss", 1e-15);
        LossArrays.Close([[-0.025, -0.025], [-0.025]], result.EntropyGradient, "entropy", 1e-15);
        Assert.Equal((0, 2.25), (result.Statistics.PolicyLoss, result.Statistics.Entropy));
    }

    [Fact]
    public void Policy_gradients_matchFiniteDifferences()
    {
        const int Seed = 13;
        var batch = new Batch(Seed);
        PpoMiniBatch counts = new(30, 30);
        var result = batch.Policy(.., counts);
        Assert.True(result.Statistics.ClipFraction is > 0.1 and < 0.7, $"{result.Statistics.ClipFraction} of the ratios are clipped");

        FiniteDifference.Check("new log-probabilities", Seed, LossArrays.Flat(batch.New), LossArrays.Flat(result.LogProbGradient),
            moved => PpoLoss.Policy(LossArrays.Shape(moved, batch.New), batch.Old, batch.Advantages, batch.Entropies, Options, counts).Loss);
        FiniteDifference.Check("entropies", Seed, LossArrays.Flat(batch.Entropies), LossArrays.Flat(result.EntropyGradient),
            moved => PpoLoss.Policy(batch.New, batch.Old, batch.Advantages, LossArrays.Shape(moved, batch.New), Options, counts).Loss);
    }

    [Fact]
    public void Value_gradient_matchesFiniteDifferences()
    {
        const int Seed = 14;
        var batch = new Batch(Seed);
        PpoMiniBatch counts = new(30, 30);
        var result = batch.Value(.., counts);
        Assert.True(result.Statistics.ValueClipFraction is > 0.1 and < 0.7, $"{result.Statistics.ValueClipFraction} of the values are clipped");

        FiniteDifference.Check("new values", Seed, LossArrays.Flat(batch.NewValues), LossArrays.Flat(result.ValueGradient),
            moved => PpoLoss.Value(LossArrays.Shape(moved, batch.New), batch.OldValues, batch.Returns, Options, counts).Loss);
    }

    [Fact]
    public void Losses_inMicroBatches_addUpToTheWhole()
    {
        var batch = new Batch(15);
        int tokens = LossArrays.Lengths.Sum();
        PpoMiniBatch counts = new(tokens, tokens, PaddedSlots: 11);
        Range[] ranges = [0..1, 1..4, 4..];
        PpoPolicyResult policy = batch.Policy(.., counts);
        PpoValueResult value = batch.Value(.., counts);
        PpoPolicyResult[] policies = [.. ranges.Select(range => batch.Policy(range, counts))];
        PpoValueResult[] values = [.. ranges.Select(range => batch.Value(range, counts))];

        LossArrays.Close(policy.Loss, policies.Sum(part => part.Loss), "policy loss", 1e-14);
        LossArrays.Close(value.Loss, values.Sum(part => part.Loss), "value loss", 1e-14);
        Assert.Equal(LossArrays.Flat(policy.LogProbGradient), LossArrays.Flat(policies.SelectMany(part => part.LogProbGradient)));
        Assert.Equal(LossArrays.Flat(policy.EntropyGradient), LossArrays.Flat(policies.SelectMany(part => part.EntropyGradient)));
        Assert.Equal(LossArrays.Flat(value.ValueGradient), LossArrays.Flat(values.SelectMany(part => part.ValueGradient)));
        var parts = policies.Select(part => part.Statistics).Concat(values.Select(part => part.Statistics)).Aggregate((sum, part) => sum + part);
        LossArrays.Close(PpoStatistics.Metrics([policy.Statistics + value.Statistics]), PpoStatistics.Metrics([parts]));
    }

    [Fact]
    public void Metrics_ofMiniBatches_areTrlsAverages()
    {
        PpoStatistics first = new() { PolicyLoss = 1, ValueLoss = 2, ApproximateKl = 3, ClipFraction = 0.5, ValueClipFraction = 0.25, Entropy = 4, RatioMinusOne = 0.1 };
        PpoStatistics second = new() { PolicyLoss = 3, ValueLoss = 6, ApproximateKl = 5, ClipFraction = 0, ValueClipFraction = 0.75, Entropy = 8, RatioMinusOne = -0.3 };

        LossArrays.Close(
            new Dictionary<string, double>
            {
                ["policy/approxkl_avg"] = 4,
                ["policy/clipfrac_avg"] = 0.25,
                ["loss/policy_avg"] = 2,
                ["loss/value_avg"] = 4,
                ["val/clipfrac_avg"] = 0.5,
                ["policy/entropy_avg"] = 6,
                ["val/ratio"] = 0.9,
                ["val/ratio_var"] = 0.08,
            },
            PpoStatistics.Metrics([first, second]));
        Assert.Equal(0, PpoStatistics.Metrics([first])["val/ratio_var"]);
        Assert.Contains("no mini-batches", Assert.Throws<ArgumentException>(() => PpoStatistics.Metrics([])).Message);
    }

    [Fact]
    public void Losses_badInput_saySo()
    {
        Says("advantages[0] has 2, expected 1 tokens, as newLogProbs[0] has", () => PpoLoss.Policy([[1]], [[1]], [[1, 2]], [], Options with { EntropyCoefficient = 0 }, new(1, 1)));
        Says("an entropy bonus of 0.01 without entropies", () => PpoLoss.Policy([[1]], [[1]], [[1]], [], Options, new(1, 1)));
        Says("entropies has 2, expected 1 sequences", () => PpoLoss.Policy([[1]], [[1]], [[1]], [[1], [1]], Options, new(1, 1)));
        Says("Tokens is 1, expected at least 2", () => PpoLoss.Policy([[1, 2]], [[1, 2]], [[1, 2]], [[1, 2]], Options, new(1, 2)));
        Says("Values is 1, expected at least 2", () => PpoLoss.Value([[1, 2]], [[1, 2]], [[1, 2]], Options, new(2, 1)));
        Says("returns has 0, expected 1 sequences", () => PpoLoss.Value([[1]], [[1]], [], Options, new(1, 1)));

        static void Says(string message, Func<object> call) => Assert.Contains(message, Assert.Throws<ArgumentException>(call).Message);
    }

    // A random batch on both sides of every clip.
    sealed class Batch
    {
        public Batch(int seed)
        {
            var random = new Random(seed);
            Old = LossArrays.Random(random, 0.5, -2);
            New = LossArrays.Near(random, Old, 0.4);
            Advantages = LossArrays.Random(random, 1);
            Entropies = LossArrays.Random(random, 0.2, 2);
            OldValues = LossArrays.Random(random, 1);
            NewValues = LossArrays.Near(random, OldValues, 0.6);
            Returns = LossArrays.Near(random, OldValues, 1.5);
        }

        public double[][] Old { get; }

        public double[][] New { get; }

        public double[][] Advantages { get; }

        public double[][] Entropies { get; }

        public double[][] OldValues { get; }

        public double[][] NewValues { get; }

        public double[][] Returns { get; }

        public PpoPolicyResult Policy(Range range, PpoMiniBatch counts) => PpoLoss.Policy(New[range], Old[range], Advantages[range], Entropies[range], Options, counts);

        public PpoValueResult Value(Range range, PpoMiniBatch counts) => PpoLoss.Value(NewValues[range], OldValues[range], Returns[range], Options, counts);
    }
}
