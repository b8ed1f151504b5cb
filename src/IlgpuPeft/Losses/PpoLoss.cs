// PpoLoss: proximal policy optimization's clipped losses of policy and values.
//
// Maths      ρ_t = e^(ln π_t − ln π_old,t) · policy = mean over tokens of max(−A_t·ρ_t, −A_t·clip(ρ_t, 1 − ε, 1 + ε))
//            v' = clip(v, v_old − ε_v, v_old + ε_v) · value = ½·mean of max((v − R)², (v' − R)²) · entropy H = mean of each token's entropy
//            L = policy + c_v·value − c_H·H
// Grad       dL/d ln π_t = −A_t·ρ_t/tokens where the first of the two is the larger or both are equal, else 0 · dL/dv = c_v·(v − R)/values in the same way · dL/dH_t = −c_H/tokens
// Shapes     one array per response, one number per token; with TRL's placement of the score, values and returns have its slot too
// Defaults   TRL's PPOConfig: ε 0.2, ε_v 0.2, c_v 0.1; c_H 0, which TRL does not have
// Source     Schulman et al. 2017, arXiv:1707.06347, equations 7 and 9; clipped values: Huang et al. 2022, The 37 implementation details of PPO, detail 9

namespace IlgpuPeft.Losses;

/// <summary>Constants of PPO's losses.</summary>
/// <param name="ClipRange">ε: how far the ratio may move before its gradient stops.</param>
/// <param name="ClipRangeValue">ε_v: how far a value may move from its old one, in units of reward.</param>
/// <param name="ValueCoefficient">c_v: weight of the value loss.</param>
/// <param name="EntropyCoefficient">c_H: weight of the entropy bonus.</param>
public sealed record PpoLossOptions(double ClipRange = 0.2, double ClipRangeValue = 0.2, double ValueCoefficient = 0.1, double EntropyCoefficient = 0);

/// <summary>Denominators of the means of a whole mini-batch, whose gradient one optimizer step takes.</summary>
/// <param name="Tokens">Response tokens.</param>
/// <param name="Values">Values that are trained: the tokens, and one more per padded response with TRL's placement of the score.</param>
/// <param name="PaddedSlots">
/// For TRL's <c>policy/approxkl_avg</c> and <c>val/ratio</c>: slots after the responses in its rectangle of responses, which count there as tokens that have not moved. 0 for tokens alone.
/// </param>
public readonly record struct PpoMiniBatch(long Tokens, long Values, long PaddedSlots = 0);

/// <summary>The clipped losses of proximal policy optimization.</summary>
public static class PpoLoss
{
    const string Operation = nameof(PpoLoss);

