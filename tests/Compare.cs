using IlgpuPeft.Checkpoints;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Comparisons of whole vectors.</summary>
static class Compare
{
    /// <summary>‖actual − expected‖ ≤ tolerance · ‖expected‖.</summary>
    public static void Close(double[] expected, IReadOnlyList<double> actual, double tolerance, string what)
    {
        Assert.Equal(expected.Length, actual.Count);
        double size = Math.Sqrt(expected.Sum(e => e * e)), error = Math.Sqrt(expected.Zip(actual, (e, a) => (e - a) * (e - a)).Sum());
        Assert.True(size > 0 && error <= tolerance * size, $"{what}: relative error {error / size:e2}, expected at most {tolerance:e0}");
    }

    /// <summary>The same numbers, bit for bit, and not all of them zero.</summary>
    public static void Same(double[] expected, double[] actual)
    {
        Assert.Contains(expected, x => x != 0);
        Assert.Equal(expected.Select(BitConverter.DoubleToInt64Bits), actual.Select(BitConverter.DoubleToInt64Bits));
    }

    public static double[] Read(Safetensors file, string name)
    {
        var values = new float[file.Find(name)!.Count];
        file.Read(name, values);
        return [.. values.Select(x => (double)x)];
    }
}

/// <summary>Keeps what a trainer reports.</summary>
sealed class Steps(Action<StepMetrics>? onStep = null) : IProgress<StepMetrics>
{
    public List<StepMetrics> All { get; } = [];

    public double[] Losses => [.. All.Select(step => step.Loss)];

    public void Report(StepMetrics value)
    {
        All.Add(value);
        onStep?.Invoke(value);
    }
}
