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

    /// <summary>
    /// One forward and backward pass of a loss that is any function of the targets' log-probabilities and of the entropies of the distributions that they are drawn from. Dropout is off, as
    /// in all preference and policy methods. Waits for the device once, for what <paramref name="loss"/> is given.
    /// </summary>
    /// <param name="batch">The tokens and their targets.</param>
    /// <param name="temperature">Divides the logits.</param>
    /// <param name="loss">Given both numbers of each row [N], 0 where there is no target, returns the derivatives of the loss with respect to them. They are added to the trainable parameters' gradients.</param>
    public void Train(PackedBatch batch, double temperature, Func<TokenStatistics, TokenGradients> loss)
    {
        arena.Reset();
        var tape = new Tape(backend, arena) { IsTraining = false };
        var hidden = Forward(tape, batch);
        var targets = tape.Upload(batch.Targets);
        var (logprobs, entropies) = (tape.Take(backend.Parameter, batch.Length), tape.Take(backend.Parameter, batch.Length));
        backend.TokenLogProbs(hidden.Data, model.Head, targets, temperature, logprobs, entropies, default, default, default);
        var gradients = loss(new TokenStatistics(backend.ReadDoubles(logprobs), backend.ReadDoubles(entropies)));
        var coefficients = Upload(tape, gradients.LogProbs);
        var entropyCoefficients = gradients.Entropies is { } values ? Upload(tape, values) : default;
        hidden.Gradient = hidden.RequiresGradient ? arena.Allocate(backend.Activation, hidden.Data.Length) : default;
        backend.TokenLogProbs(hidden.Data, model.Head, targets, temperature, logprobs, default, coefficients, hidden.Gradient, model.HeadGradient, entropyCoefficients);
        tape.Backward();
    }

    /// <summary>One forward and backward pass of a loss that is any function of the numbers that a scalar head gives to tokens. Dropout is off.</summary>
    /// <param name="batch">The tokens; targets are not read.</param>
    /// <param name="head">[1, D], of the adapter that is enabled.</param>
    /// <param name="loss">Given the number of each row [N], returns the derivatives of the loss with respect to them. They are added to the trainable parameters' gradients.</param>
    public void TrainScores(PackedBatch batch, Parameter head, Func<double[], double[]> loss)
    {
        arena.Reset();
        var tape = new Tape(backend, arena) { IsTraining = false };
        var hidden = Forward(tape, batch);
        var scores = tape.Take(backend.Parameter, batch.Length);
        backend.ScalarHeadForward(hidden.Data, head.Value, scores);
        var gradients = Upload(tape, loss(backend.ReadDoubles(scores)));
        hidden.Gradient = hidden.RequiresGradient ? arena.Allocate(backend.Activation, hidden.Data.Length) : default;
        backend.ScalarHeadBackward(gradients, hidden.Data, head.Value, hidden.Gradient, head.Gradient);
        tape.Backward();
    }

    /// <summary>The log-probability of each target [N], 0 where there is none. No gradients.</summary>
    /// <param name="batch">The tokens and their targets.</param>
    /// <param name="temperature">Divides the logits.</param>
    public double[] LogProbs(PackedBatch batch, double temperature = 1) => backend.ReadDoubles(Measure(batch, temperature, withEntropies: false).LogProbs);

    /// <summary>The log-probability of each target [N], 0 where there is none, and the entropy of the distribution that it is drawn from. No gradients.</summary>
    /// <param name="batch">The tokens and their targets.</param>
    /// <param name="temperature">Divides the logits.</param>
    public TokenStatistics Measure(PackedBatch batch, double temperature = 1)
    {
        var (logprobs, entropies) = Measure(batch, temperature, withEntropies: true);
        return new TokenStatistics(backend.ReadDoubles(logprobs), backend.ReadDoubles(entropies));
    }

    /// <summary>The number that a scalar head gives to each token [N], in the light of those before it. No gradients.</summary>
    /// <param name="batch">The tokens; targets are not read.</param>
    /// <param name="head">[1, D], of the adapter that is enabled.</param>
    public double[] Scores(PackedBatch batch, Parameter head)
    {
        arena.Reset();
        var tape = Tape.ForInference(backend, arena);
        var hidden = Forward(tape, batch);
        var scores = tape.Take(backend.Parameter, batch.Length);
        backend.ScalarHeadForward(hidden.Data, head.Value, scores);
        return backend.ReadDoubles(scores);
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

    (Slice LogProbs, Slice Entropies) Measure(PackedBatch batch, double temperature, bool withEntropies)
    {
        arena.Reset();
        var tape = Tape.ForInference(backend, arena);
        var hidden = Forward(tape, batch);
        var (logprobs, entropies) = (tape.Take(backend.Parameter, batch.Length), withEntropies ? tape.Take(backend.Parameter, batch.Length) : default);
        backend.TokenLogProbs(hidden.Data, model.Head, tape.Upload(batch.Targets), temperature, logprobs, entropies, default, default, default);
        return (logprobs, entropies);
    }

    Tensor Forward(Tape tape, PackedBatch batch) => model.Forward(tape, TokenBatch.Whole(tape, batch.InputIds, batch.Lengths));

    Slice Upload(Tape tape, double[] values)
    {
        var slice = tape.Take(backend.Parameter, values.Length);
        backend.Write(values, slice);
        return slice;
    }
}

/// <summary>What a model says of the targets of a batch, one number for each row [N], 0 where there is no target.</summary>
/// <param name="LogProbs">Log-probabilities of the targets, in nats.</param>
/// <param name="Entropies">Entropies of the distributions that they are drawn from, in nats.</param>
public sealed record TokenStatistics(double[] LogProbs, double[] Entropies);

/// <summary>Derivatives of a loss with respect to <see cref="TokenStatistics"/> [N].</summary>
/// <param name="LogProbs">With respect to the log-probabilities.</param>
/// <param name="Entropies">With respect to the entropies, or null where the loss does not read them.</param>
public sealed record TokenGradients(double[] LogProbs, double[]? Entropies = null);
