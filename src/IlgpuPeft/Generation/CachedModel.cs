using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Generation;

/// <summary>
/// A model that remembers what it read of several sequences, each in a slot of a KV cache, and draws their next tokens. The weights are used as they are, adapters live. Drawn tokens stay on
/// the device, where the next pass finds them, until <see cref="Collect"/> asks for them: only that waits for the device.
/// </summary>
/// <param name="model">The model, with whatever adapters are enabled.</param>
sealed class CachedModel(CausalLm model) : IDisposable
{
    // Rows of prompts that are read in one pass: bounds the memory of activations.
    const int PrefillTokens = 512;

    readonly Backend backend = model.Backend;
    readonly Arena arena = new(model.Backend);
    KvCache? cache;
    Slice ids;      // I32, what was drawn since it was last collected
    Slice logprobs; // of the same tokens
    int drawn;

    /// <summary>Makes room, and forgets what was read and drawn. Memory is kept from call to call while it suffices.</summary>
    /// <param name="sequences">Slots.</param>
    /// <param name="tokens">The longest sequence.</param>
    /// <param name="draws">The most tokens that are drawn before they are collected.</param>
    /// <exception cref="ArgumentException">That would be more tokens than rows have numbers.</exception>
    public void Reserve(int sequences, long tokens, int draws)
    {
        long most = int.MaxValue / 2 / sequences;
        if (tokens > most)
        {
            throw new ArgumentException($"Generator: prompt and MaxTokens come to {tokens} tokens, expected at most {most} with {sequences} sequences at once. Ask for fewer new tokens.");
        }

        if (cache is null || cache.Capacity < tokens || cache.Lengths.Length < sequences)
        {
            cache?.Dispose();
            cache = null; // should the next line throw
            cache = new KvCache(backend, model.Config, sequences, ((int)tokens + 63) / 64 * 64);
        }

        if (ids.Length < draws)
        {
            FreeDraws();
            ids = backend.Allocate(DType.I32, draws, "activations");
            logprobs = backend.Allocate(backend.Parameter, draws, "activations");
        }

        for (int slot = 0; slot < cache.Lengths.Length; slot++)
        {
            Forget(slot);
        }

        drawn = 0;
    }

    /// <summary>Empties a slot.</summary>
    public void Forget(int slot) => cache!.Rewind(slot, 0);

    /// <summary>Reads prompts into empty slots, end to end and none padded, and draws the first token of each, in order.</summary>
    /// <param name="slots">A slot for each prompt.</param>
    /// <param name="prompts">The prompts.</param>
    /// <param name="options">How to draw.</param>
    /// <param name="draws">Which random number each draws.</param>
    public void Prefill(ReadOnlySpan<int> slots, IReadOnlyList<IReadOnlyList<int>> prompts, GenerationOptions options, ReadOnlySpan<int> draws)
    {
        List<int> piece = [], counts = [], ends = [];
        int first = 0, read = 0; // the first prompt that is not read to its end, and how much of it is
        while (first < prompts.Count)
        {
            piece.Clear();
            counts.Clear();
            ends.Clear();
            for (int i = first; i < prompts.Count && piece.Count < PrefillTokens; i++)
            {
                int count = Math.Min(prompts[i].Count - read, PrefillTokens - piece.Count);
                piece.AddRange(prompts[i].Skip(read).Take(count));
                counts.Add(count);
                read += count;
                if (read == prompts[i].Count)
                {
                    ends.Add(piece.Count - 1);
                    read = 0;
                }
            }

            var tape = Begin();
            var hidden = Read(tape, slots.Slice(first, counts.Count), tape.Upload([.. piece]), [.. counts]);
            if (ends.Count > 0)
            {
                var last = tape.New(ends.Count, hidden.Columns);
                backend.GatherRows(hidden.Data, tape.Upload([.. ends]), hidden.Columns, last.Data);
                Draw(tape, last, options, draws.Slice(first, ends.Count));
                first += ends.Count;
            }
        }
    }

    /// <summary>Reads one more token of each sequence and draws the one that follows.</summary>
    /// <param name="slots">The sequences.</param>
    /// <param name="tokens">The token of each; or none, where it is what the pass before drew for the same slots.</param>
    /// <param name="options">How to draw.</param>
    /// <param name="draws">Which random number each draws.</param>
    public void Decode(ReadOnlySpan<int> slots, ReadOnlySpan<int> tokens, GenerationOptions options, ReadOnlySpan<int> draws)
    {
        var tape = Begin();
        var last = tokens.IsEmpty ? ids.Range(drawn - slots.Length, slots.Length) : tape.Upload(tokens);
        int[] counts = new int[slots.Length];
        counts.AsSpan().Fill(1);
        Draw(tape, Read(tape, slots, last, counts), options, draws);
    }

    /// <summary>Waits for what was drawn since the last time, in order: a negative id where a row had no number to draw by.</summary>
    public (int[] Ids, double[] LogProbs) Collect()
    {
        int count = drawn;
        drawn = 0;
        return (backend.ReadInts(ids.Range(0, count)), backend.ReadDoubles(logprobs.Range(0, count)));
    }

    /// <summary>What the model can read.</summary>
    /// <param name="prompt">The prompt.</param>
    /// <param name="name">What errors call it.</param>
    /// <exception cref="ArgumentException">The prompt is empty, or holds a token that the model lacks.</exception>
    public void Check(IReadOnlyList<int> prompt, string name)
    {
        if (prompt.Count == 0)
        {
            throw new ArgumentException($"Generator: {name} is empty, expected at least one token. Start with the beginning-of-sequence token.", nameof(prompt));
        }

        foreach (int id in prompt)
        {
            if ((uint)id >= model.Config.Vocabulary)
            {
                throw new ArgumentException($"Generator: token id {id} is out of range in {name}, expected 0 to {model.Config.Vocabulary - 1}. It was tokenised for another model.", nameof(prompt));
            }
        }
    }

    /// <inheritdoc />
    public void Dispose()
    {
        cache?.Dispose();
        FreeDraws();
        arena.Dispose();
    }

    Tape Begin()
    {
        arena.Reset();
        return Tape.ForInference(backend, arena);
    }

    Tensor Read(Tape tape, ReadOnlySpan<int> slots, Slice tokens, ReadOnlySpan<int> counts) => model.Forward(tape, TokenBatch.Continue(tape, cache!, slots, tokens, counts));

    void Draw(Tape tape, Tensor hidden, GenerationOptions options, ReadOnlySpan<int> draws)
    {
        var sampling = new Sampling(options.Temperature, options.TopK, options.TopP);
        int rows = hidden.Rows;
        var logits = model.Logits(tape, hidden);
        backend.Sample(logits.Data, rows, sampling, new RandomKey(options.Seed, 0, 0), ids.Range(drawn, rows), logprobs.Range(drawn, rows), tape.Upload(draws));
        drawn += rows;
    }

    void FreeDraws()
    {
        backend.Free(ids);
        backend.Free(logprobs);
        (ids, logprobs) = (default, default);
    }
}
