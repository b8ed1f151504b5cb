// Advantages: how much better than expected each token turned out (generalised advantage estimation), and whitening over a batch.
//
// Maths      δ_t = r_t + γ·V_{t+1} − V_t, V beyond the end 0 · A_t = δ_t + γλ·A_{t+1} · return R_t = A_t + V_t
//            whitened x = (x − mean)/√(variance + 10⁻⁸), mean and unbiased variance over all tokens of all sequences; without the shift, the mean is added back
// Shapes     rewards, values, advantages, returns: one array per sequence, one number per token
// Defaults   TRL's PPOConfig: γ 1, λ 0.95; advantages are whitened with the shift; rewards are not, and where they are, without the shift
// Source     Schulman et al. 2015, arXiv:1506.02438, equations 11 to 16

namespace IlgpuPeft.Losses;

/// <summary>Advantages and returns, in the shape of the rewards.</summary>
/// <param name="Values">Advantage of each token, not whitened.</param>
/// <param name="Returns">What the value of each token is trained to be.</param>
public sealed record AdvantagesResult(double[][] Values, double[][] Returns);

/// <summary>Generalised advantage estimation and whitening.</summary>
public static class Advantages
{
    const string Operation = nameof(Advantages);
    const double VarianceFloor = 1e-8;

    /// <summary>Advantages and returns of whole sequences, each on its own.</summary>
    /// <param name="rewards">Reward of each token.</param>
    /// <param name="values">Value predicted at each token, before it was drawn.</param>
    /// <param name="gamma">γ: discount per token.</param>
    /// <param name="lambda">λ: 0 trusts the values alone, 1 the rewards alone.</param>
    /// <exception cref="ArgumentException">The shapes differ, or a constant is not between 0 and 1.</exception>
    public static AdvantagesResult Compute(IReadOnlyList<double[]> rewards, IReadOnlyList<double[]> values, double gamma, double lambda)
    {
        Jagged.SameShape(Operation, nameof(rewards), rewards, nameof(values), values);
        Jagged.That(gamma is >= 0 and <= 1 && lambda is >= 0 and <= 1, Operation, $"gamma {gamma} and lambda {lambda}, expected both from 0 to 1.");
        double[][] advantages = Jagged.Like(rewards), returns = Jagged.Like(rewards);
        for (int s = 0; s < rewards.Count; s++)
        {
            double nextValue = 0, nextAdvantage = 0;
            for (int t = rewards[s].Length - 1; t >= 0; t--)
            {
                double delta = rewards[s][t] + gamma * nextValue - values[s][t];
                nextAdvantage = advantages[s][t] = delta + gamma * lambda * nextAdvantage;
                nextValue = values[s][t];
                returns[s][t] = nextAdvantage + nextValue;
            }
        }

        return new AdvantagesResult(advantages, returns);
    }

    /// <summary>The numbers scaled to variance 1 over the whole batch and, with the shift, to mean 0.</summary>
    /// <param name="values">One array per sequence; at least two numbers in all.</param>
    /// <param name="shiftMean">False keeps the mean: rewards keep their sign.</param>
    /// <exception cref="ArgumentException">There are fewer than two numbers: they have no variance.</exception>
    public static double[][] Whiten(IReadOnlyList<double[]> values, bool shiftMean = true)
    {
        var (mean, variance) = Moments(values);
        double scale = 1 / Math.Sqrt(variance + VarianceFloor), kept = shiftMean ? 0 : mean;
        return Jagged.Map(values, x => (x - mean) * scale + kept);
    }

    /// <summary>Mean and unbiased variance of all numbers.</summary>
    /// <param name="values">One array per sequence; at least two numbers in all.</param>
    /// <exception cref="ArgumentException">There are fewer than two numbers.</exception>
    public static (double Mean, double Variance) Moments(IReadOnlyList<double[]> values)
    {
        int count = Jagged.Count(values);
        Jagged.That(count > 1, Operation, $"{count} tokens in the whole batch, expected at least 2, because fewer have no variance. Use more or longer responses.");
        double mean = values.Sum(array => array.Sum()) / count;
        return (mean, values.Sum(array => array.Sum(x => (x - mean) * (x - mean))) / (count - 1));
    }
}
