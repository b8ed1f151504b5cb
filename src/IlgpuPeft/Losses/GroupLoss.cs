// GroupLoss: group relative policy optimization. Responses to one prompt are judged against each other, which takes the place of a value model.
//
// Maths      A = (r − mean of its group)/(s + 10⁻⁴), s the unbiased deviation of the group or of the batch; or not divided at all
//            ρ_t = e^(ln π_t − ln π_old,t), by sequence ρ = e^(mean of ln π_t − ln π_old,t) for all its tokens
//            l_t = −min(min(ρ_t, δ)·A, clip(ρ_t, 1 − ε_low, 1 + ε_high)·A) + β·k3_t, k3 = e^(ln π_ref − ln π) − 1 − (ln π_ref − ln π)
//            grpo     mean over sequences of the mean over their tokens
//            dapo     Σ l/tokens of the step
//            bnpo     Σ l/tokens of this call, averaged over the step's calls: the one that depends on how a step is split
//            dr_grpo  Σ l/(sequences·longest length allowed)
// Grad       dl/d ln π_t = −A·ρ_t where the unclipped product is the smaller and ρ_t ≤ δ, else 0; by sequence, the sum over tokens goes to each of its n tokens as 1/n
//            β·dk3/d ln π_t = β·(1 − e^(ln π_ref − ln π))
// Shapes     one array per response, one number per token (none for a response that is masked); advantages [S]; rewards [S], groups one after the other
// Defaults   TRL's GRPOConfig: ε_low = ε_high 0.2, no δ, β 0, dapo, by token, deviation of the group
// Source     Shao et al. 2024, arXiv:2402.03300, equations 3 and 4; dapo and ε_high: Yu et al. 2025, arXiv:2503.14476; dr_grpo and undivided advantages: Liu et al. 2025, arXiv:2503.20783;
//            by sequence: Zheng et al. 2025, arXiv:2507.18071; δ: Prime Intellect 2025, arXiv:2505.07291; deviation of the batch: Liu et al. 2025, arXiv:2508.08221

namespace IlgpuPeft.Losses;

/// <summary>What one token counts for in the loss of a step.</summary>
public enum GroupReduction
{
    /// <summary>Every sequence the same.</summary>
    Grpo,

    /// <summary>Every token of the step the same.</summary>
    Dapo,

    /// <summary>Every token of a micro-batch the same.</summary>
    Bnpo,

    /// <summary>As much as if every sequence had the longest length allowed.</summary>
    DrGrpo,
}

/// <summary>Over what ratios of probabilities are taken.</summary>
public enum ImportanceLevel
{
    /// <summary>A ratio per token.</summary>
    Token,

    /// <summary>One ratio per sequence, the geometric mean of its tokens'.</summary>
    Sequence,
}

/// <summary>Constants of GRPO's loss.</summary>
/// <param name="EpsilonLow">ε_low: how far a ratio may fall before its gradient stops.</param>
/// <param name="EpsilonHigh">ε_high: how far it may rise; 0.28 lets unlikely tokens grow faster.</param>
/// <param name="Delta">δ: largest ratio of the unclipped product, which bounds the loss where the advantage is negative; null for none.</param>
/// <param name="Beta">β: weight of the divergence from the reference; 0 needs no reference.</param>
/// <param name="Reduction">What one token counts for.</param>
/// <param name="Level">Over what ratios are taken.</param>
public sealed record GroupLossOptions(
    double EpsilonLow = 0.2, double EpsilonHigh = 0.2, double? Delta = null, double Beta = 0, GroupReduction Reduction = GroupReduction.Dapo, ImportanceLevel Level = ImportanceLevel.Token);

/// <summary>Denominators of a whole optimizer step.</summary>
/// <param name="Sequences">Responses, masked ones too.</param>
/// <param name="Tokens">Their tokens.</param>
/// <param name="MaxLength">Longest response allowed, in tokens; needed by dr_grpo.</param>
/// <param name="MicroBatches">Calls that the step is split into; needed by bnpo.</param>
public readonly record struct GroupStep(int Sequences, long Tokens, int MaxLength = 0, int MicroBatches = 1);

/// <summary>The loss of group relative policy optimization; its advantages are <see cref="GroupAdvantages"/>.</summary>
public static class GroupLoss
{
    const string Operation = nameof(GroupLoss);

