using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Training;

/// <summary>Passes of token batches through a model: log-probabilities, and the gradients of any loss that is a function of them.</summary>
/// <param name="model">The model, with whatever adapters are enabled.</param>
public sealed class LanguageModelPass(CausalLm model) : IDisposable
{
    readonly Arena arena = new(model.Backend);
    readonly Backend backend = model.Backend;

    /// <summary>Device memory that passes have needed so far.</summary>
    public long ArenaBytes => arena.Bytes;

    /// <summary>
    /// Queues one forward and backward pass of a supervised batch. Gradients of (-Σ logprob) / <paramref name="lossTokens"/> are added to the trainable parameters. Nothing waits for the
    /// device.
    /// </summary>
    /// <param name="batch">The tokens and their targets.</param>
    /// <param name="lossTokens">Trained tokens of the whole optimizer step, over all its batches.</param>
    /// <param name="randomness">Seed, and a number that differs from batch to batch: keys dropout.</param>
    /// <param name="loss">One element in the parameters' type: (-Σ logprob) / lossTokens of this batch, in nats, is added to it. Or left out.</param>
    public void Train(PackedBatch batch, long lossTokens, (ulong Seed, uint Step) randomness, Slice loss = default)
    {
        arena.Reset();
        var tape = new Tape(backend, arena) { Randomness = randomness };
        var hidden = Forward(tape, batch);
        var coefficients = tape.Take(backend.Parameter, batch.Length);
        backend.Fill(coefficients, -1.0 / lossTokens);
        var logprobs = tape.Take(backend.Parameter, batch.Length);
        hidden.Gradient = hidden.RequiresGradient ? arena.Allocate(backend.Activation, hidden.Data.Length) : default;
        backend.TokenLogProbs(hidden.Data, model.Head, tape.Upload(batch.Targets), 1, logprobs, default, coefficients, hidden.Gradient, model.HeadGradient);
        if (!loss.IsEmpty)
        {
            backend.Sum(logprobs, -1.0 / lossTokens, loss, accumulate: true);
        }

        tape.Backward();
    }

    /// <summary>The log-probability of each target [N], 0 where there is none. No gradients.</summary>
    public double[] LogProbs(PackedBatch batch)
    {
        arena.Reset();
        var tape = Tape.ForInference(backend, arena);
        var hidden = Forward(tape, batch);
        var logprobs = tape.Take(backend.Parameter, batch.Length);
        backend.TokenLogProbs(hidden.Data, model.Head, tape.Upload(batch.Targets), 1, logprobs, default, default, default, default);
        return backend.ReadDoubles(logprobs);
    }

    /// <summary>All logits [N, V] of a batch, row-major.</summary>
    public float[] Logits(PackedBatch batch)
    {
        arena.Reset();
        var tape = Tape.ForInference(backend, arena);
        return backend.ReadFloats(model.Logits(tape, Forward(tape, batch)).Data);
    }

    /// <summary>Negative log-likelihood per trained token over a data set, and how many there are.</summary>
    public (double Loss, long Tokens) Evaluate(IReadOnlyList<Example> examples, int tokensPerPass, CancellationToken cancel = default)
    {
        double sum = 0;
        long tokens = 0;
        int capacity = Math.Max(tokensPerPass, examples.Max(example => example.Length));
        foreach (int[] bin in Packer.Pack([.. examples.Select(example => example.Length)], capacity))
        {
            cancel.ThrowIfCancellationRequested();
            var batch = PackedBatch.From([.. bin.Select(i => examples[i])]);
            sum -= LogProbs(batch).Sum();
            tokens += batch.TrainedTokens;
        }

        return (sum / Math.Max(1, tokens), tokens);
    }

    /// <inheritdoc />
    public void Dispose() => arena.Dispose();

    Tensor Forward(Tape tape, PackedBatch batch)
    {
        var lengths = new int[batch.Sequences];
        for (int s = 0; s < lengths.Length; s++)
        {
            lengths[s] = batch.Offsets[s + 1] - batch.Offsets[s];
        }

        return model.Forward(tape, TokenBatch.Whole(tape, batch.InputIds, lengths));
    }
}
