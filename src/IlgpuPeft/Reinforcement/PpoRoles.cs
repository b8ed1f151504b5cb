using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Models;
using IlgpuPeft.Training;

namespace IlgpuPeft.Reinforcement;

/// <summary>One frozen base in its roles: policy, reference and value model, each for the length of a pass.</summary>
sealed class PpoRoles : IDisposable
{
    readonly AdapterSet? reference;
    readonly LanguageModelPass pass;
    readonly PpoOptions options;

    /// <exception cref="ArgumentException">As <see cref="AdapterRoles.Check"/>.</exception>
    public PpoRoles(AdapterSet policy, AdapterSet value, AdapterSet? reference, PpoOptions options)
    {
        (Policy, Value, this.reference, this.options) = (policy, value, reference, options);
        AdapterRoles.Check(nameof(PpoTrainer), policy, reference, value);
        ReferenceDescription = AdapterRoles.Describe(reference);
        pass = new LanguageModelPass(policy.Model);
    }

    public AdapterSet Policy { get; }

    public AdapterSet Value { get; }

    public CausalLm Model => Policy.Model;

    /// <summary>Which reference this is, by its values.</summary>
    public string ReferenceDescription { get; }

    /// <summary>Log-probability of each response token under the policy.</summary>
    /// <param name="sequences">Prompts and responses.</param>
    /// <param name="miniBatches">Indices of all of them, in the mini-batches whose passes are taken: <see cref="TrainPolicy"/> over one of these takes the same passes.</param>
    public double[][] PolicyLogProbs(IReadOnlyList<Example> sequences, IReadOnlyList<int[]> miniBatches)
    {
        Policy.Enable();
        return LogProbs(sequences, miniBatches);
    }

    /// <summary>The same under the reference.</summary>
    public double[][] ReferenceLogProbs(IReadOnlyList<Example> sequences, IReadOnlyList<int[]> miniBatches)
    {
        AdapterSet.EnableReference(Model, reference);
        return LogProbs(sequences, miniBatches);
    }

    /// <summary>The value before each response token is drawn, in the row that predicts it.</summary>
    /// <param name="sequences">Prompts and responses.</param>
    /// <param name="miniBatches">As <see cref="PolicyLogProbs"/>.</param>
    /// <param name="extra">For each sequence whether the value after its last token follows.</param>
    public double[][] Values(IReadOnlyList<Example> sequences, IReadOnlyList<int[]> miniBatches, ReadOnlyMemory<bool> extra)
    {
        Value.Enable();
        return Measure(sequences, miniBatches, (batch, members) => ValueRows.Read(batch, pass.Scores(batch, Value.Head!), members, extra.Span));
    }

    /// <summary>Adds gradients of a loss of the policy's log-probabilities and entropies, over micro-batches of a mini-batch.</summary>
    /// <param name="sequences">All sequences.</param>
    /// <param name="miniBatch">Indices of those that take part.</param>
    /// <param name="loss">Given the sequences of a micro-batch and what the policy says of their response tokens, returns derivatives in the same shape.</param>
    public void TrainPolicy(IReadOnlyList<Example> sequences, int[] miniBatch, Func<int[], double[][], double[][], (double[][] LogProbs, double[][]? Entropies)> loss)
    {
        Policy.Enable();
        foreach (var (members, batch) in MicroBatch.Split(sequences, miniBatch, options.MicroBatchSize, options.TokensPerPass))
        {
            pass.Train(batch, options.Temperature, said =>
            {
                var (logProbs, entropies) = loss(members, batch.OfTargets(said.LogProbs), batch.OfTargets(said.Entropies));
                return new TokenGradients(batch.ToRows(logProbs), entropies is null ? null : batch.ToRows(entropies));
            });
        }
    }

    /// <summary>Adds gradients of a loss of the values, over micro-batches of a mini-batch.</summary>
    /// <param name="sequences">All sequences.</param>
    /// <param name="miniBatch">Indices of those that take part.</param>
    /// <param name="extra">As <see cref="Values"/>.</param>
    /// <param name="loss">Given the sequences of a micro-batch and their values, returns derivatives in the same shape.</param>
    public void TrainValues(IReadOnlyList<Example> sequences, int[] miniBatch, ReadOnlyMemory<bool> extra, Func<int[], double[][], double[][]> loss)
    {
        Value.Enable();
        foreach (var (members, batch) in MicroBatch.Split(sequences, miniBatch, options.MicroBatchSize, options.TokensPerPass))
        {
            pass.TrainScores(batch, Value.Head!, scores => ValueRows.Spread(batch, loss(members, ValueRows.Read(batch, scores, members, extra.Span)), members, extra.Span));
        }
    }

    /// <inheritdoc />
    public void Dispose() => pass.Dispose();

    double[][] LogProbs(IReadOnlyList<Example> sequences, IReadOnlyList<int[]> miniBatches) => Measure(sequences, miniBatches, (batch, _) => batch.OfTargets(pass.LogProbs(batch, options.Temperature)));

    double[][] Measure(IReadOnlyList<Example> sequences, IReadOnlyList<int[]> miniBatches, Func<PackedBatch, int[], double[][]> measure)
    {
        var all = new double[sequences.Count][];
        foreach (var (members, batch) in miniBatches.SelectMany(miniBatch => MicroBatch.Split(sequences, miniBatch, options.MicroBatchSize, options.TokensPerPass)))
        {
            MicroBatch.Put(measure(batch, members), members, all);
        }

        return all;
    }
}
