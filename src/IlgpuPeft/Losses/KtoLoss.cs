// KtoLoss: Kahneman-Tversky optimization, from single responses that are marked good or bad.
//
// Maths      r = ln π(y|x) − ln π_ref(y|x) · k = max(0, mean over mismatched pairs of ln π(y'|x) − ln π_ref(y'|x)), a constant for the gradient
//            desirable w_d·(1 − σ(β·(r − k))) · undesirable w_u·(1 − σ(β·(k − r))) · L = mean over examples
// Grad       dL/d ln π = ∓w·β·σ(z)·σ(−z)/examples, z = β·(r − k); negative where desirable
// Shapes     per example: two summed log-probabilities and its mark · gradient [E] by the policy's sums: each is the coefficient of every token of its response
// Defaults   TRL's KTOConfig: β 0.1, both weights 1
// Source     Ethayarajh et al. 2024, arXiv:2402.01306, equations 7 and 8

namespace IlgpuPeft.Losses;

/// <summary>Constants of KTO.</summary>
/// <param name="Beta">β: how strongly the policy is held to the reference.</param>
/// <param name="DesirableWeight">Weight of good responses; where they are fewer, more than 1 evens the two sides out.</param>
/// <param name="UndesirableWeight">Weight of bad responses.</param>
public sealed record KtoLossOptions(double Beta = 0.1, double DesirableWeight = 1, double UndesirableWeight = 1);

/// <summary>One response to one prompt: log-probabilities in nats, summed over the response's tokens.</summary>
/// <param name="Policy">Under the policy.</param>
/// <param name="Reference">Under the reference.</param>
/// <param name="Desirable">Whether the response is good.</param>
public readonly record struct KtoExample(double Policy, double Reference, bool Desirable);

/// <summary>Examples of a whole optimizer step; the loss's denominator is their sum.</summary>
/// <param name="Desirable">Good responses of the step.</param>
/// <param name="Undesirable">Bad responses of the step.</param>
public readonly record struct KtoStep(int Desirable, int Undesirable);

/// <summary>Kahneman-Tversky optimization.</summary>
public static class KtoLoss
{
    const string Operation = nameof(KtoLoss);

    /// <summary>The baseline k: how far the policy is from the reference on responses that belong to other prompts; never negative.</summary>
    /// <param name="policy">Summed log-probability of each mismatched response under the policy, [M], M ≥ 1.</param>
    /// <param name="reference">The same under the reference, [M].</param>
    /// <exception cref="ArgumentException">There is none, or the lengths differ.</exception>
    public static double Baseline(ReadOnlySpan<double> policy, ReadOnlySpan<double> reference)
    {
        Jagged.That(policy.Length > 0, Operation, "no mismatched responses to take the baseline of, expected at least one.");
        Jagged.SameLength(Operation, nameof(reference), reference.Length, policy.Length, "log-probabilities, as policy has");
        double sum = 0;
        for (int i = 0; i < policy.Length; i++)
        {
            sum += policy[i] - reference[i];
        }

        return Math.Max(0, sum / policy.Length);
    }

    /// <summary>The share of these examples in the step's loss, its gradient, and their shares of TRL's metrics.</summary>
    /// <param name="batch">The examples of this call, [E].</param>
    /// <param name="kl">The baseline k, nats: see <see cref="Baseline"/>.</param>
    /// <param name="options">Constants.</param>
    /// <param name="step">Counts of the whole optimizer step.</param>
    /// <exception cref="ArgumentException">The step's counts are smaller than this call's, or β is not positive.</exception>
    public static KtoLossResult Compute(ReadOnlySpan<KtoExample> batch, double kl, KtoLossOptions options, KtoStep step)
    {
        Jagged.That(options.Beta > 0, Operation, $"beta is {options.Beta}, expected more than 0.");
        double loss = 0;
        int examples = step.Desirable + step.Undesirable;
        var gradient = new double[batch.Length];
        Side desirable = new(), undesirable = new();
        for (int i = 0; i < batch.Length; i++)
        {
            KtoExample example = batch[i];
            double ratio = example.Policy - example.Reference, z = options.Beta * (ratio - kl);
            double sign = example.Desirable ? 1 : -1, weight = example.Desirable ? options.DesirableWeight : options.UndesirableWeight;
            loss += weight * Stable.Sigmoid(-sign * z); // 1 − σ(x) = σ(−x)
            gradient[i] = -sign * weight * options.Beta * Stable.Sigmoid(z) * Stable.Sigmoid(-z) / examples;
            (example.Desirable ? desirable : undesirable).Add(options.Beta * ratio, example.Policy);
        }

        Jagged.That(step.Desirable >= desirable.Count && step.Undesirable >= undesirable.Count && examples > 0, Operation,
            $"the step has {step.Desirable} desirable and {step.Undesirable} undesirable examples, expected at least {desirable.Count} and {undesirable.Count}, those of this call. " +
            "Pass the counts over all micro-batches of the step.");
        var metrics = new Dictionary<string, double>(StringComparer.Ordinal) { ["kl"] = kl * batch.Length / examples };
        if (step.Desirable > 0)
        {
            metrics["rewards/chosen"] = desirable.Rewards / step.Desirable;
            metrics["logps/chosen"] = desirable.LogProbs / step.Desirable;
        }

        if (step.Undesirable > 0)
        {
            metrics["rewards/rejected"] = undesirable.Rewards / step.Undesirable;
            metrics["logps/rejected"] = undesirable.LogProbs / step.Undesirable;
        }

        if (step.Desirable > 0 && step.Undesirable > 0)
        {
            metrics["rewards/margins"] = metrics["rewards/chosen"] - metrics["rewards/rejected"];
        }

        return new KtoLossResult(loss / examples, gradient, metrics);
    }

    // Sums over the responses of one mark.
    sealed class Side
    {
        public int Count { get; private set; }

        public double Rewards { get; private set; }

        public double LogProbs { get; private set; }

        public void Add(double reward, double logProb)
        {
            Count++;
            Rewards += reward;
            LogProbs += logProb;
        }
    }
}

/// <summary>Of one call of <see cref="KtoLoss.Compute"/>.</summary>
/// <param name="Loss">This call's share of the step's loss.</param>
/// <param name="Gradient">Derivative of the step's loss by the policy's summed log-probability of each response, [E].</param>
/// <param name="Metrics">Shares of TRL's metrics; see <see cref="MetricShares"/>. Those of a mark that the step lacks are left out.</param>
public sealed record KtoLossResult(double Loss, double[] Gradient, IReadOnlyDictionary<string, double> Metrics);
