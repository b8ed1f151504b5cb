using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>
/// Whole responses under a policy and under its reference, two roles of one frozen base: the log-probabilities of their tokens, and the gradients of any loss over them.
/// </summary>
sealed class ResponsePass : IDisposable
{
    // Tokens that a pass without gradients holds at most, unless a sequence is longer, and how many sequences are packed into such passes at a time.
    const int TokensPerPass = 2048, SequencesAtOnce = 256;

    readonly AdapterSet policy;
    readonly AdapterSet? reference;
    readonly LanguageModelPass pass;

    /// <param name="trainer">Whom errors name.</param>
    /// <param name="policy">What is trained.</param>
    /// <param name="reference">What it is compared with; null for the base with no adapter.</param>
    /// <exception cref="ArgumentException">As <see cref="AdapterRoles.Check"/>.</exception>
    public ResponsePass(string trainer, AdapterSet policy, AdapterSet? reference)
    {
        AdapterRoles.Check(trainer, policy, reference);
        (this.policy, this.reference) = (policy, reference);
        ReferenceDescription = AdapterRoles.Describe(reference);
        pass = new LanguageModelPass(policy.Model);
    }

    /// <summary>Which reference this is, by its values.</summary>
    public string ReferenceDescription { get; }

    /// <summary>The summed log-probability of each sequence's trained tokens under the reference, nats.</summary>
    public double[] ReferenceSums(IEnumerable<Example> sequences, CancellationToken cancel)
    {
        AdapterSet.EnableReference(policy.Model, reference);

        try
        {
            return Sums(sequences, cancel);
        }
        finally
        {
            policy.Enable();
        }
    }

    /// <summary>The same under the policy, without gradients.</summary>
    public double[] PolicySums(IEnumerable<Example> sequences, CancellationToken cancel = default)
    {
        policy.Enable();
        return Sums(sequences, cancel);
    }

    /// <summary>The loss over the policy's log-probabilities of all sequences, one array per sequence.</summary>
    public Evaluation Evaluate(IEnumerable<Example> sequences, Func<double[][], ResponseLoss> loss, CancellationToken cancel)
    {
        policy.Enable();
        var totals = new ResponseTotals();
        totals.Add(loss([.. LogProbs(sequences, totals, cancel)]));
        return totals.ToEvaluation();
    }

    /// <summary>One forward and backward pass of the policy over a micro-batch; adds to its gradients and to the totals of the step.</summary>
    public void Train(IEnumerable<Example> sequences, ResponseTotals totals, Func<double[][], ResponseLoss> loss)
    {
        policy.Enable();
        var batch = PackedBatch.From([.. sequences]);
        pass.Train(batch, temperature: 1, statistics =>
        {
            var part = loss(batch.OfTargets(statistics.LogProbs));
            totals.Add(batch, statistics.Entropies);
            totals.Add(part);
            return new TokenGradients(batch.ToRows(part.Gradient));
        });
    }

    /// <inheritdoc />
    public void Dispose() => pass.Dispose();

    double[] Sums(IEnumerable<Example> sequences, CancellationToken cancel) => [.. LogProbs(sequences, new ResponseTotals(), cancel).Select(tokens => tokens.Sum())];

    // Sequence by sequence, in their order, though they are packed by length.
    IEnumerable<double[]> LogProbs(IEnumerable<Example> sequences, ResponseTotals totals, CancellationToken cancel)
    {
        foreach (var some in sequences.Chunk(SequencesAtOnce))
        {
            var logprobs = new double[some.Length][];
            int capacity = Math.Max(TokensPerPass, some.Max(sequence => sequence.Length));
            foreach (int[] bin in Packer.Pack([.. some.Select(sequence => sequence.Length)], capacity))
            {
                cancel.ThrowIfCancellationRequested();
                var batch = PackedBatch.From([.. bin.Select(i => some[i])]);
                var statistics = pass.Measure(batch);
                totals.Add(batch, statistics.Entropies);
                foreach (var (i, tokens) in bin.Zip(batch.OfTargets(statistics.LogProbs)))
                {
                    logprobs[i] = tokens;
                }
            }

            foreach (double[] tokens in logprobs)
            {
                yield return tokens;
            }
        }
    }
}
