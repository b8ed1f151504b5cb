using IlgpuPeft.Models;

namespace IlgpuPeft.Generation;

/// <summary>
/// Continues many prompts at once with the model as it is, adapters live: the rollouts of policy methods. Prompts are read end to end, none padded; then all sequences go on by one token a pass.
/// A sequence that ends leaves the batch, and the next prompt takes its place, so that a pass stays as full as it can be (Yu et al. 2022, "Orca"): waves of prompts would wait for their longest.
/// </summary>
/// <param name="model">The model, with whatever adapters are enabled.</param>
public sealed class BatchGenerator(CausalLm model) : IDisposable
{
    // A draw is numbered by prompt and token, whatever else is in the batch: 16 bits for the one, 15 for the other.
    const int TokenBits = 15, PromptBits = 16;

    readonly CachedModel reader = new(model);

    internal const int DefaultMaxSequences = 32;

    /// <summary>The most sequences that are continued at once; further prompts wait. It bounds the KV cache, which has room for the longest prompt and all new tokens in each place.</summary>
    public int MaxSequences { get; init; } = DefaultMaxSequences;

    /// <summary>
    /// Passes between two looks at what was drawn, for stop tokens: until then drawn tokens stay on the device, and the host queues work ahead of it. A sequence may run on for so many tokens less
    /// one after its end; they are dropped. 8, or 1 where the device is the host and looking costs nothing.
    /// </summary>
    public int CheckEvery { get; init; } = model.Backend.IsHost ? 1 : 8;

    /// <summary>
    /// Continues every prompt to its end. What a prompt gets depends on the prompt, its index and the options, not on the rest of the batch: up to rounding, since the last bits of a product may
    /// differ with its number of rows.
    /// </summary>
    /// <returns>The completions, in the order of the prompts.</returns>
    /// <exception cref="ArgumentException">A prompt is empty, or holds a token that the model lacks; or there are more prompts, or tokens of one, than draws have numbers.</exception>
    /// <exception cref="ArithmeticException">A logit is NaN, or none is finite.</exception>
    public IReadOnlyList<Completion> Complete(IReadOnlyList<IReadOnlyList<int>> prompts, GenerationOptions options, CancellationToken cancel = default)
    {
        Check(prompts, options);
        var stops = options.StopIds ?? model.Config.EosIds;
        Sequence[] sequences = [.. prompts.Select((prompt, index) => new Sequence(index, prompt, new Draft(options, stops)))];
        var waiting = new Queue<Sequence>(sequences.Where(sequence => !sequence.Draft.IsFinished));
        var free = new Stack<int>(Enumerable.Range(0, Math.Min(MaxSequences, waiting.Count)).Reverse());
        List<Sequence> live = [];
        if (waiting.Count > 0)
        {
            reader.Reserve(free.Count, prompts.Max(prompt => prompt.Count) + (long)options.MaxTokens, free.Count * CheckEvery);
        }

        while (live.Count + waiting.Count > 0)
        {
            cancel.ThrowIfCancellationRequested();
            if (waiting.Count > 0 && free.Count > 0)
            {
                live.AddRange(Prefill(waiting, free, options));
            }
            else
            {
                Decode(live, options);
            }

            Compact(live, free);
        }

        return [.. sequences.Select(sequence => sequence.Draft.ToCompletion())];
    }

    /// <inheritdoc />
    public void Dispose() => reader.Dispose();

    /// <summary>Gives free places to waiting prompts, reads them and draws their first tokens.</summary>
    List<Sequence> Prefill(Queue<Sequence> waiting, Stack<int> free, GenerationOptions options)
    {
        List<Sequence> taken = [];
        while (waiting.Count > 0 && free.Count > 0)
        {
            var sequence = waiting.Dequeue();
            sequence.Slot = free.Pop();
            taken.Add(sequence);
        }

        reader.Prefill(Slots(taken), [.. taken.Select(sequence => sequence.Prompt)], options, Draws(taken, 0));
        Collect(taken);
        return taken;
    }

    /// <summary>Draws the next tokens of every sequence; none passes its limit.</summary>
    void Decode(List<Sequence> live, GenerationOptions options)
    {
        int steps = Math.Min(CheckEvery, live.Min(sequence => sequence.Draft.Remaining));
        int[] slots = Slots(live);
        for (int step = 0; step < steps; step++)
        {
            int[] tokens = step == 0 ? [.. live.Select(sequence => sequence.Draft.Tokens[^1])] : [];
            reader.Decode(slots, tokens, options, Draws(live, step));
        }

        Collect(live);
    }

    /// <summary>Takes the sequences that ended out of the batch; their places are free.</summary>
    void Compact(List<Sequence> live, Stack<int> free)
    {
        foreach (var sequence in live.Where(sequence => sequence.Draft.IsFinished))
        {
            reader.Forget(sequence.Slot);
            free.Push(sequence.Slot);
        }

        live.RemoveAll(sequence => sequence.Draft.IsFinished);
    }

    void Collect(List<Sequence> live)
    {
        var (ids, logprobs) = reader.Collect(); // [passes, live]
        for (int i = 0; i < ids.Length; i++)
        {
            var draft = live[i % live.Count].Draft;
            if (!draft.IsFinished) // what came after the end is dropped
            {
                draft.Add(ids[i], logprobs[i]);
            }
        }
    }

    void Check(IReadOnlyList<IReadOnlyList<int>> prompts, GenerationOptions options)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(MaxSequences, 1);
        ArgumentOutOfRangeException.ThrowIfLessThan(CheckEvery, 1);
        if (prompts.Count > 1 << PromptBits || options.MaxTokens > 1 << TokenBits)
        {
            throw new ArgumentException(
                $"BatchGenerator: {prompts.Count} prompts and {options.MaxTokens} new tokens for each, expected at most {1 << PromptBits} and {1 << TokenBits}. Continue them in several calls.", nameof(prompts));
        }

        for (int i = 0; i < prompts.Count; i++)
        {
            reader.Check(prompts[i], $"prompt {i}");
        }
    }

    static int[] Slots(List<Sequence> sequences) => [.. sequences.Select(sequence => sequence.Slot)];

    static int[] Draws(List<Sequence> sequences, int step) => [.. sequences.Select(sequence => (sequence.Index << TokenBits) + sequence.Draft.Tokens.Count + step)];

    sealed class Sequence(int index, IReadOnlyList<int> prompt, Draft draft)
    {
        public int Index => index;

        public IReadOnlyList<int> Prompt => prompt;

        public Draft Draft => draft;

        public int Slot { get; set; }
    }
}
