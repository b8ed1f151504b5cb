using System.Runtime.CompilerServices;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Generation;

/// <summary>How a continuation is drawn and when it ends.</summary>
public sealed record GenerationOptions
{
    /// <summary>The most tokens that are generated.</summary>
    public int MaxTokens { get; init; } = 128;

    /// <summary>Divides the logits; 0 takes the most likely token each time.</summary>
    public double Temperature { get; init; }

    /// <summary>Draws from the k most likely tokens; 0 for all.</summary>
    public int TopK { get; init; }

    /// <summary>Draws from the smallest set of tokens whose probability reaches p; 1 for all.</summary>
    public double TopP { get; init; } = 1;

    /// <summary>Keys the random draws; the same seed gives the same text.</summary>
    public ulong Seed { get; init; }

    /// <summary>Tokens that end the continuation and are not part of it; null takes the model's own.</summary>
    public IReadOnlyList<int>? StopIds { get; init; }
}

/// <summary>A finished continuation.</summary>
/// <param name="Tokens">The generated tokens, without prompt and stop token.</param>
/// <param name="FinishReason"><c>stop</c>: a stop token came; <c>length</c>: the limit was reached.</param>
/// <param name="StopId">The stop token, or null.</param>
public sealed record Completion(IReadOnlyList<int> Tokens, string FinishReason, int? StopId = null)
{
    /// <summary>All that was drawn, the stop token included: what a policy is paid for.</summary>
    public int[] Response => StopId is { } stop ? [.. Tokens, stop] : [.. Tokens];
}

/// <summary>Generates from a model token by token, keeping keys and values of what was read; the weights are used as they are, adapters live.</summary>
/// <param name="model">The model, with whatever adapters are enabled.</param>
public sealed class Generator(CausalLm model) : IDisposable
{
    // Rows of a prompt that are read in one pass: bounds the memory of activations.
    const int PrefillTokens = 512;

    readonly Arena arena = new(model.Backend);
    KvCache? cache;
    int continuation;

    /// <summary>Generates to the end.</summary>
    /// <exception cref="ArgumentException">The prompt is empty, or holds a token that the model lacks.</exception>
    public Completion Complete(IReadOnlyList<int> prompt, GenerationOptions options, CancellationToken cancel = default)
    {
        List<int> tokens = [];
        int? stop = null;
        foreach (int token in Draw(prompt, options, id => stop = id))
        {
            cancel.ThrowIfCancellationRequested();
            tokens.Add(token);
        }

        return new Completion(tokens, stop is null ? "length" : "stop", stop);
    }

    /// <summary>Generates tokens as they are asked for. There is one cache, so a generator has one continuation at a time.</summary>
    /// <exception cref="ArgumentException">The prompt is empty, or holds a token that the model lacks.</exception>
    /// <exception cref="InvalidOperationException">Another continuation was started before this one ended.</exception>
    public IEnumerable<int> Stream(IReadOnlyList<int> prompt, GenerationOptions options) => Draw(prompt, options, _ => { });

    IEnumerable<int> Draw(IReadOnlyList<int> prompt, GenerationOptions options, Action<int> stopped)
    {
        Check(prompt);
        var stops = options.StopIds ?? model.Config.EosIds;
        Reserve((long)prompt.Count + options.MaxTokens);
        int mine = ++continuation;
        var sampling = new Sampling(options.Temperature, options.TopK, options.TopP);
        int[] pending = [.. prompt];
        for (uint step = 0; step < options.MaxTokens; step++)
        {
            if (mine != continuation)
            {
                throw new InvalidOperationException("Generator: another continuation was started on this generator, and the two share one cache. Finish one first, or use a generator for each.");
            }

            int token = Next(pending, sampling, new RandomKey(options.Seed, step, 0));
            if (stops.Contains(token))
            {
                stopped(token);
                yield break;
            }

            yield return token;
            pending = [token];
        }
    }

    /// <summary>Generates tokens as they come, off the caller's thread.</summary>
    /// <exception cref="ArgumentException">The prompt is empty, or holds a token that the model lacks.</exception>
    public async IAsyncEnumerable<int> StreamAsync(IReadOnlyList<int> prompt, GenerationOptions options, [EnumeratorCancellation] CancellationToken cancel = default)
    {
        using var tokens = Stream(prompt, options).GetEnumerator();
        while (await Task.Run(tokens.MoveNext, cancel).ConfigureAwait(false))
        {
            yield return tokens.Current;
        }
    }

    /// <inheritdoc />
    public void Dispose()
    {
        cache?.Dispose();
        arena.Dispose();
    }

    int Next(ReadOnlySpan<int> tokens, Sampling sampling, RandomKey key)
    {
        var tape = Tape.ForInference(model.Backend, arena);
        Tensor? hidden = null;
        for (int start = 0; start < tokens.Length; start += PrefillTokens)
        {
            arena.Reset();
            var part = tokens.Slice(start, Math.Min(PrefillTokens, tokens.Length - start));
            hidden = model.Forward(tape, TokenBatch.Continue(tape, cache!, [0], part, [part.Length]));
        }

        // Only the last row is asked what comes next.
        int width = hidden!.Columns;
        var last = hidden.Data.Range((long)(hidden.Rows - 1) * width, width);
        var logits = tape.New(1, model.Config.Vocabulary);
        model.Backend.LinearForward(last, model.Head, default, null, last, default, logits.Data, accumulate: false);
        var id = tape.Take(DType.I32, 1);
        model.Backend.Sample(logits.Data, 1, sampling, key, id, default);
        int token = model.Backend.ReadInts(id)[0];
        return token >= 0 ? token : throw new ArithmeticException("Generator: a logit is NaN, or none is finite. The model diverged, or its weights are damaged.");
    }

    void Reserve(long tokens)
    {
        if (tokens > int.MaxValue / 2)
        {
            throw new ArgumentException($"Generator: prompt and MaxTokens come to {tokens} tokens, expected at most {int.MaxValue / 2}. Ask for fewer new tokens.");
        }

        int capacity = (int)tokens;
        if (cache is null || cache.Capacity < capacity)
        {
            cache?.Dispose();
            cache = null; // should the next line throw
            cache = new KvCache(model.Backend, model.Config, 1, (capacity + 63) / 64 * 64);
        }

        cache.Rewind(0, 0);
    }

    void Check(IReadOnlyList<int> prompt)
    {
        if (prompt.Count == 0)
        {
            throw new ArgumentException("Generator: the prompt is empty, expected at least one token. Start with the beginning-of-sequence token.", nameof(prompt));
        }

        foreach (int id in prompt)
        {
            if ((uint)id >= model.Config.Vocabulary)
            {
                throw new ArgumentException($"Generator: token id {id} is out of range, expected 0 to {model.Config.Vocabulary - 1}. The prompt was tokenised for another model.", nameof(prompt));
            }
        }
    }
}
