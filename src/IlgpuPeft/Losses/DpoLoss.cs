// DpoLoss: direct preference optimization, the policy's own log-ratio taken as the reward.
//
// Maths      δ = (ln π_c − ln π_ref,c) − (ln π_r − ln π_ref,r) of whole responses, reference terms 0 where reference-free
//            sigmoid  −(1 − ε)·ln σ(β·δ) − ε·ln σ(−β·δ)
//            hinge    max(0, 1 − β·δ)
//            ipo      (δ̄ − 1/(2β))², δ̄ the same with each response's log-ratio divided by its tokens
//            L = mean over pairs
// Grad       sigmoid  dL/dδ = −β·((1 − ε)·σ(−βδ) − ε·σ(βδ)) · hinge −β where β·δ < 1 · ipo 2·(δ̄ − 1/(2β))/tokens; rejected the negative
// Shapes     per pair: four summed log-probabilities, two token counts · gradients [P] by the policy's sums: each is the coefficient of every token of its response
// Defaults   TRL's DPOConfig: sigmoid, β 0.1, ε 0, with a reference
// Source     Rafailov et al. 2023, arXiv:2305.18290, equation 7; ε: Mitchell 2023, A note on DPO with noisy preferences;
//            hinge: Liu et al. 2023, arXiv:2309.06657; ipo: Azar et al. 2023, arXiv:2310.12036, equation 17, per token as TRL has it

namespace IlgpuPeft.Losses;

/// <summary>The function of the log-ratio's difference that is minimised.</summary>
public enum DpoKind
{
    /// <summary>Logistic loss: the original.</summary>
    Sigmoid,

    /// <summary>Squared distance of the per-token difference from 1/(2β).</summary>
    Ipo,

    /// <summary>Hinge loss with margin 1, as SLiC has it.</summary>
    Hinge,
}

/// <summary>Constants of DPO.</summary>
/// <param name="Beta">β: how strongly the policy is held to the reference.</param>
/// <param name="Kind">Which loss.</param>
/// <param name="LabelSmoothing">ε: the probability that a preference is the wrong way round, from 0 to 0.5; sigmoid only.</param>
/// <param name="ReferenceFree">The reference's log-probabilities count as 0, in the rewards of the metrics too.</param>
public sealed record DpoLossOptions(double Beta = 0.1, DpoKind Kind = DpoKind.Sigmoid, double LabelSmoothing = 0, bool ReferenceFree = false);

/// <summary>Two responses to one prompt: log-probabilities in nats, summed over each response's tokens.</summary>
/// <param name="Chosen">Of the preferred response under the policy.</param>
/// <param name="Rejected">Of the other response under the policy.</param>
/// <param name="ReferenceChosen">Of the preferred response under the reference.</param>
/// <param name="ReferenceRejected">Of the other response under the reference.</param>
/// <param name="ChosenTokens">Tokens of the preferred response.</param>
/// <param name="RejectedTokens">Tokens of the other response.</param>
public readonly record struct DpoPair(double Chosen, double Rejected, double ReferenceChosen, double ReferenceRejected, int ChosenTokens, int RejectedTokens);

/// <summary>Direct preference optimization.</summary>
public static class DpoLoss
{
    const string Operation = nameof(DpoLoss);

