// KlEstimate: how far the policy is from the reference, estimated from the tokens that the policy drew, and the coefficient of the penalty for it.
//
// Maths      d = ln π − ln π_ref of the drawn token · k1 = d · k3 = e^−d − 1 + d · abs = |d| · mse = d²/2
//            adaptive: e = clip(KL/target − 1, −0.2, 0.2), coefficient ← coefficient·(1 + e·samples/horizon)
// Shapes     one array per response, one number per token
// Defaults   TRL's PPOConfig: k1, a fixed coefficient of 0.05; until TRL 0.11 adaptive from 0.2, target 6, horizon 10,000, with the penalties kl (k1), abs and mse
// Numerics   k1 and k3 have the same mean under π, KL(π‖π_ref); k3 is never negative, and keeps its digits where d is near 0
// Source     Schulman 2020, Approximating KL divergence; Ziegler et al. 2019, arXiv:1909.08593, section 2.2

namespace IlgpuPeft.Losses;

/// <summary>A function of the log-ratio of one drawn token.</summary>
public enum KlEstimator
{
    /// <summary>The log-ratio itself: unbiased, of either sign.</summary>
    K1,

    /// <summary>Unbiased, never negative, of less variance near the reference.</summary>
    K3,

    /// <summary>The log-ratio's absolute value: a penalty, not an estimate.</summary>
    Abs,

    /// <summary>Half the log-ratio's square: biased, of little variance.</summary>
    Mse,
}

/// <summary>Estimates of the divergence of a policy from its reference, token by token.</summary>
public static class KlEstimate
{
    /// <summary>The estimate of every token, in the shape of the inputs.</summary>
    /// <param name="logProbs">Log-probability of each drawn token under the policy, nats.</param>
    /// <param name="referenceLogProbs">The same under the reference.</param>
    /// <param name="estimator">Which estimate.</param>
    /// <exception cref="ArgumentException">The shapes differ.</exception>
    public static double[][] PerToken(IReadOnlyList<double[]> logProbs, IReadOnlyList<double[]> referenceLogProbs, KlEstimator estimator)
    {
        Jagged.SameShape(nameof(KlEstimate), nameof(logProbs), logProbs, nameof(referenceLogProbs), referenceLogProbs);
        return [.. logProbs.Zip(referenceLogProbs, (own, reference) => own.Zip(reference, (x, y) => Of(x - y, estimator)).ToArray())];
    }

    static double Of(double difference, KlEstimator estimator) => estimator switch
    {
        KlEstimator.K1 => difference,
        KlEstimator.K3 => K3(difference),
        KlEstimator.Abs => Math.Abs(difference),
        KlEstimator.Mse => difference * difference / 2,
        _ => throw new ArgumentException($"KlEstimate: no estimator {estimator}, expected k1, k3, abs or mse.", nameof(estimator)),
    };

    // Of d = ln π − ln π_ref.
    internal static double K3(double difference) => Stable.ExpMinus1MinusX(-difference);

    // dk3/dd = 1 − e^−d.
    internal static double K3Slope(double difference) => -Stable.ExpMinus1(-difference);
}

/// <summary>The weight of the divergence in a reward.</summary>
public abstract class KlCoefficient(double initial)
{
    /// <summary>The weight now. Set it to resume a run.</summary>
    public double Value { get; set; } = initial;

    /// <summary>Looks at a batch of responses.</summary>
    /// <param name="kl">Divergence per response, summed over its tokens, averaged over responses; nats.</param>
    /// <param name="samples">Responses of the batch.</param>
    public abstract void Update(double kl, int samples);
}

/// <summary>A weight that stays.</summary>
public sealed class FixedKl(double value) : KlCoefficient(value)
{
    /// <inheritdoc />
    public override void Update(double kl, int samples)
    {
    }
}

/// <summary>A weight that grows while the divergence is above its target and shrinks while it is below.</summary>
public sealed class AdaptiveKl : KlCoefficient
{
    internal const double LargestError = 0.2;

    readonly double target, horizon;

    /// <summary>Starts at <paramref name="initial"/>.</summary>
    /// <param name="initial">First weight.</param>
    /// <param name="target">Divergence per response to steer to, nats.</param>
    /// <param name="horizon">
    /// Responses over which an error of 1 doubles the weight; errors count as at most 0.2. More than 0.2 times the responses of an update, or one update could take the weight below zero.
    /// </param>
    /// <exception cref="ArgumentException">The target or the horizon is not positive.</exception>
    public AdaptiveKl(double initial, double target, double horizon) : base(initial)
    {
        Jagged.That(target > 0 && horizon > 0, nameof(AdaptiveKl), $"target {target} and horizon {horizon}, expected both more than 0.");
        this.target = target;
        this.horizon = horizon;
    }

    /// <inheritdoc />
    /// <exception cref="ArgumentException">There are so many samples that the weight could turn negative.</exception>
    public override void Update(double kl, int samples)
    {
        Jagged.That(horizon > LargestError * samples, nameof(AdaptiveKl), $"horizon {horizon} for {samples} responses at once, expected more than {LargestError} times as many, or the weight could turn negative.");
        Value *= 1 + Math.Clamp(kl / target - 1, -LargestError, LargestError) * samples / horizon;
    }
}
