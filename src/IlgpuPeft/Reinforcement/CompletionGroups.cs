using System.Text.Json.Serialization;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Rewards;

namespace IlgpuPeft.Reinforcement;

/// <summary>The completions of one step, those of a prompt one after the other, and how much better than the others of its group each is.</summary>
public sealed record CompletionGroups
{
    /// <summary>Prompts and completions [S].</summary>
    public required IReadOnlyList<Sample> Samples { get; init; }

    /// <summary>The same as token sequences, of which the completion is trained on [S].</summary>
    public required IReadOnlyList<Example> Sequences { get; init; }

    /// <summary>Weighted sum of the rewards of each completion [S].</summary>
    public required double[] Rewards { get; init; }

    /// <summary>What each completion is reinforced by [S].</summary>
    public required double[] Advantages { get; init; }

    /// <summary>Indices of the completions that are learnt from: all, or those that were not cut.</summary>
    public required int[] Learnt { get; init; }

    /// <summary>Tokens of all completions.</summary>
    public long Tokens => Samples.Sum(sample => (long)sample.Response.Length);

    /// <summary>TRL's <c>reward</c>, <c>reward_std</c>, <c>frac_reward_zero_std</c>, <c>rewards/*</c> and <c>completions/*</c>.</summary>
    public required IReadOnlyDictionary<string, double> Measures { get; init; }

    /// <summary>Asks the rewards.</summary>
    /// <param name="samples">Groups of <see cref="GrpoOptions.NumGenerations"/>, one after the other.</param>
    /// <param name="rewards">What completions are paid for. What is paid token by token counts as its sum: a completion has one advantage.</param>
    /// <param name="options">Group size, scale, masking.</param>
    /// <exception cref="Training.RewardException">A reward failed.</exception>
    internal static CompletionGroups Judge(IReadOnlyList<Sample> samples, RewardSum rewards, GrpoOptions options)
    {
        var (sums, each) = rewards.Judge(samples);
        double[] totals = [.. sums.Select(judgement => judgement.Total)];
        var advantages = GroupAdvantages.Compute(totals, options.NumGenerations, options.ScaleRewards);
        return new CompletionGroups
        {
            Samples = samples,
            Sequences = [.. samples.Select(sample => Example.Of(sample.Prompt.Ids, sample.Response, sample.Prompt.File, sample.Prompt.Line))],
            Rewards = totals,
            Advantages = [.. advantages.Values.Chunk(options.NumGenerations).Zip(totals.Chunk(options.NumGenerations), (group, paid) => Agrees(paid) ? new double[group.Length] : group).SelectMany(group => group)],
            Learnt = [.. Enumerable.Range(0, samples.Count).Where(s => samples[s].Ended || !options.MaskTruncatedCompletions)],
            Measures = new Dictionary<string, double>([.. advantages.Metrics, .. OfEach(rewards, each), .. Completions.Measures(samples)], StringComparer.Ordinal),
        };
    }

    // The mean of equal numbers can differ from them in the last place, and a moment estimate would make much of that.
    static bool Agrees(double[] paid) => paid.All(reward => reward == paid[0]);

    /// <summary>TRL's <c>rewards/NAME/mean</c> and <c>rewards/NAME/std</c>, without weights.</summary>
    internal static IEnumerable<KeyValuePair<string, double>> OfEach(RewardSum rewards, IReadOnlyList<IReadOnlyList<Judgement>> each)
    {
        foreach (var (part, said) in rewards.Parts.Zip(each))
        {
            double[] totals = [.. said.Select(judgement => judgement.Total)];
            yield return new($"rewards/{part.Reward.Name}/mean", totals.Average());
            yield return new($"rewards/{part.Reward.Name}/std", totals.Length > 1 ? Math.Sqrt(Losses.Advantages.Moments([totals]).Variance) : 0);
        }
    }
}

/// <summary>A completion as <c>samples.jsonl</c> holds it.</summary>
/// <param name="Step">The step it was drawn for, from 1.</param>
/// <param name="Prompt">The prompt's text.</param>
/// <param name="Response">The completion's text.</param>
/// <param name="Score">Its reward.</param>
/// <param name="Advantage">What it was reinforced by.</param>
public sealed record GroupSample(
    [property: JsonPropertyName("step")] int Step, [property: JsonPropertyName("prompt")] string Prompt, [property: JsonPropertyName("response")] string Response,
    [property: JsonPropertyName("score")] double Score, [property: JsonPropertyName("advantage")] double Advantage);
