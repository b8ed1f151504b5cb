using IlgpuPeft.Data;
using IlgpuPeft.Losses;

namespace IlgpuPeft.Reinforcement;

/// <summary>What an update did.</summary>
/// <param name="MiniBatches">Statistics of each optimizer step.</param>
/// <param name="Loss">Mean over them of policy loss, value loss times its coefficient, and entropy bonus.</param>
/// <param name="Epochs">Passes over the experience.</param>
readonly record struct PpoUpdateResult(IReadOnlyList<PpoStatistics> MiniBatches, double Loss, int Epochs);

/// <summary>Learns from one experience: several passes over it, in mini-batches with an optimizer step each.</summary>
sealed class PpoUpdate(PpoRoles roles, PpoOptions options)
{
    // The first mini-batch repeats, with the same weights, the very passes that gave the old log-probabilities: a ratio that is off by more than this is no matter of rounding.
    const double RatioTolerance = 1e-3;

    /// <summary>The mini-batches of an update's first epoch.</summary>
    /// <param name="responses">How many responses there are.</param>
    /// <param name="seed">Of their order.</param>
    /// <param name="options">How many mini-batches.</param>
    public static IReadOnlyList<int[]> FirstEpoch(int responses, ulong seed, PpoOptions options) => [.. MiniBatches(Order(responses, seed), epoch: 0, options)];

    /// <summary>Takes the update's optimizer steps.</summary>
    /// <param name="rollout">The experience.</param>
    /// <param name="takeStep">Called for each mini-batch when its gradients are there, with its loss.</param>
    /// <exception cref="InvalidOperationException">The policy does not recognise its own samples before it has changed.</exception>
    public PpoUpdateResult Run(Rollout rollout, Action<double> takeStep)
    {
        var order = Order(rollout.Count, rollout.OrderSeed);
        int epoch = 0;
        List<PpoStatistics> statistics = [];
        double losses = 0;
        for (bool goesOn = true; goesOn && epoch < options.PpoEpochs;)
        {
            int before = statistics.Count;
            foreach (int[] miniBatch in MiniBatches(order, epoch, options))
            {
                double loss = Differentiate(rollout, miniBatch, isFirst: statistics.Count == 0, statistics);
                takeStep(loss);
                losses += loss;
            }

            goesOn = options.EpochKlLimit == 0 || statistics.Skip(before).Average(batch => batch.ApproximateKl) <= options.EpochKlLimit;
            epoch++;
        }

        return new PpoUpdateResult(statistics, losses / statistics.Count, epoch);
    }

    static DataOrder Order(int responses, ulong seed) => new(responses, seed, shuffle: true);

    static IEnumerable<int[]> MiniBatches(DataOrder order, int epoch, PpoOptions options)
    {
        int size = (order.Count + options.MiniBatches - 1) / options.MiniBatches;
        for (var position = new DataPosition(epoch, 0); position.Epoch == epoch;)
        {
            (int[] miniBatch, position) = order.Take(position, size);
            yield return miniBatch;
        }
    }

    double Differentiate(Rollout rollout, int[] miniBatch, bool isFirst, List<PpoStatistics> statistics)
    {
        roles.Policy.Parameters.ZeroGradients();
        roles.Value.Parameters.ZeroGradients();
        long tokens = miniBatch.Sum(s => (long)rollout.LogProbs[s].Length), values = miniBatch.Sum(s => (long)rollout.Values[s].Length);
        var counts = new PpoMiniBatch(tokens, values, options.TrlCompatible ? (long)miniBatch.Length * options.ResponseLength - tokens : 0);
        var sum = new PpoStatistics();
        double loss = 0, moved = 0;
        roles.TrainPolicy(rollout.Sequences, miniBatch, (members, logProbs, entropies) =>
        {
            var (old, advantages) = (MicroBatch.Of(rollout.LogProbs, members), MicroBatch.Of(rollout.Advantages, members));
            moved += logProbs.Zip(old).Sum(pair => pair.First.Zip(pair.Second, (now, then) => Math.Abs(Math.Exp(now - then) - 1)).Sum());
            var result = PpoLoss.Policy(logProbs, old, advantages, entropies, options.Loss, counts);
            (loss, sum) = (loss + result.Loss, sum + result.Statistics);
            return (result.LogProbGradient, options.EntropyCoefficient > 0 ? result.EntropyGradient : null);
        });
        if (isFirst)
        {
            RequireUnmoved(moved / tokens);
        }

        roles.TrainValues(rollout.Sequences, miniBatch, rollout.ExtraSlots, (members, now) =>
        {
            var result = PpoLoss.Value(now, MicroBatch.Of(rollout.Values, members), MicroBatch.Of(rollout.Returns, members), options.Loss, counts);
            (loss, sum) = (loss + result.Loss, sum + result.Statistics);
            return result.ValueGradient;
        });
        statistics.Add(sum);
        return loss;
    }

    static void RequireUnmoved(double deviation)
    {
        if (!(deviation <= RatioTolerance))
        {
            throw new InvalidOperationException(
                $"PpoTrainer: before its first step of an update, the policy gives the responses that it has just drawn other probabilities than when they were scored: mean |ratio - 1| is {deviation:g3}, " +
                $"expected at most {RatioTolerance}. Learning from them would correct for a change that did not happen. Look for what changes the adapters in between, such as a reward that writes to them.");
        }
    }
}