    /// <summary>The share of these pairs in the step's loss, its gradient, and their shares of TRL's metrics.</summary>
    /// <param name="batch">The pairs of this call, [P].</param>
    /// <param name="options">Constants.</param>
    /// <param name="pairs">Pairs of the whole optimizer step: the means' denominator.</param>
    /// <exception cref="ArgumentException">An option is out of its range, a response has no tokens, or <paramref name="pairs"/> is smaller than P.</exception>
    public static DpoLossResult Compute(ReadOnlySpan<DpoPair> batch, DpoLossOptions options, int pairs)
    {
        Check(options);
        Jagged.Denominator(Operation, nameof(pairs), pairs, batch.Length);
        double loss = 0, chosenReward = 0, rejectedReward = 0, right = 0, chosenLogProb = 0, rejectedLogProb = 0;
        double[] chosenGradient = new double[batch.Length], rejectedGradient = new double[batch.Length];
        for (int i = 0; i < batch.Length; i++)
        {
            DpoPair pair = batch[i];
            Jagged.That(pair.ChosenTokens > 0 && pair.RejectedTokens > 0, Operation,
                $"pair {i} has responses of {pair.ChosenTokens} and {pair.RejectedTokens} tokens, expected at least 1 of each. Leave the pair out.");
            double chosen = pair.Chosen - (options.ReferenceFree ? 0 : pair.ReferenceChosen), rejected = pair.Rejected - (options.ReferenceFree ? 0 : pair.ReferenceRejected);
            bool perToken = options.Kind == DpoKind.Ipo;
            double chosenScale = perToken ? 1.0 / pair.ChosenTokens : 1, rejectedScale = perToken ? 1.0 / pair.RejectedTokens : 1;
            var (value, slope) = Evaluate(chosen * chosenScale - rejected * rejectedScale, options);
            loss += value;
            chosenGradient[i] = slope * chosenScale / pairs;
            rejectedGradient[i] = -slope * rejectedScale / pairs;

            chosenReward += options.Beta * chosen;
            rejectedReward += options.Beta * rejected;
            right += chosen > rejected ? 1 : 0;
            chosenLogProb += pair.Chosen;
            rejectedLogProb += pair.Rejected;
        }

        return new DpoLossResult(loss / pairs, chosenGradient, rejectedGradient, new Dictionary<string, double>(StringComparer.Ordinal)
        {
            ["rewards/chosen"] = chosenReward / pairs,
            ["rewards/rejected"] = rejectedReward / pairs,
            ["rewards/margins"] = (chosenReward - rejectedReward) / pairs,
            ["rewards/accuracies"] = right / pairs,
            ["logps/chosen"] = chosenLogProb / pairs,
            ["logps/rejected"] = rejectedLogProb / pairs,
        });
    }

    // The loss of one pair and its derivative, by the difference of the log-ratios.
    static (double Value, double Slope) Evaluate(double difference, DpoLossOptions options)
    {
        double z = options.Beta * difference, smoothing = options.LabelSmoothing;
        switch (options.Kind)
        {
            case DpoKind.Sigmoid:
                double value = -(1 - smoothing) * Stable.LogSigmoid(z) - smoothing * Stable.LogSigmoid(-z);
                return (value, -options.Beta * ((1 - smoothing) * Stable.Sigmoid(-z) - smoothing * Stable.Sigmoid(z)));
            case DpoKind.Hinge:
                return z < 1 ? (1 - z, -options.Beta) : (0, 0);
            default:
                double distance = difference - 1 / (2 * options.Beta);
                return (distance * distance, 2 * distance);
        }
    }

    static void Check(DpoLossOptions options)
    {
        Jagged.That(Enum.IsDefined(options.Kind), Operation, $"no loss of kind {options.Kind}, expected sigmoid, ipo or hinge.");
        Jagged.That(options.Beta > 0, Operation, $"beta is {options.Beta}, expected more than 0.");
        Jagged.That(options.LabelSmoothing is >= 0 and < 0.5, Operation, $"label smoothing is {options.LabelSmoothing}, expected at least 0 and less than 0.5.");
        Jagged.That(options.LabelSmoothing == 0 || options.Kind == DpoKind.Sigmoid, Operation,
            $"label smoothing is {options.LabelSmoothing} with the loss {options.Kind}, expected 0. Only the sigmoid loss has it.");
    }
}

/// <summary>Of one call of <see cref="DpoLoss.Compute"/>.</summary>
/// <param name="Loss">This call's share of the step's loss.</param>
/// <param name="ChosenGradient">Derivative of the step's loss by the policy's summed log-probability of each chosen response, [P].</param>
/// <param name="RejectedGradient">The same by each rejected response's, [P].</param>
/// <param name="Metrics">Shares of TRL's <c>rewards/*</c> and <c>logps/*</c>; see <see cref="MetricShares"/>.</param>
public sealed record DpoLossResult(double Loss, double[] ChosenGradient, double[] RejectedGradient, IReadOnlyDictionary<string, double> Metrics);
