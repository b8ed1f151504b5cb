using System.Runtime.CompilerServices;
using IlgpuPeft.Models;

namespace IlgpuPeft.Generation;

/// <summary>Generates from a model token by token, keeping keys and values of what was read; the weights are used as they are, adapters live.</summary>
/// <param name="model">The model, with whatever adapters are enabled.</param>
public sealed class Generator(CausalLm model) : IDisposable
{
    readonly CachedModel reader = new(model);
    int continuation;

    /// <summary>Generates to the end.</summary>
    /// <exception cref="ArgumentException">The prompt is empty, or holds a token that the model lacks.</exception>
    public Completion Complete(IReadOnlyList<int> prompt, GenerationOptions options, CancellationToken cancel = default)
    {
        var draft = NewDraft(options);
        foreach (int _ in Draw(prompt, options, draft))
        {
            cancel.ThrowIfCancellationRequested();
        }

        return draft.ToCompletion();
    }

    /// <summary>Generates tokens as they are asked for. There is one cache, so a generator has one continuation at a time.</summary>
    /// <exception cref="ArgumentException">The prompt is empty, or holds a token that the model lacks.</exception>
    /// <exception cref="InvalidOperationException">Another continuation was started before this one ended.</exception>
    public IEnumerable<int> Stream(IReadOnlyList<int> prompt, GenerationOptions options) => Draw(prompt, options, NewDraft(options));

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
    public void Dispose() => reader.Dispose();

    Draft NewDraft(GenerationOptions options) => new(options, options.StopIds ?? model.Config.EosIds);

    IEnumerable<int> Draw(IReadOnlyList<int> prompt, GenerationOptions options, Draft draft)
    {
        reader.Check(prompt, "the prompt");
        reader.Reserve(1, (long)prompt.Count + options.MaxTokens, 1);
        int mine = ++continuation;
        for (int step = 0; !draft.IsFinished; step++)
        {
            if (mine != continuation)
            {
                throw new InvalidOperationException("Generator: another continuation was started on this generator, and the two share one cache. Finish one first, or use a generator for each.");
            }

            if (step == 0)
            {
                reader.Prefill([0], [prompt], options, [0]);
            }
            else
            {
                reader.Decode([0], [draft.Tokens[^1]], options, [step]);
            }

            var (ids, logprobs) = reader.Collect();
            draft.Add(ids[0], logprobs[0]);
            if (draft.StopId is null)
            {
                yield return ids[0];
            }
        }
    }
}
