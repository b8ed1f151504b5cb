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
    // The same passes over the same tokens with the same weights gave the old log-probabilities; only their grouping, and with it rounding, differs.
    const double RatioTolerance = 1e-3;

    /// <summary>Takes the update's optimizer steps.</summary>
    /// <param name="rollout">The experience.</param>
    /// <param name="seed">Of the order of its responses.</param>
    /// <param name="takeStep">Called for each mini-batch when its gradients are there, with its loss.</param>
    /// <exception cref="InvalidOperationException">The policy does not recognise its own samples before it has changed.</exception>
    public PpoUpdateResult Run(Rollout rollout, ulong seed, Action<double> takeStep)
    {
        var order = new DataOrder(rollout.Count, seed, shuffle: true);
        int size = (rollout.Count + options.MiniBatches - 1) / options.MiniBatches, epoch = 0;
        List<PpoStatistics> statistics = [];
        double losses = 0;
        for (bool goesOn = true; goesOn && epoch < options.PpoEpochs;)
        {
            var (position, before) = (new DataPosition(epoch, 0), statistics.Count);
            while (position.Epoch == epoch)
            {
                (int[] miniBatch, position) = order.Take(position, size);
                double loss = Differentiate(rollout, miniBatch, isFirst: statistics.Count == 0, statistics);
                takeStep(loss);
                losses += loss;
            }

            goesOn = options.EpochKlLimit == 0 || statistics.Skip(before).Average(batch => batch.ApproximateKl) <= options.EpochKlLimit;
            epoch++;
        }

        return new PpoUpdateResult(statistics, losses / statistics.Count, epoch);
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
                $"expected at most {RatioTolerance}. Learning from them would correct for a change that did not happen. Look for what changes the adapters in between, such as a reward that writes to them, " +
                "or for weights that are too large for the device's precision.");
        }
    }
}
