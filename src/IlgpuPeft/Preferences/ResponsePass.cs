using System.Runtime.InteropServices;
using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Tensors;
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
    /// <exception cref="ArgumentException">One of the sets is no language model, or they are not two sets over one base.</exception>
    public ResponsePass(string trainer, AdapterSet policy, AdapterSet? reference)
    {
        Require(policy.Head is null, nameof(policy), "the policy has a scalar head, expected an adapter that continues texts. Make it without scalarHead.");
        Require(reference != policy, nameof(reference), "the reference is the policy itself, which changes as it trains, expected a set of its own. Load the adapter a second time, or leave it out for the base.");
        Require(reference?.Head is null, nameof(reference), "the reference has a scalar head, expected an adapter that continues texts.");
        Require(reference is null || reference.Model == policy.Model, nameof(reference), "the reference is over another base, expected the policy's. Make both over one model.");
        (this.policy, this.reference) = (policy, reference);
        ReferenceDescription = reference is null ? "base" : Digest(reference);
        pass = new LanguageModelPass(policy.Model);

        void Require(bool holds, string name, string problem)
        {
            if (!holds)
            {
                throw new ArgumentException($"{trainer}: {problem}", name);
            }
        }
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

    static string Digest(AdapterSet set)
    {
        var digest = new DataDigest();
        digest.Add(MemoryMarshal.Cast<float, int>(set.Model.Backend.ReadFloats(set.Parameters.Values)));
        return digest.ToString();
    }
}
