// TokenRewards: what a response earns, token by token: a penalty for leaving the reference at each, and the score at its end.
//
// Maths      r_t = −c·kl_t · r_last += score
//            as TRL places it: where padding followed the response, the score goes to the slot after the last token, the first of the padding, where kl = 0
//            score −= penalty where the response did not end by itself
// Shapes     kl, rewards: one array per response with one number per token; as TRL places it, one slot more where padding followed · scores [S]
// Defaults   TRL's PPOConfig: c 0.05, no penalty
// Source     Ziegler et al. 2019, arXiv:1909.08593, equation 2; Huang et al. 2024, arXiv:2403.17031: the penalty (their "EOS trick") and the padded slot

namespace IlgpuPeft.Losses;

/// <summary>Rewards of policy optimization.</summary>
public static class TokenRewards
{
    const string Operation = nameof(TokenRewards);

    /// <summary>The reward of every token, the score on a response's last one.</summary>
    /// <param name="kl">Divergence estimate of each token; no response is empty.</param>
    /// <param name="scores">Score of each response, [S].</param>
    /// <param name="coefficient">c: weight of the divergence.</param>
    /// <param name="padded">
    /// Empty for the score on the last token. For TRL's placement, whether padding followed each response, [S]: the array of a response it followed has one slot more, with the score.
    /// Values must then have that slot too (the value head's output at the first padding token), and <see cref="WithoutExtraSlot"/> takes it off the advantages.
    /// </param>
    /// <exception cref="ArgumentException">The lengths differ, or a response is empty.</exception>
    public static double[][] Compute(IReadOnlyList<double[]> kl, ReadOnlySpan<double> scores, double coefficient, ReadOnlySpan<bool> padded = default)
    {
        Jagged.SameLength(Operation, nameof(scores), scores.Length, kl.Count, "scores, one per response");
        Jagged.SameLength(Operation, nameof(padded), padded.Length, padded.IsEmpty ? 0 : kl.Count, "marks, one per response");
        var rewards = new double[kl.Count][];
        for (int s = 0; s < rewards.Length; s++)
        {
            Jagged.That(kl[s].Length > 0, Operation, $"response {s} is empty, expected at least one token to put the score on. A response that ends at once has its end token.");
            rewards[s] = new double[kl[s].Length + (!padded.IsEmpty && padded[s] ? 1 : 0)];
            for (int t = 0; t < kl[s].Length; t++)
            {
                rewards[s][t] = -coefficient * kl[s][t];
            }

            rewards[s][^1] += scores[s];
        }

        return rewards;
    }

    /// <summary>The first numbers of each array, as many as the response has tokens.</summary>
    /// <param name="slots">One array per response, as long as its tokens or longer.</param>
    /// <param name="tokens">One array per response, one number per token; only the lengths count.</param>
    /// <exception cref="ArgumentException">There are fewer slots than tokens.</exception>
    public static double[][] WithoutExtraSlot(IReadOnlyList<double[]> slots, IReadOnlyList<double[]> tokens)
    {
        Jagged.SameLength(Operation, nameof(slots), slots.Count, tokens.Count, "responses, as tokens has");
        for (int s = 0; s < slots.Count; s++)
        {
            Jagged.That(slots[s].Length >= tokens[s].Length, Operation, $"response {s} has {slots[s].Length} slots, expected at least {tokens[s].Length}, one per token.");
        }

        return [.. slots.Zip(tokens, (array, like) => array[..like.Length])];
    }

    /// <summary>The scores, less a penalty where a response was cut off before it ended by itself.</summary>
    /// <param name="scores">Score of each response, [S].</param>
    /// <param name="ended">Whether each response has an end token, [S].</param>
    /// <param name="penalty">What is subtracted where it has none; not negative.</param>
    /// <exception cref="ArgumentException">The lengths differ, or the penalty is negative.</exception>
    public static double[] WithMissingEosPenalty(ReadOnlySpan<double> scores, ReadOnlySpan<bool> ended, double penalty)
    {
        Jagged.SameLength(Operation, nameof(ended), ended.Length, scores.Length, "marks, one per score");
        Jagged.That(penalty >= 0, Operation, $"the penalty for a missing end is {penalty}, expected at least 0: it is subtracted.");
        double[] penalised = scores.ToArray();
        for (int s = 0; s < penalised.Length; s++)
        {
            penalised[s] -= ended[s] ? 0 : penalty;
        }

        return penalised;
    }
}
