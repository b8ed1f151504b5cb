using IlgpuPeft.Checkpoints;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Comparison with reference numbers of other people's code.</summary>
static class Compare
{
    /// <summary>‖actual − expected‖ ≤ tolerance · ‖expected‖.</summary>
    public static void Close(double[] expected, IReadOnlyList<double> actual, double tolerance, string what)
    {
        Assert.Equal(expected.Length, actual.Count);
        double size = Math.Sqrt(expected.Sum(e => e * e)), error = Math.Sqrt(expected.Zip(actual, (e, a) => (e - a) * (e - a)).Sum());
        Assert.True(size > 0 && error <= tolerance * size, $"{what}: relative error {error / size:e2}, expected at most {tolerance:e0}");
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
