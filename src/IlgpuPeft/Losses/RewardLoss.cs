// RewardLoss: Bradley-Terry likelihood of preferences, which trains a reward model.
//
// Maths      L = mean over pairs of −ln σ(r_c − r_r − m) + c·(r_c + r_r)²
// Grad       s = σ(−(r_c − r_r − m)): dL/dr_c = (−s + 2c·(r_c + r_r))/pairs · dL/dr_r = (s + 2c·(r_c + r_r))/pairs
// Shapes     chosen r_c, rejected r_r, their gradients [P] · margins m [P] or empty
// Defaults   TRL's RewardConfig: no centring (its documentation advises 0.01 where rewards should stay near zero), no margins
// Source     Ouyang et al. 2022, arXiv:2203.02155, equation 1; margin: Touvron et al. 2023, arXiv:2307.09288, equation 2;
//            centring: Eisenstein et al. 2023, arXiv:2312.09244, section 2

namespace IlgpuPeft.Losses;

/// <summary>The Bradley-Terry loss over pairs of scores.</summary>
public static class RewardLoss
{
    const string Operation = nameof(RewardLoss);

    /// <summary>The share of these pairs in the step's loss, and its gradient.</summary>
    /// <param name="chosen">Score of each preferred response, [P].</param>
    /// <param name="rejected">Score of the other response of the pair, [P].</param>
    /// <param name="margins">By how much the first should exceed the second, [P]; empty for not at all.</param>
    /// <param name="centring">Weight of (r_c + r_r)², which fixes the scores' arbitrary offset; 0 for none.</param>
    /// <param name="pairs">Pairs of the whole optimizer step: the mean's denominator.</param>
    /// <exception cref="ArgumentException">The lengths differ, or <paramref name="pairs"/> is smaller than P.</exception>
    public static RewardLossResult Compute(ReadOnlySpan<double> chosen, ReadOnlySpan<double> rejected, ReadOnlySpan<double> margins, double centring, int pairs)
    {
        Jagged.SameLength(Operation, nameof(rejected), rejected.Length, chosen.Length, "scores, as chosen has");
        Jagged.SameLength(Operation, nameof(margins), margins.Length, margins.IsEmpty ? 0 : chosen.Length, "margins, one per pair");
        Jagged.Denominator(Operation, nameof(pairs), pairs, chosen.Length);
        double loss = 0;
        double[] chosenGradient = new double[chosen.Length], rejectedGradient = new double[chosen.Length];
        for (int i = 0; i < chosen.Length; i++)
        {
            double difference = chosen[i] - rejected[i] - (margins.IsEmpty ? 0 : margins[i]), sum = chosen[i] + rejected[i];
            loss += -Stable.LogSigmoid(difference) + centring * sum * sum;
            double slope = Stable.Sigmoid(-difference), pull = 2 * centring * sum;
            chosenGradient[i] = (pull - slope) / pairs;
            rejectedGradient[i] = (pull + slope) / pairs;
        }

        return new RewardLossResult(loss / pairs, chosenGradient, rejectedGradient);
    }

    /// <summary>TRL's metrics of all pairs of a step: <c>accuracy</c>, <c>margin</c>, <c>min_reward</c>, <c>mean_reward</c>, <c>max_reward</c>.</summary>
    /// <param name="chosen">Score of each preferred response, [P], P ≥ 1.</param>
    /// <param name="rejected">Score of the other response of the pair, [P].</param>
    /// <exception cref="ArgumentException">There is no pair, or the lengths differ.</exception>
    public static IReadOnlyDictionary<string, double> Metrics(ReadOnlySpan<double> chosen, ReadOnlySpan<double> rejected)
    {
        Jagged.That(chosen.Length > 0, Operation, "no pairs to take metrics of, expected at least one.");
        Jagged.SameLength(Operation, nameof(rejected), rejected.Length, chosen.Length, "scores, as chosen has");
        double right = 0, margin = 0, sum = 0, least = double.PositiveInfinity, most = double.NegativeInfinity;
        for (int i = 0; i < chosen.Length; i++)
        {
            right += chosen[i] > rejected[i] ? 1 : 0;
            margin += chosen[i] - rejected[i];
            sum += chosen[i] + rejected[i];
            least = Math.Min(least, Math.Min(chosen[i], rejected[i]));
            most = Math.Max(most, Math.Max(chosen[i], rejected[i]));
        }

        return new Dictionary<string, double>(StringComparer.Ordinal)
        {
            ["accuracy"] = right / chosen.Length,
            ["margin"] = margin / chosen.Length,
            ["min_reward"] = least,
            ["mean_reward"] = sum / (2 * chosen.Length),
            ["max_reward"] = most,
        };
    }
}

/// <summary>Of one call of <see cref="RewardLoss.Compute"/>.</summary>
/// <param name="Loss">This call's share of the step's loss, nats.</param>
/// <param name="ChosenGradient">Derivative of the step's loss by each chosen score, [P].</param>
/// <param name="RejectedGradient">Derivative by each rejected score, [P].</param>
public sealed record RewardLossResult(double Loss, double[] ChosenGradient, double[] RejectedGradient);
