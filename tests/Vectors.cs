using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Comparisons of whole vectors.</summary>
static class Vectors
{
    /// <summary>‖actual − expected‖ within <paramref name="tolerance"/> · ‖expected‖; a NaN fails.</summary>
    public static void Close(IReadOnlyList<double> expected, IReadOnlyList<double> actual, double tolerance, string what)
    {
        Assert.Equal(expected.Count, actual.Count);
        double error = Math.Sqrt(expected.Zip(actual, (e, a) => (e - a) * (e - a)).Sum()), size = Math.Sqrt(expected.Sum(e => e * e));
        Assert.True(size > 0, $"{what}: nothing but zeros was expected, so this check would say nothing");
        Assert.True(error <= tolerance * size, $"{what}: relative error {error / size:e2}, allowed {tolerance:e0}");
    }

    /// <summary>The same numbers, bit for bit, and not all of them zero.</summary>
    public static void Same(IReadOnlyList<double> expected, IReadOnlyList<double> actual)
    {
        Assert.Contains(expected, x => x != 0);
        Assert.Equal(expected.Select(BitConverter.DoubleToInt64Bits), actual.Select(BitConverter.DoubleToInt64Bits));
    }
}
