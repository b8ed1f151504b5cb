using IlgpuPeft.Data;
using IlgpuPeft.Generation;
using IlgpuPeft.Models;
using IlgpuPeft.Rewards;
using IlgpuPeft.Text;

namespace IlgpuPeft.Reinforcement;

/// <summary>What the model that is enabled writes to prompts.</summary>
/// <param name="model">The model, with whatever adapters are enabled.</param>
/// <param name="tokenizer">Turns tokens into texts; null writes their ids.</param>
/// <param name="maxSequences">How many are drawn at once.</param>
sealed class Completions(CausalLm model, Tokenizer? tokenizer, int maxSequences) : IDisposable
{
    readonly BatchGenerator generator = new(model) { MaxSequences = maxSequences };

    /// <summary>Draws a completion of each prompt.</summary>
    public IReadOnlyList<Sample> Draw(IReadOnlyList<Prompt> prompts, GenerationOptions options, CancellationToken cancel = default)
    {
        var completions = generator.Complete([.. prompts.Select(prompt => prompt.Ids)], options, cancel);
        return [.. prompts.Zip(completions, (prompt, completion) => new Sample(prompt, completion.Response, TextOf(completion), completion.StopId is not null))];
    }

    /// <inheritdoc />
    public void Dispose() => generator.Dispose();

    /// <summary>TRL's <c>completions/*</c>: lengths in tokens, the end-of-sequence token included, and the share that was cut. Those of completions that ended are 0 where none did.</summary>
    public static IEnumerable<KeyValuePair<string, double>> Measures(IReadOnlyList<Sample> samples)
    {
        foreach (var (kind, lengths) in new[]
        {
            ("length", samples.Select(sample => sample.Response.Length)),
            ("terminated_length", samples.Where(sample => sample.Ended).Select(sample => sample.Response.Length).DefaultIfEmpty(0)),
        })
        {
            yield return new("completions/mean_" + kind, lengths.Average());
            yield return new("completions/min_" + kind, lengths.Min());
            yield return new("completions/max_" + kind, lengths.Max());
        }

        yield return new("completions/clipped_ratio", (double)samples.Count(sample => !sample.Ended) / samples.Count);
    }

    string TextOf(Completion completion) => tokenizer?.Decode([.. completion.Tokens]) ?? string.Join(' ', completion.Tokens);
}
