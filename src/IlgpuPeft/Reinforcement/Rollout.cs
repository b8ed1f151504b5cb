using IlgpuPeft.Data;
using IlgpuPeft.Rewards;

namespace IlgpuPeft.Reinforcement;

/// <summary>
/// The experience of one update: what the policy wrote, what it, the reference and the value model said of it, and what it was paid. One array per response, one number per token; with
/// <see cref="PpoOptions.TrlCompatible"/>, <see cref="Values"/>, <see cref="Rewards"/> and <see cref="Returns"/> of a response that ended early have one slot more.
/// </summary>
public sealed record Rollout
{
    /// <summary>Prompts and responses.</summary>
    public required IReadOnlyList<Sample> Samples { get; init; }

    /// <summary>The same as token sequences, of which the response is trained on.</summary>
    public required IReadOnlyList<Example> Sequences { get; init; }

    /// <summary>Log-probability of each response token under the policy that drew it, in nats.</summary>
    public required double[][] LogProbs { get; init; }

    /// <summary>The same under the reference.</summary>
    public required double[][] ReferenceLogProbs { get; init; }

    /// <summary>What the value model expected before each token was drawn.</summary>
    public required double[][] Values { get; init; }

    /// <summary>Estimated divergence from the reference at each token, in nats.</summary>
    public required double[][] Kl { get; init; }

    /// <summary>All that each response was paid, without the divergence and less the penalty for a missing end [S].</summary>
    public required double[] Scores { get; init; }

    /// <summary>What each reward said of each response: name, then totals [S].</summary>
    public required IReadOnlyList<(string Name, double[] Totals)> ScoresByReward { get; init; }

    /// <summary>Weight of the divergence in <see cref="Rewards"/>.</summary>
    public required double KlCoefficient { get; init; }

    /// <summary>What each token was paid, the divergence included; not whitened.</summary>
    public required double[][] Rewards { get; init; }

    /// <summary>How much better than expected each token turned out, whitened over the experience.</summary>
    public required double[][] Advantages { get; init; }

    /// <summary>What the value of each token is trained to be.</summary>
    public required double[][] Returns { get; init; }

    /// <summary>For TRL's placement of the score, which responses ended early and have the extra slot [S]; empty otherwise.</summary>
    internal bool[] ExtraSlots { get; init; } = [];

    /// <summary>Of the order in which an update learns from the responses.</summary>
    internal ulong OrderSeed { get; init; }

    /// <summary>Responses S.</summary>
    public int Count => Samples.Count;

    /// <summary>Tokens of all responses.</summary>
    public int ResponseTokens => Samples.Sum(sample => sample.Response.Length);

    /// <summary>Tokens of all prompts and responses.</summary>
    public int Tokens => Sequences.Sum(sequence => sequence.Length);

    /// <summary>Divergence per response: the mean of each one's sum over its tokens, in nats.</summary>
    public double MeanKl => Kl.Average(tokens => tokens.Sum());

    /// <summary>TRL's metrics of an experience, the mean of each reward, and TRL's <c>completions/*</c>.</summary>
    public IReadOnlyDictionary<string, double> Measures()
    {
        double penalty = -KlCoefficient * MeanKl, score = Scores.Average();
        var measures = new Dictionary<string, double>(StringComparer.Ordinal)
        {
            ["objective/kl"] = MeanKl,
            ["objective/kl_coef"] = KlCoefficient,
            ["objective/entropy"] = LogProbs.Average(tokens => -tokens.Sum()),
            ["objective/non_score_reward"] = penalty,
            ["objective/rlhf_reward"] = penalty + score,
            ["objective/scores"] = score,
            ["val/num_eos_tokens"] = Samples.Count(sample => sample.Ended),
        };
        foreach (var (name, value) in ScoresByReward.Select(reward => KeyValuePair.Create("rewards/" + reward.Name, reward.Totals.Average())).Concat(Completions.Measures(Samples)))
        {
            measures[name] = value;
        }

        return measures;
    }
}