    /// <summary>The share of these responses in the step's loss, its gradient, and their shares of TRL's metrics.</summary>
    /// <param name="newLogProbs">Log-probability of each token under the policy that is trained, nats.</param>
    /// <param name="oldLogProbs">The same under the policy that drew the tokens; in the first step after drawing, the same numbers.</param>
    /// <param name="referenceLogProbs">The same under the reference; empty where β is 0.</param>
    /// <param name="advantages">Advantage of each response, [S].</param>
    /// <param name="options">Constants.</param>
    /// <param name="step">Counts of the whole optimizer step.</param>
    /// <exception cref="ArgumentException">The shapes differ, or the step's counts are missing or smaller than this call's.</exception>
    public static GroupLossResult Compute(
        IReadOnlyList<double[]> newLogProbs, IReadOnlyList<double[]> oldLogProbs, IReadOnlyList<double[]> referenceLogProbs, ReadOnlySpan<double> advantages, GroupLossOptions options,
        GroupStep step)
    {
        bool hasReference = options.Beta != 0;
        Jagged.SameShape(Operation, nameof(newLogProbs), newLogProbs, nameof(oldLogProbs), oldLogProbs);
        Jagged.SameLength(Operation, nameof(advantages), advantages.Length, newLogProbs.Count, "advantages, one per response");
        if (hasReference)
        {
            Jagged.SameShape(Operation, nameof(newLogProbs), newLogProbs, nameof(referenceLogProbs), referenceLogProbs);
        }

        int tokens = Jagged.Count(newLogProbs);
        Check(options, step, newLogProbs.Count, tokens);
        double loss = 0, kl = 0, low = 0, high = 0;
        double[][] gradient = Jagged.Like(newLogProbs);
        for (int s = 0; s < newLogProbs.Count; s++)
        {
            double[] own = newLogProbs[s], old = oldLogProbs[s];
            double weight = Weight(options.Reduction, own.Length, tokens, step), advantage = advantages[s];
            bool bySequence = options.Level == ImportanceLevel.Sequence;
            double mean = own.Zip(old, (x, y) => x - y).Sum() / Math.Max(1, own.Length);
            for (int t = 0; t < own.Length; t++)
            {
                double ratio = Math.Exp(bySequence ? mean : own[t] - old[t]);
                var (value, slope) = Surrogate(ratio, advantage, options);
                loss += weight * value;
                gradient[s][t] = weight * slope; // by sequence: n equal terms, each by every token as 1/n
                double share = bySequence ? 1.0 / ((double)step.Sequences * own.Length) : 1.0 / step.Tokens;
                double bounded = Math.Min(ratio, options.Delta ?? double.PositiveInfinity);
                low += bounded < 1 - options.EpsilonLow && advantage < 0 ? share : 0;
                high += bounded > 1 + options.EpsilonHigh && advantage > 0 ? share : 0;
                if (hasReference)
                {
                    double difference = own[t] - referenceLogProbs[s][t], k3 = KlEstimate.K3(difference);
                    loss += weight * options.Beta * k3;
                    gradient[s][t] += weight * options.Beta * KlEstimate.K3Slope(difference);
                    kl += k3 / step.Tokens;
                }
            }
        }

        var metrics = new Dictionary<string, double>(StringComparer.Ordinal) { ["clip_ratio/low_mean"] = low, ["clip_ratio/high_mean"] = high, ["clip_ratio/region_mean"] = low + high };
        if (hasReference)
        {
            metrics["kl"] = kl;
        }

        return new GroupLossResult(loss, gradient, metrics);
    }

    // The clipped loss and its derivative by the logarithm of the ratio.
    static (double Value, double Slope) Surrogate(double ratio, double advantage, GroupLossOptions options)
    {
        double bounded = Math.Min(ratio, options.Delta ?? double.PositiveInfinity), clipped = Math.Clamp(ratio, 1 - options.EpsilonLow, 1 + options.EpsilonHigh);
        double taken = bounded * advantage <= clipped * advantage ? bounded : clipped;
        return (-taken * advantage, taken == ratio ? -ratio * advantage : 0);
    }

    static double Weight(GroupReduction reduction, int length, int tokens, GroupStep step) => reduction switch
    {
        GroupReduction.Grpo => 1.0 / ((double)step.Sequences * Math.Max(1, length)),
        GroupReduction.Dapo => 1.0 / Math.Max(1, step.Tokens),
        GroupReduction.Bnpo => 1.0 / ((double)Math.Max(1, tokens) * step.MicroBatches),
        _ => 1.0 / ((double)step.Sequences * step.MaxLength),
    };

