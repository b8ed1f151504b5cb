using IlgpuPeft.Losses;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Arrays with a slot for the score after the response against a rectangle of padded responses, as TRL's trainer computes with.</summary>
public class PaddedPpoTests
{
    const int Width = 8; // the longest of LossArrays.Lengths: that response has no padding after it
    const double Gamma = 0.95, Lambda = 0.9, Coefficient = 0.05;
    static readonly PpoLossOptions Options = new(0.2, 0.3, 0.5);

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Ppo_withTheScoreAfterTheResponse_equalsThePaddedArithmetic(bool whitenRewards)
    {
        var random = new Random(16);
        double[][] old = LossArrays.Random(random, 0.5, -2), reference = LossArrays.Near(random, old, 0.3), own = LossArrays.Near(random, old, 0.4);
        bool[] padded = [.. LossArrays.Lengths.Select(length => length < Width)];
        double[][] values = [.. old.Select((x, s) => LossArrays.Normal(random, x.Length + (padded[s] ? 1 : 0), 1))], newValues = LossArrays.Near(random, values, 0.6);
        double[] scores = LossArrays.Normal(random, old.Length, 2);

        double[][] rewards = TokenRewards.Compute(KlEstimate.PerToken(old, reference, KlEstimator.K1), scores, Coefficient, padded);
        var advantages = Advantages.Compute(whitenRewards ? Advantages.Whiten(rewards, shiftMean: false) : rewards, values, Gamma, Lambda);
        double[][] whitened = Advantages.Whiten(TokenRewards.WithoutExtraSlot(advantages.Values, old));
        int tokens = LossArrays.Lengths.Sum(), slots = old.Length * Width;
        PpoMiniBatch counts = new(tokens, tokens + padded.Count(x => x), slots - tokens);
        var policy = PpoLoss.Policy(own, old, whitened, [], Options, counts);
        var value = PpoLoss.Value(newValues, values, advantages.Returns, Options, counts);
        var metrics = PpoStatistics.Metrics([policy.Statistics + value.Statistics]);

        var expected = new Rectangle(old, own, reference, values, newValues, scores, whitenRewards);
        LossArrays.Close(expected.PolicyLoss, metrics["loss/policy_avg"], "policy loss", 1e-12);
        LossArrays.Close(expected.ValueLoss, metrics["loss/value_avg"], "value loss", 1e-12);
        LossArrays.Close(expected.ApproximateKl, metrics["policy/approxkl_avg"], "approxkl", 1e-12);
        LossArrays.Close(expected.Ratio, metrics["val/ratio"], "ratio", 1e-12);
        for (int s = 0; s < old.Length; s++)
        {
            LossArrays.Close(expected.Advantages[s][..old[s].Length], whitened[s], $"advantages of {s}", 1e-12);
            LossArrays.Close(expected.Returns[s][..values[s].Length], advantages.Returns[s], $"returns of {s}", 1e-12);
        }
    }

    // Step by step, slot by slot, with masks: log-probabilities of padding are 1, values are 0 from the second slot of padding on.
    sealed class Rectangle
    {
        public Rectangle(double[][] old, double[][] own, double[][] reference, double[][] values, double[][] newValues, double[] scores, bool whitenRewards)
        {
            int rows = old.Length;
            double[][] oldPadded = Pad(old, 1), ownPadded = Pad(own, 1), referencePadded = Pad(reference, 1), valuePadded = Pad(values, 0), newValuePadded = Pad(newValues, 0);
            bool[][] token = Mask(old), trained = Mask(values);
            double[][] rewards = [.. oldPadded.Zip(referencePadded, (x, y) => x.Zip(y, (a, b) => -Coefficient * (a - b)).ToArray())];
            for (int s = 0; s < rows; s++)
            {
                rewards[s][Math.Min(old[s].Length, Width - 1)] += scores[s];
            }

            rewards = whitenRewards ? Whiten(rewards, trained, keepMean: true) : rewards;
            double[][] advantages = [.. rewards.Select(_ => new double[Width])];
            Returns = [.. rewards.Select(_ => new double[Width])];
            for (int s = 0; s < rows; s++)
            {
                double last = 0;
                for (int t = Width - 1; t >= 0; t--)
                {
                    double next = t < Width - 1 ? valuePadded[s][t + 1] : 0;
                    last = rewards[s][t] + Gamma * next - valuePadded[s][t] + Gamma * Lambda * last;
                    advantages[s][t] = last;
                    Returns[s][t] = last + valuePadded[s][t];
                }
            }

            Advantages = Whiten(advantages, token, keepMean: false);
            double policy = 0, value = 0, squares = 0, ratios = 0, tokens = 0, trainedValues = 0;
            for (int s = 0; s < rows; s++)
            {
                for (int t = 0; t < Width; t++)
                {
                    double difference = ownPadded[s][t] - oldPadded[s][t], ratio = Math.Exp(difference);
                    squares += difference * difference;
                    ratios += ratio;
                    if (token[s][t])
                    {
                        tokens++;
                        policy += Math.Max(-Advantages[s][t] * ratio, -Advantages[s][t] * Math.Min(Math.Max(ratio, 0.8), 1.2));
                    }

                    if (trained[s][t])
                    {
                        trainedValues++;
                        double clipped = Math.Min(Math.Max(newValuePadded[s][t], valuePadded[s][t] - 0.3), valuePadded[s][t] + 0.3);
                        value += 0.5 * Math.Max(Math.Pow(newValuePadded[s][t] - Returns[s][t], 2), Math.Pow(clipped - Returns[s][t], 2));
                    }
                }
            }

            PolicyLoss = policy / tokens;
            ValueLoss = value / trainedValues;
            ApproximateKl = 0.5 * squares / (rows * Width);
            Ratio = ratios / (rows * Width);
        }

        public double[][] Advantages { get; }

        public double[][] Returns { get; }

        public double PolicyLoss { get; }

        public double ValueLoss { get; }

        public double ApproximateKl { get; }

        public double Ratio { get; }

        static double[][] Pad(double[][] arrays, double filler) => [.. arrays.Select(array => array.Concat(Enumerable.Repeat(filler, Width)).Take(Width).ToArray())];

        static bool[][] Mask(double[][] arrays) => [.. arrays.Select(array => Enumerable.Range(0, Width).Select(t => t < array.Length).ToArray())];

        static double[][] Whiten(double[][] x, bool[][] mask, bool keepMean)
        {
            double[] kept = [.. x.Zip(mask, (row, keep) => row.Where((_, t) => keep[t])).SelectMany(row => row)];
            double mean = kept.Average(), variance = kept.Sum(value => Math.Pow(value - mean, 2)) / (kept.Length - 1);
            return [.. x.Zip(mask, (row, keep) => row.Select((value, t) => keep[t] ? (value - mean) / Math.Sqrt(variance + 1e-8) + (keepMean ? mean : 0) : 0).ToArray())];
        }
    }
}
