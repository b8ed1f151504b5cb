// OrpoLoss: odds ratio preference optimization, supervised training and preference in one pass and without a reference.
//
// Maths      x_c, x_r: mean log-probability of a response's tokens · odds(x) = e^x/(1 − e^x)
//            z = ln odds(x_c) − ln odds(x_r) = x_c − x_r − log1mexp(x_c) + log1mexp(x_r)
//            L = −(Σ log-probabilities of the chosen prompts' and responses' tokens)/tokens − β·mean over pairs of ln σ(z)
// Grad       dz/dx = 1/(1 − e^x), so dL/dx_c = −β·σ(−z)/(1 − e^x_c)/pairs · dL/dx_r = β·σ(−z)/(1 − e^x_r)/pairs
//            with σ(−z)/(1 − e^x_c) = 1/(e^(x_c − x_r)·(1 − e^x_r) + 1 − e^x_c), finite where the chosen response becomes certain
// Shapes     per pair: three means and the token count of the third · gradients [P] by the means: divided by its tokens, each is the coefficient of a token
// Defaults   TRL's ORPOConfig: β 0.1
// Numerics   a mean of zero, a response that is certain in single precision, counts as −2⁻²⁴: the odds stay finite
// Source     Hong et al. 2024, arXiv:2403.07691, equations 4 to 7

namespace IlgpuPeft.Losses;

/// <summary>Two responses to one prompt under the policy: log-probabilities in nats, averaged over tokens.</summary>
/// <param name="Chosen">Mean over the preferred response's tokens.</param>
/// <param name="Rejected">Mean over the other response's tokens.</param>
/// <param name="ChosenWithPrompt">Mean over the tokens of the prompt and the preferred response.</param>
/// <param name="TokensWithPrompt">Tokens of that mean.</param>
public readonly record struct OrpoPair(double Chosen, double Rejected, double ChosenWithPrompt, int TokensWithPrompt);

/// <summary>Denominators of the means of a whole optimizer step.</summary>
/// <param name="Pairs">Pairs of the step.</param>
/// <param name="TokensWithPrompt">Sum of their <see cref="OrpoPair.TokensWithPrompt"/>.</param>
public readonly record struct OrpoStep(int Pairs, long TokensWithPrompt);

/// <summary>Odds ratio preference optimization.</summary>
public static class OrpoLoss
{
    const string Operation = nameof(OrpoLoss);

    // As far below 1 as the next smaller probability of single precision, in which log-probabilities arrive.
    const double Certain = -1.0 / (1 << 24);

    /// <summary>The share of these pairs in the step's loss, its gradient, and their shares of TRL's metrics.</summary>
    /// <param name="batch">The pairs of this call, [P].</param>
    /// <param name="beta">β: weight of the odds ratio.</param>
    /// <param name="step">Counts of the whole optimizer step.</param>
    /// <exception cref="ArgumentException">A pair has no tokens, or the step's counts are smaller than this call's.</exception>
    public static OrpoLossResult Compute(ReadOnlySpan<OrpoPair> batch, double beta, OrpoStep step)
    {
        double likelihood = 0, logRatio = 0, logOdds = 0, chosenLogProb = 0, rejectedLogProb = 0, right = 0;
        long tokens = 0;
        double[] chosenGradient = new double[batch.Length], rejectedGradient = new double[batch.Length], promptGradient = new double[batch.Length];
        for (int i = 0; i < batch.Length; i++)
        {
            OrpoPair pair = batch[i];
            Jagged.That(pair.TokensWithPrompt > 0, Operation, $"pair {i} has {pair.TokensWithPrompt} tokens with its prompt, expected at least 1. Leave the pair out.");
            tokens += pair.TokensWithPrompt;
            likelihood += pair.ChosenWithPrompt * pair.TokensWithPrompt;
            promptGradient[i] = -(double)pair.TokensWithPrompt / step.TokensWithPrompt;

            double chosen = Math.Min(pair.Chosen, Certain), rejected = Math.Min(pair.Rejected, Certain);
            double z = chosen - rejected - Stable.Log1MinusExp(chosen) + Stable.Log1MinusExp(rejected);
            logOdds += z;
            logRatio += Stable.LogSigmoid(z);
            double chosenRest = -Stable.ExpMinus1(chosen), rejectedRest = -Stable.ExpMinus1(rejected); // 1 − e^x
            double slope = 1 / (Math.Exp(chosen - rejected) * rejectedRest + chosenRest);
            chosenGradient[i] = -beta * slope / step.Pairs;
            rejectedGradient[i] = beta * slope * (chosenRest / rejectedRest) / step.Pairs;

            chosenLogProb += pair.Chosen;
            rejectedLogProb += pair.Rejected;
            right += pair.Chosen > pair.Rejected ? 1 : 0;
        }

        Jagged.Denominator(Operation, nameof(step.Pairs), step.Pairs, batch.Length);
        Jagged.Denominator(Operation, nameof(step.TokensWithPrompt), step.TokensWithPrompt, tokens);
        double nll = -likelihood / step.TokensWithPrompt, pairs = step.Pairs;
        return new OrpoLossResult(nll - beta * logRatio / pairs, chosenGradient, rejectedGradient, promptGradient, new Dictionary<string, double>(StringComparer.Ordinal)
        {
            ["rewards/chosen"] = beta * chosenLogProb / pairs,
            ["rewards/rejected"] = beta * rejectedLogProb / pairs,
            ["rewards/accuracies"] = right / pairs,
            ["rewards/margins"] = beta * (chosenLogProb - rejectedLogProb) / pairs,
            ["logps/chosen"] = chosenLogProb / pairs,
            ["logps/rejected"] = rejectedLogProb / pairs,
            ["nll_loss"] = nll,
            ["log_odds_ratio"] = logRatio / pairs,
            ["log_odds_chosen"] = logOdds / pairs,
        });
    }
}

/// <summary>Of one call of <see cref="OrpoLoss.Compute"/>.</summary>
/// <param name="Loss">This call's share of the step's loss, nats.</param>
/// <param name="ChosenGradient">Derivative of the step's loss by each <see cref="OrpoPair.Chosen"/>, [P].</param>
/// <param name="RejectedGradient">By each <see cref="OrpoPair.Rejected"/>, [P].</param>
/// <param name="ChosenWithPromptGradient">By each <see cref="OrpoPair.ChosenWithPrompt"/>, [P]; tokens of the chosen response receive this one and <paramref name="ChosenGradient"/>.</param>
/// <param name="Metrics">Shares of TRL's metrics; see <see cref="MetricShares"/>.</param>
public sealed record OrpoLossResult(
    double Loss, double[] ChosenGradient, double[] RejectedGradient, double[] ChosenWithPromptGradient, IReadOnlyDictionary<string, double> Metrics);
