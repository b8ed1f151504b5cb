using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Arrays of different lengths, as losses take them: random ones, flat copies for differences, parts for micro-batches, and comparison.</summary>
static class LossArrays
{
    public static readonly int[] Lengths = [5, 1, 8, 3, 2, 6];

    /// <summary>Normal numbers in the shape of <see cref="Lengths"/>.</summary>
    public static double[][] Random(Random random, double scale, double mean = 0) => [.. Lengths.Select(length => Normal(random, length, scale, mean))];

    public static double[][] Near(Random random, double[][] centre, double scale) => [.. centre.Select(array => Array.ConvertAll(array, x => x + Normal(random, 1, scale)[0]))];

    public static double[] Normal(Random random, int count, double scale, double mean = 0)
    {
        var values = new double[count];
        for (int i = 0; i < count; i++)
        {
            values[i] = mean + scale * Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(Math.Tau * random.NextDouble());
        }

        return values;
    }

    public static double[] Flat(IEnumerable<double[]> arrays) => [.. arrays.SelectMany(array => array)];

    /// <summary>The flat numbers in the shape of <paramref name="like"/>.</summary>
    public static double[][] Shape(double[] flat, double[][] like)
    {
        int start = 0;
        return [.. like.Select(array => flat[start..(start += array.Length)])];
    }

    /// <summary>The numbers of a rectangle that a mask keeps, row by row.</summary>
    public static double[][] Real(double[][] padded, double[][] mask) => [.. padded.Zip(mask, (row, keep) => row.Where((_, i) => keep[i] != 0).ToArray())];

    /// <summary>Number by number, to <paramref name="tolerance"/> of the larger of 1 and the expected size.</summary>
    public static void Close(double[][] expected, double[][] actual, string what, double tolerance = 1e-5)
    {
        Assert.Equal(expected.Select(array => array.Length), actual.Select(array => array.Length));
        Close(Flat(expected), Flat(actual), what, tolerance);
    }

    public static void Close(double[] expected, double[] actual, string what, double tolerance = 1e-5)
    {
        Assert.Equal(expected.Length, actual.Length);
        Assert.Contains(expected, x => x != 0);
        for (int i = 0; i < expected.Length; i++)
        {
            Close(expected[i], actual[i], $"{what} {i}", tolerance);
        }
    }

    public static void Close(double expected, double actual, string what, double tolerance = 1e-5) =>
        Assert.True(Math.Abs(expected - actual) <= tolerance * Math.Max(1, Math.Abs(expected)), $"{what}: {actual:r}, expected {expected:r}");

    /// <summary>The same names with the same numbers.</summary>
    public static void Close(IReadOnlyDictionary<string, double> expected, IReadOnlyDictionary<string, double> actual, double tolerance = 1e-12)
    {
        Assert.Equal(expected.Keys.Order(), actual.Keys.Order());
        Assert.All(expected, metric => Close(metric.Value, actual[metric.Key], metric.Key, tolerance));
    }
}
