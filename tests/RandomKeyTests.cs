using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

public class RandomKeyTests
{
    // Known answers of philox4x32 with 10 rounds from the Random123 distribution. The counter is (index low, index high, step, operation), the key is the seed.
    [Theory]
    [InlineData(0UL, 0u, 0u, 0UL, 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u)]
    [InlineData(0xffffffff_ffffffffUL, 0xffffffffu, 0xffffffffu, 0xffffffff_ffffffffUL, 0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu)]
    [InlineData(0x85a308d3_243f6a88UL, 0x13198a2eu, 0x03707344u, 0x299f31d0_a4093822UL, 0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u)]
    public void Philox_knownCounterAndKey_knownWords(ulong index, uint step, uint operation, ulong seed, uint x, uint y, uint z, uint w) =>
        Assert.Equal((x, y, z, w), new RandomKey(seed, step, operation).Philox(index));

    [Fact]
    public void Philox_oneFieldChanged_allWordsChange()
    {
        RandomKey key = new(1, 2, 3);
        var words = key.Philox(4);
        foreach (var other in new[] { (key with { Seed = 1UL << 32 | 1 }).Philox(4), (key with { Step = 3 }).Philox(4), (key with { Operation = 2 }).Philox(4), key.Philox(5) })
        {
            Assert.NotEqual(words.X, other.X);
            Assert.NotEqual(words.Y, other.Y);
            Assert.NotEqual(words.Z, other.Z);
            Assert.NotEqual(words.W, other.W);
        }
    }

    [Fact]
    public void Uniform_fourNeighbours_areTheWordsOfOneCall()
    {
        RandomKey key = new(7, 8, 9);
        var (x, y, z, w) = key.Philox(5);
        Assert.Equal(
            new[] { x, y, z, w }.Select(word => (word >> 8) / 16777216f),
            Enumerable.Range(20, 4).Select(i => key.Uniform((ulong)i)));
    }

    [Fact]
    public void Uniform_manyDraws_hasMomentsAndEvenBins()
    {
        const int Count = 200_000, Bins = 50;
        RandomKey key = new(42, 0, 1);
        double[] draws = [.. Enumerable.Range(0, Count).Select(i => (double)key.Uniform((ulong)i))];
        Assert.All(draws, u => Assert.InRange(u, 0, 1 - 1.0 / (1 << 24)));
        double deviation = Math.Sqrt(1.0 / 12 / Count);
        Assert.InRange(draws.Average(), 0.5 - 5 * deviation, 0.5 + 5 * deviation);
        Assert.InRange(draws.Average(u => u * u), 1.0 / 3 - 0.004, 1.0 / 3 + 0.004);
        double chiSquare = draws.GroupBy(u => (int)(u * Bins)).Sum(bin => Math.Pow(bin.Count() - Count / Bins, 2) / (Count / Bins));
        Assert.InRange(chiSquare, 20, 95); // 49 degrees of freedom: mean 49, deviation 9.9
    }

    [Fact]
    public void Normal_manyDraws_hasMomentsAndNoCorrelation()
    {
        const int Count = 200_000;
        RandomKey key = new(42, 0, 2);
        double[] draws = [.. Enumerable.Range(0, Count).Select(i => key.Normal((ulong)i))];
        double error = 5 / Math.Sqrt(Count);
        Assert.All(draws, x => Assert.True(double.IsFinite(x)));
        Assert.InRange(draws.Average(), -error, error);
        Assert.InRange(draws.Average(x => x * x), 1 - error * Math.Sqrt(2), 1 + error * Math.Sqrt(2));
        Assert.InRange(draws.Average(x => x * x * x), -error * Math.Sqrt(15), error * Math.Sqrt(15));
        Assert.InRange(draws.Average(x => x * x * x * x), 3 - error * Math.Sqrt(96), 3 + error * Math.Sqrt(96));
        Assert.InRange(draws.Zip(draws.Skip(1), (a, b) => a * b).Average(), -error, error);
    }
}