    static void Check(GroupLossOptions options, GroupStep step, int sequences, int tokens)
    {
        Jagged.Denominator(Operation, nameof(step.Sequences), step.Sequences, sequences);
        Jagged.That(step.Tokens >= tokens, Operation, $"Tokens is {step.Tokens}, expected at least {tokens}. Pass the count over all micro-batches of the step.");
        Jagged.That(options.Reduction != GroupReduction.DrGrpo || step.MaxLength > 0, Operation, $"MaxLength is {step.MaxLength}, expected the longest response allowed, for dr_grpo.");
        Jagged.That(options.Reduction != GroupReduction.Bnpo || step.MicroBatches > 0, Operation, $"MicroBatches is {step.MicroBatches}, expected at least 1, for bnpo.");
        Jagged.That(options.EpsilonLow is >= 0 and <= 1 && options.EpsilonHigh >= 0, Operation,
            $"epsilon low {options.EpsilonLow} and high {options.EpsilonHigh}, expected the first from 0 to 1 and the second at least 0.");
    }
}

/// <summary>Of one call of <see cref="GroupLoss.Compute"/>.</summary>
/// <param name="Loss">This call's share of the step's loss.</param>
/// <param name="Gradient">Derivative of the step's loss by each new log-probability.</param>
/// <param name="Metrics">Shares of TRL's <c>clip_ratio/*</c> and, with a reference, <c>kl</c>; see <see cref="MetricShares"/>.</param>
public sealed record GroupLossResult(double Loss, double[][] Gradient, IReadOnlyDictionary<string, double> Metrics);

/// <summary>What the differences of rewards from their group's mean are divided by.</summary>
public enum ScaleRewards
{
    /// <summary>The deviation of their group.</summary>
    Group,

    /// <summary>The deviation of the whole batch.</summary>
    Batch,

    /// <summary>Nothing: questions that are too easy or too hard gain no weight.</summary>
    None,
}

/// <summary>The advantages of <see cref="GroupLoss"/>: rewards of responses against those of the other responses to the same prompt.</summary>
/// <param name="Values">Advantage of each response, [S].</param>
/// <param name="Metrics">TRL's <c>reward</c>, <c>reward_std</c> (of all rewards) and <c>frac_reward_zero_std</c> (responses from which nothing is learnt, because all of their group earned the same).</param>
public sealed record GroupAdvantages(double[] Values, IReadOnlyDictionary<string, double> Metrics)
{
    const string Operation = nameof(GroupAdvantages);
    const double Stabiliser = 1e-4, Zero = 1e-8;

    /// <summary>Advantages of a whole batch.</summary>
    /// <param name="rewards">Reward of each response, [S], the responses to one prompt one after the other.</param>
    /// <param name="groupSize">Responses per prompt; a group of one has the advantage 0.</param>
    /// <param name="scale">What the differences are divided by.</param>
    /// <exception cref="ArgumentException">There are no rewards or no whole groups, or a reward is not a number.</exception>
    public static GroupAdvantages Compute(ReadOnlySpan<double> rewards, int groupSize, ScaleRewards scale = ScaleRewards.Group)
    {
        Jagged.That(groupSize > 0 && rewards.Length > 0 && rewards.Length % groupSize == 0, Operation,
            $"{rewards.Length} rewards in groups of {groupSize}, expected a multiple of the group size, and both more than 0.");
        for (int i = 0; i < rewards.Length; i++)
        {
            Jagged.That(double.IsFinite(rewards[i]), Operation, $"reward {i} is {rewards[i]}, expected a finite number. Mend the reward function, or leave the whole group out.");
        }

        var (mean, deviation) = Moments(rewards);
        var values = new double[rewards.Length];
        int undecided = 0;
        for (int start = 0; start < rewards.Length; start += groupSize)
        {
            var (groupMean, groupDeviation) = Moments(rewards.Slice(start, groupSize));
            double spread = scale == ScaleRewards.Batch ? deviation : groupDeviation;
            undecided += spread <= Zero ? groupSize : 0;
            for (int i = start; i < start + groupSize; i++)
            {
                values[i] = (rewards[i] - groupMean) / (scale == ScaleRewards.None ? 1 : spread + Stabiliser);
            }
        }

        return new GroupAdvantages(values, new Dictionary<string, double>(StringComparer.Ordinal)
        {
            ["reward"] = mean,
            ["reward_std"] = deviation,
            ["frac_reward_zero_std"] = (double)undecided / rewards.Length,
        });
    }

    // Mean and unbiased deviation; the deviation of one number is 0.
    static (double Mean, double Deviation) Moments(ReadOnlySpan<double> x)
    {
        double sum = 0, squares = 0;
        foreach (double value in x)
        {
            sum += value;
        }

        double mean = sum / x.Length;
        foreach (double value in x)
        {
            squares += (value - mean) * (value - mean);
        }

        return (mean, x.Length > 1 ? Math.Sqrt(squares / (x.Length - 1)) : 0);
    }
}
