using IlgpuPeft.Adapters;
using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Reinforcement;

/// <summary>What one pass over all completions of a step found.</summary>
/// <param name="Loss">Of the policy as it was.</param>
/// <param name="Learns">Whether any gradient can differ from zero.</param>
/// <param name="LogProbs">Log-probability of each completion token, in nats; empty where a completion is not learnt from.</param>
/// <param name="Metrics">TRL's <c>clip_ratio/*</c>, <c>entropy</c> and, with a reference, <c>kl</c>.</param>
readonly record struct GroupGradient(double Loss, bool Learns, double[][] LogProbs, IReadOnlyDictionary<string, double> Metrics);

/// <summary>Passes of policy and reference over completions, and the gradient of the step's loss.</summary>
sealed class GroupUpdate(AdapterSet policy, AdapterSet? reference, GrpoOptions options) : IDisposable
{
    readonly LanguageModelPass pass = new(policy.Model);

    /// <summary>Log-probability of each completion token under the reference; null where nothing is held to one.</summary>
    public double[][]? ReferenceLogProbs(CompletionGroups groups)
    {
        if (options.Beta == 0)
        {
            return null;
        }

        AdapterSet.EnableReference(policy.Model, reference);
        double[][] all = NotLearnt(groups);
        foreach (var (members, batch) in Passes(groups))
        {
            MicroBatch.Put(batch.OfTargets(pass.LogProbs(batch, options.Temperature)), members, all);
        }

        return all;
    }

    /// <summary>Adds the gradient of the step's loss to the policy's gradients.</summary>
    /// <param name="groups">The completions.</param>
    /// <param name="old">Log-probabilities of the policy that drew them; null where the policy still is the one that drew them.</param>
    /// <param name="reference">From <see cref="ReferenceLogProbs"/>.</param>
    public GroupGradient Differentiate(CompletionGroups groups, double[][]? old, double[][]? reference)
    {
        policy.Enable();
        List<MicroBatch> passes = [.. Passes(groups)];
        var counts = new GroupStep(groups.Samples.Count, groups.Tokens, options.MaxCompletionLength, Math.Max(1, passes.Count));
        long learnt = groups.Learnt.Sum(s => (long)groups.Samples[s].Response.Length);
        double loss = 0, entropy = 0;
        bool learns = false;
        double[][] all = NotLearnt(groups);
        List<IReadOnlyDictionary<string, double>> metrics = [];
        foreach (var (members, batch) in passes)
        {
            // Completions of groups that agree have nothing to teach, and need no backward pass unless something else holds for them.
            bool teaches = options.Beta > 0 || options.EntropyCoefficient > 0 || members.Any(s => groups.Advantages[s] != 0);
            if (teaches)
            {
                pass.Train(batch, options.Temperature, Differentiate);
            }
            else
            {
                Differentiate(pass.Measure(batch, options.Temperature));
            }

            TokenGradients Differentiate(TokenStatistics said)
            {
                double[][] own = batch.OfTargets(said.LogProbs);
                MicroBatch.Put(own, members, all);
                var result = GroupLoss.Compute(own, old is null ? own : MicroBatch.Of(old, members), reference is null ? [] : MicroBatch.Of(reference, members), MicroBatch.Of(groups.Advantages, members), options.Loss, counts);
                double entropies = batch.OfTargets(said.Entropies).Sum(tokens => tokens.Sum()) / learnt;
                loss += result.Loss - options.EntropyCoefficient * entropies;
                entropy += entropies;
                learns |= options.EntropyCoefficient > 0 || result.Gradient.Any(tokens => tokens.Any(value => value != 0)); // at the reference itself, divergence has no gradient either
                metrics.Add(result.Metrics);
                return new TokenGradients(batch.ToRows(result.Gradient), options.EntropyCoefficient > 0 ? Bonus(own) : null);
            }

            double[] Bonus(double[][] own) => batch.ToRows([.. own.Select(tokens => Array.ConvertAll(tokens, _ => -options.EntropyCoefficient / learnt))]);
        }

        return new GroupGradient(loss, learns, all, new Dictionary<string, double>(MetricShares.Sum(metrics), StringComparer.Ordinal) { ["entropy"] = entropy });
    }

    /// <inheritdoc />
    public void Dispose() => pass.Dispose();

    IEnumerable<MicroBatch> Passes(CompletionGroups groups) =>
        groups.Learnt.Length == 0 ? [] : MicroBatch.Split(groups.Sequences, groups.Learnt, options.MicroBatchSize, options.TokensPerPass);

    static double[][] NotLearnt(CompletionGroups groups) => [.. groups.Samples.Select(_ => Array.Empty<double>())];
}
