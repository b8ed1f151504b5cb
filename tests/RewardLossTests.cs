using IlgpuPeft.Losses;
using Xunit;

namespace IlgpuPeft.Tests;

public class RewardLossTests
{
    [Fact]
    public void Compute_handPairs_areTheFormula()
    {
        // ln(1 + e^−2) and ln 2; σ(−2) and ½.
        var plain = RewardLoss.Compute([2, 1], [0, 1], [], 0, 2);
        LossArrays.Close((0.12692801104297263 + 0.69314718055994531) / 2, plain.Loss, "loss", 1e-15);
        LossArrays.Close([-0.11920292202211755 / 2, -0.25], plain.ChosenGradient, "chosen", 1e-15);
        LossArrays.Close([0.11920292202211755 / 2, 0.25], plain.RejectedGradient, "rejected", 1e-15);

        // A margin of 2 makes the first pair a draw; centring adds 0.1·2² to each and pulls both scores down.
        var full = RewardLoss.Compute([2, 1], [0, 1], [2, 0], 0.1, 2);
        LossArrays.Close(0.69314718055994531 + 0.4, full.Loss, "loss", 1e-15);
        LossArrays.Close([-0.05, -0.05], full.ChosenGradient, "chosen", 1e-15);
        LossArrays.Close([0.45, 0.45], full.RejectedGradient, "rejected", 1e-15);
    }

    [Fact]
    public void Compute_scoresFarApart_staysFinite()
    {
        var result = RewardLoss.Compute([1000, -1000], [-1000, 1000], [], 0, 2);

        Assert.Equal(1000, result.Loss); // (0 + 2000)/2
        Assert.Equal([0, -0.5], result.ChosenGradient);
        Assert.Equal([0, 0.5], result.RejectedGradient);
    }

    [Fact]
    public void Compute_gradients_matchFiniteDifferences()
    {
        const int Seed = 1, Pairs = 9;
        var random = new Random(Seed);
        double[] chosen = LossArrays.Normal(random, Pairs, 2), rejected = LossArrays.Normal(random, Pairs, 2), margins = LossArrays.Normal(random, Pairs, 0.5);
        var result = RewardLoss.Compute(chosen, rejected, margins, 0.03, Pairs + 4);

        FiniteDifference.Check("chosen", Seed, chosen, result.ChosenGradient, moved => RewardLoss.Compute(moved, rejected, margins, 0.03, Pairs + 4).Loss);
        FiniteDifference.Check("rejected", Seed, rejected, result.RejectedGradient, moved => RewardLoss.Compute(chosen, moved, margins, 0.03, Pairs + 4).Loss);
    }

    [Fact]
    public void Compute_inMicroBatches_addsUpToTheWhole()
    {
        var random = new Random(2);
        double[] chosen = LossArrays.Normal(random, 7, 2), rejected = LossArrays.Normal(random, 7, 2), margins = LossArrays.Normal(random, 7, 0.5);
        var whole = RewardLoss.Compute(chosen, rejected, margins, 0.03, 7);
        RewardLossResult first = RewardLoss.Compute(chosen.AsSpan(..2), rejected.AsSpan(..2), margins.AsSpan(..2), 0.03, 7), second = RewardLoss.Compute(chosen.AsSpan(2..), rejected.AsSpan(2..), margins.AsSpan(2..), 0.03, 7);

        LossArrays.Close(whole.Loss, first.Loss + second.Loss, "loss", 1e-14);
        Assert.Equal(whole.ChosenGradient, LossArrays.Flat([first.ChosenGradient, second.ChosenGradient]));
        Assert.Equal(whole.RejectedGradient, LossArrays.Flat([first.RejectedGradient, second.RejectedGradient]));
    }

    [Fact]
    public void Metrics_handScores_areTrlsFive()
    {
        LossArrays.Close(
            new Dictionary<string, double> { ["accuracy"] = 1.0 / 3, ["margin"] = -2.0 / 3, ["min_reward"] = -2, ["mean_reward"] = 4.0 / 6, ["max_reward"] = 2 },
            RewardLoss.Metrics([2, 1, -2], [0, 1, 2]));
    }

    [Fact]
    public void Compute_wrongLengthsOrCounts_saySo()
    {
        Assert.Equal("RewardLoss: rejected has 1, expected 2 scores, as chosen has. (Parameter 'rejected')",
            Assert.Throws<ArgumentException>(() => RewardLoss.Compute([1, 2], [1], [], 0, 2)).Message);
        Assert.Contains("margins has 1, expected 2 margins, one per pair", Assert.Throws<ArgumentException>(() => RewardLoss.Compute([1, 2], [1, 3], [1], 0, 2)).Message);
        Assert.Contains("pairs is 1, expected at least 2. Pass the count over all micro-batches of the step.",
            Assert.Throws<ArgumentException>(() => RewardLoss.Compute([1, 2], [1, 3], [], 0, 1)).Message);
        Assert.Contains("no pairs", Assert.Throws<ArgumentException>(() => RewardLoss.Metrics([], [])).Message);
    }
}