    /// <summary>The share of these responses in the mini-batch's policy loss, and its gradient.</summary>
    /// <param name="newLogProbs">Log-probability of each token under the policy that is trained, nats.</param>
    /// <param name="oldLogProbs">The same under the policy that drew the tokens.</param>
    /// <param name="advantages">Advantage of each token, whitened as a rule.</param>
    /// <param name="entropies">Entropy of the distribution that each token is drawn from, nats; empty where there is no bonus and no metric of it.</param>
    /// <param name="options">Constants.</param>
    /// <param name="miniBatch">Counts of the whole mini-batch.</param>
    /// <exception cref="ArgumentException">The shapes differ, a bonus lacks entropies, or the mini-batch has fewer tokens than this call.</exception>
    public static PpoPolicyResult Policy(
        IReadOnlyList<double[]> newLogProbs, IReadOnlyList<double[]> oldLogProbs, IReadOnlyList<double[]> advantages, IReadOnlyList<double[]> entropies, PpoLossOptions options,
        PpoMiniBatch miniBatch)
    {
        bool hasEntropies = entropies.Count > 0 || newLogProbs.Count == 0;
        Jagged.SameShape(Operation, nameof(newLogProbs), newLogProbs, nameof(oldLogProbs), oldLogProbs);
        Jagged.SameShape(Operation, nameof(newLogProbs), newLogProbs, nameof(advantages), advantages);
        Jagged.That(hasEntropies || options.EntropyCoefficient == 0, Operation, $"an entropy bonus of {options.EntropyCoefficient} without entropies. Pass the entropy of every token.");
        if (hasEntropies)
        {
            Jagged.SameShape(Operation, nameof(newLogProbs), newLogProbs, nameof(entropies), entropies);
        }

        Jagged.Denominator(Operation, nameof(miniBatch.Tokens), miniBatch.Tokens, Jagged.Count(newLogProbs));
        double loss = 0, clipped = 0, squares = 0, moved = 0, tokens = miniBatch.Tokens, slots = miniBatch.Tokens + miniBatch.PaddedSlots;
        double[][] gradient = Jagged.Like(newLogProbs);
        for (int s = 0; s < newLogProbs.Count; s++)
        {
            for (int t = 0; t < newLogProbs[s].Length; t++)
            {
                double difference = newLogProbs[s][t] - oldLogProbs[s][t], ratio = Math.Exp(difference), advantage = advantages[s][t];
                double free = -advantage * ratio, bounded = -advantage * Math.Clamp(ratio, 1 - options.ClipRange, 1 + options.ClipRange);
                loss += Math.Max(free, bounded);
                clipped += bounded > free ? 1 : 0;
                gradient[s][t] = bounded > free ? 0 : free / tokens;
                squares += difference * difference;
                moved += Stable.ExpMinus1(difference);
            }
        }

        double entropy = entropies.Sum(array => array.Sum()) / tokens;
        double[][] entropyGradient = Jagged.Map(entropies, _ => -options.EntropyCoefficient / tokens);
        var statistics = new PpoStatistics
        {
            PolicyLoss = loss / tokens,
            ClipFraction = clipped / tokens,
            ApproximateKl = squares / (2 * slots),
            RatioMinusOne = moved / slots,
            Entropy = entropy,
        };
        return new PpoPolicyResult(loss / tokens - options.EntropyCoefficient * entropy, gradient, entropyGradient, statistics);
    }

    /// <summary>The share of these responses in the mini-batch's value loss, and its gradient.</summary>
    /// <param name="newValues">Value of each token under the value head that is trained.</param>
    /// <param name="oldValues">The same when the tokens were drawn.</param>
    /// <param name="returns">What each value should have been.</param>
    /// <param name="options">Constants.</param>
    /// <param name="miniBatch">Counts of the whole mini-batch.</param>
    /// <exception cref="ArgumentException">The shapes differ, or the mini-batch has fewer values than this call.</exception>
    public static PpoValueResult Value(
        IReadOnlyList<double[]> newValues, IReadOnlyList<double[]> oldValues, IReadOnlyList<double[]> returns, PpoLossOptions options, PpoMiniBatch miniBatch)
    {
        Jagged.SameShape(Operation, nameof(newValues), newValues, nameof(oldValues), oldValues);
        Jagged.SameShape(Operation, nameof(newValues), newValues, nameof(returns), returns);
        Jagged.Denominator(Operation, nameof(miniBatch.Values), miniBatch.Values, Jagged.Count(newValues));
        double loss = 0, clipped = 0, values = miniBatch.Values;
        double[][] gradient = Jagged.Like(newValues);
        for (int s = 0; s < newValues.Count; s++)
        {
            for (int t = 0; t < newValues[s].Length; t++)
            {
                double value = newValues[s][t], old = oldValues[s][t], error = value - returns[s][t];
                double boundedError = Math.Clamp(value, old - options.ClipRangeValue, old + options.ClipRangeValue) - returns[s][t];
                double free = error * error, bounded = boundedError * boundedError;
                loss += Math.Max(free, bounded) / 2;
                clipped += bounded > free ? 1 : 0;
                gradient[s][t] = bounded > free ? 0 : options.ValueCoefficient * error / values;
            }
        }

        var statistics = new PpoStatistics { ValueLoss = loss / values, ValueClipFraction = clipped / values };
        return new PpoValueResult(options.ValueCoefficient * loss / values, gradient, statistics);
    }
}

