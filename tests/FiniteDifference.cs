using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Compares a gradient with central differences of the function it belongs to, in double.</summary>
static class FiniteDifference
{
    const double Step = 1e-5, Tolerance = 1e-6;
    const int Directions = 4, ElementsAtMost = 64;

    /// <summary>Along random directions, and element by element where there are few.</summary>
    public static void Check(string what, int seed, double[] x, double[] gradient, Func<double[], double> function, double step = Step, double tolerance = Tolerance)
    {
        Assert.Equal(x.Length, gradient.Length);
        Assert.True(gradient.Any(g => g != 0), $"{what}: the gradient is zero everywhere, so this check would say nothing");
        var random = new Random(seed);
        for (int i = 0; i < Directions; i++)
        {
            Compare($"direction {i}", [.. x.Select(_ => 2 * random.NextDouble() - 1)]);
        }

        for (int i = 0; i < x.Length && x.Length <= ElementsAtMost; i++)
        {
            var direction = new double[x.Length];
            direction[i] = 1;
            Compare($"element {i}", direction);
        }

        void Compare(string where, double[] direction)
        {
            double length = Math.Sqrt(direction.Sum(d => d * d)), h = step / length;
            double slope = (function(Moved(h)) - function(Moved(-h))) / (2 * h);
            double expected = gradient.Zip(direction, (g, d) => g * d).Sum();
            double scale = length * Math.Sqrt(gradient.Sum(g => g * g));
            Assert.True(Math.Abs(slope - expected) <= tolerance * scale, $"{what}, seed {seed}, {where}: gradient {expected:r}, difference quotient {slope:r}");

            double[] Moved(double by) => [.. x.Zip(direction, (value, d) => value + by * d)];
        }
    }
}
