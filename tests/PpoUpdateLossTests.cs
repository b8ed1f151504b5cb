using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// Loss and statistics of an update's mini-batches, written down once more, response by response from whole texts that are read alone, so that this shares neither masks nor packing nor counts with
/// what it checks.
/// </summary>
public class PpoUpdateLossTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void MiniBatches_haveTheLossOfTheFormula_andItsStatistics(bool trlCompatible)
    {
        using var setup = new PpoSetup("cpu-f64");
        setup.Disturb(setup.Policy, 3);
        setup.Disturb(setup.Value, 4);
        var options = PpoSetup.Options with { PpoEpochs = 1, TrlCompatible = trlCompatible, EntropyCoefficient = 0.3, ClipRange = 0.05, ClipRangeValue = 0.02, ValueCoefficient = 0.7 };
        var rollout = setup.Collect(options);
        var miniBatches = PpoUpdate.FirstEpoch(rollout.Count, rollout.OrderSeed, options);
        using var roles = setup.NewRoles(options);
        using var pass = new LanguageModelPass(setup.Model);
        List<(PpoStatistics Statistics, double Loss)> expected = [];
        List<double> losses = [];

        var result = new PpoUpdate(roles, options).Run(rollout, loss =>
        {
            losses.Add(loss);
            expected.Add(Formula(setup, pass, options, rollout, miniBatches[expected.Count]));
            setup.Disturb(setup.Policy, 3, 0.15); // far enough for some tokens and values to be clipped
            setup.Disturb(setup.Value, 6, 0.2);
        });

        Assert.Equal(miniBatches.Count, losses.Count);
        Assert.True(expected[^1].Statistics is { ClipFraction: > 0 and < 1, ValueClipFraction: > 0 and < 1 }, $"clipped are {expected[^1].Statistics.ClipFraction:0.00} of the tokens and {expected[^1].Statistics.ValueClipFraction:0.00} of the values, which does not show that only some are");
        Assert.Contains(rollout.Samples, sample => sample.Response.Length < options.ResponseLength);
        Assert.Equal(losses.Average(), result.Loss, 1e-12);
        for (int i = 0; i < losses.Count; i++)
        {
            Assert.Equal(expected[i].Loss, losses[i], 1e-10);
            Compare.Close(Numbers(expected[i].Statistics), Numbers(result.MiniBatches[i]), 1e-9, $"statistics of mini-batch {i}");
        }
    }

    static double[] Numbers(PpoStatistics of) => [of.PolicyLoss, of.ValueLoss, of.Entropy, of.ClipFraction, of.ValueClipFraction, of.ApproximateKl, of.RatioMinusOne];

    static (PpoStatistics Statistics, double Loss) Formula(PpoSetup setup, LanguageModelPass pass, PpoOptions options, Rollout rollout, int[] responses)
    {
        List<double> policy = [], value = [], entropies = [], squares = [], moved = [];
        int clipped = 0, clippedValues = 0;
        foreach (int s in responses)
        {
            var (prompt, response) = (rollout.Samples[s].Prompt.Ids, rollout.Samples[s].Response);
            int[] ids = [.. prompt, .. response];
            var batch = PackedBatch.From([new Example(ids, ids, "", 0)]);
            setup.Policy.Enable();
            var said = pass.Measure(batch, options.Temperature);
            for (int t = 0; t < response.Length; t++)
            {
                int row = prompt.Length - 1 + t;
                double difference = said.LogProbs[row] - rollout.LogProbs[s][t], ratio = Math.Exp(difference), advantage = rollout.Advantages[s][t];
                double free = ratio * advantage, bounded = Math.Max(1 - options.ClipRange, Math.Min(1 + options.ClipRange, ratio)) * advantage;
                policy.Add(-Math.Min(free, bounded));
                clipped += bounded < free ? 1 : 0;
                entropies.Add(said.Entropies[row]);
                squares.Add(difference * difference);
                moved.Add(ratio - 1);
            }

            setup.Value.Enable();
            double[] scores = pass.Scores(batch, setup.Value.Head!);
            int slots = options.TrlCompatible ? Math.Min(options.ResponseLength, response.Length + 1) : response.Length;
            for (int t = 0; t < slots; t++)
            {
                double now = scores[prompt.Length - 1 + t], old = rollout.Values[s][t], goal = rollout.Returns[s][t];
                double free = Math.Pow(now - goal, 2), bounded = Math.Pow(Math.Max(old - options.ClipRangeValue, Math.Min(old + options.ClipRangeValue, now)) - goal, 2);
                value.Add(Math.Max(free, bounded) / 2);
                clippedValues += bounded > free ? 1 : 0;
            }
        }

        double slotsOfAll = options.TrlCompatible ? responses.Length * options.ResponseLength : policy.Count; // TRL averages over the padding too, where nothing moves
        var statistics = new PpoStatistics
        {
            PolicyLoss = policy.Average(), ValueLoss = value.Average(), Entropy = entropies.Average(), ClipFraction = (double)clipped / policy.Count,
            ValueClipFraction = (double)clippedValues / value.Count, ApproximateKl = squares.Sum() / 2 / slotsOfAll, RatioMinusOne = moved.Sum() / slotsOfAll,
        };
        return (statistics, statistics.PolicyLoss + options.ValueCoefficient * statistics.ValueLoss - options.EntropyCoefficient * statistics.Entropy);
    }
}