/// <summary>Of one call of <see cref="PpoLoss.Policy"/>.</summary>
/// <param name="Loss">Share of policy − c_H·H.</param>
/// <param name="LogProbGradient">Its derivative by each new log-probability.</param>
/// <param name="EntropyGradient">Its derivative by each entropy; empty where none were given.</param>
/// <param name="Statistics">Shares of the mini-batch's statistics.</param>
public sealed record PpoPolicyResult(double Loss, double[][] LogProbGradient, double[][] EntropyGradient, PpoStatistics Statistics);

/// <summary>Of one call of <see cref="PpoLoss.Value"/>.</summary>
/// <param name="Loss">Share of c_v·value.</param>
/// <param name="ValueGradient">Its derivative by each new value.</param>
/// <param name="Statistics">Shares of the mini-batch's statistics.</param>
public sealed record PpoValueResult(double Loss, double[][] ValueGradient, PpoStatistics Statistics);

/// <summary>What is reported of a mini-batch. Every call of <see cref="PpoLoss"/> gives shares; a mini-batch's statistics are the sum over its calls, of policy and values alike.</summary>
public sealed record PpoStatistics
{
    /// <summary>Clipped surrogate, without the entropy bonus.</summary>
    public double PolicyLoss { get; init; }

    /// <summary>Clipped value loss, before its coefficient.</summary>
    public double ValueLoss { get; init; }

    /// <summary>½·mean of (ln π − ln π_old)², nats.</summary>
    public double ApproximateKl { get; init; }

    /// <summary>Share of the tokens whose ratio was clipped with effect.</summary>
    public double ClipFraction { get; init; }

    /// <summary>Share of the values that were clipped with effect.</summary>
    public double ValueClipFraction { get; init; }

    /// <summary>Mean entropy per token, nats; 0 where none were given.</summary>
    public double Entropy { get; init; }

    /// <summary>Mean of π/π_old, less 1: a sum over calls, as a mean ratio is not, of which padded slots have no part.</summary>
    public double RatioMinusOne { get; init; }

    /// <summary>Of the parts together.</summary>
    public static PpoStatistics operator +(PpoStatistics left, PpoStatistics right) => Add(left, right);

    /// <summary>Of the parts together.</summary>
    public static PpoStatistics Add(PpoStatistics left, PpoStatistics right) => new()
    {
        PolicyLoss = left.PolicyLoss + right.PolicyLoss,
        ValueLoss = left.ValueLoss + right.ValueLoss,
        ApproximateKl = left.ApproximateKl + right.ApproximateKl,
        ClipFraction = left.ClipFraction + right.ClipFraction,
        ValueClipFraction = left.ValueClipFraction + right.ValueClipFraction,
        Entropy = left.Entropy + right.Entropy,
        RatioMinusOne = left.RatioMinusOne + right.RatioMinusOne,
    };

    /// <summary>TRL's metrics of an update: averages over all mini-batches of all epochs over its responses.</summary>
    /// <param name="miniBatches">Each mini-batch's statistics; at least one. The variance of the ratio is between mini-batches, unbiased, and 0 for a single one.</param>
    /// <exception cref="ArgumentException">There is none.</exception>
    public static IReadOnlyDictionary<string, double> Metrics(IReadOnlyList<PpoStatistics> miniBatches)
    {
        int count = miniBatches.Count;
        Jagged.That(count > 0, nameof(PpoStatistics), "no mini-batches to take metrics of, expected at least one.");
        double ratio = miniBatches.Average(batch => batch.RatioMinusOne);
        return new Dictionary<string, double>(StringComparer.Ordinal)
        {
            ["policy/approxkl_avg"] = miniBatches.Average(batch => batch.ApproximateKl),
            ["policy/clipfrac_avg"] = miniBatches.Average(batch => batch.ClipFraction),
            ["loss/policy_avg"] = miniBatches.Average(batch => batch.PolicyLoss),
            ["loss/value_avg"] = miniBatches.Average(batch => batch.ValueLoss),
            ["val/clipfrac_avg"] = miniBatches.Average(batch => batch.ValueClipFraction),
            ["policy/entropy_avg"] = miniBatches.Average(batch => batch.Entropy),
            ["val/ratio"] = 1 + ratio,
            ["val/ratio_var"] = miniBatches.Sum(batch => Math.Pow(batch.RatioMinusOne - ratio, 2)) / Math.Max(1, count - 1),
        };
    }
}
