using ILGPU;
using ILGPU.Algorithms;
using ILGPU.Algorithms.HistogramOperations;
using ILGPU.Algorithms.RadixSortOperations;
using ILGPU.Algorithms.Random;
using ILGPU.Algorithms.ScanReduceOperations;
using ILGPU.Algorithms.Sequencers;
using ILGPU.Runtime;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What ILGPU.Algorithms offers, run unchanged on the emulator and compared with plain C#.</summary>
public sealed class PtxEmulatorAlgorithmTests : IDisposable
{
    readonly Context context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1).EnableAlgorithms());
    readonly PtxEmulatorAccelerator accelerator;

    public PtxEmulatorAlgorithmTests() => accelerator = context.CreatePtxEmulator();

    public void Dispose()
    {
        accelerator.Dispose();
        context.Dispose();
    }

    static int[] Numbers(int count) => [.. Enumerable.Range(0, count).Select(i => (i * 7919 % 1009) - 500)];

    [Theory]
    [InlineData(1)]
    [InlineData(64)]
    [InlineData(5003)]
    public void Reduce_sums_and_finds_extremes(int count)
    {
        int[] numbers = Numbers(count);
        using var data = accelerator.Allocate1D(numbers);
        using var result = accelerator.Allocate1D<int>(3);
        var stream = accelerator.DefaultStream;
        accelerator.Reduce<int, AddInt32>(stream, data.View, result.View.SubView(0, 1));
        accelerator.Reduce<int, MaxInt32>(stream, data.View, result.View.SubView(1, 1));
        accelerator.Reduce<int, MinInt32>(stream, data.View, result.View.SubView(2, 1));
        Assert.Equal([numbers.Sum(), numbers.Max(), numbers.Min()], result.GetAsArray1D());
    }

    [Theory]
    [InlineData(ScanKind.Inclusive, 32)]
    [InlineData(ScanKind.Exclusive, 32)]
    [InlineData(ScanKind.Inclusive, 3000)]
    [InlineData(ScanKind.Exclusive, 3000)]
    public void Scan_sums_prefixes(ScanKind kind, int count)
    {
        int[] numbers = Numbers(count);
        using var data = accelerator.Allocate1D(numbers);
        using var sums = accelerator.Allocate1D<int>(count);
        using var scratch = accelerator.Allocate1D<int>(accelerator.ComputeScanTempStorageSize<int>(count));
        accelerator.CreateScan<int, Stride1D.Dense, Stride1D.Dense, AddInt32>(kind)(accelerator.DefaultStream, data.View, sums.View, scratch.View.AsContiguous());
        var expected = new int[count];
        int sum = 0;
        for (int i = 0; i < count; i++)
        {
            expected[i] = kind == ScanKind.Inclusive ? sum + numbers[i] : sum;
            sum += numbers[i];
        }
        Assert.Equal(expected, sums.GetAsArray1D());
    }

    [Theory]
    [InlineData(100)]
    [InlineData(2500)]
    public void Radix_sort_orders_signed_numbers_both_ways(int count)
    {
        int[] numbers = Numbers(count);
        using var data = accelerator.Allocate1D(numbers);
        using var scratch = accelerator.Allocate1D<int>(accelerator.ComputeRadixSortTempStorageSize<int, AscendingInt32>(count));
        accelerator.CreateRadixSort<int, Stride1D.Dense, AscendingInt32>()(accelerator.DefaultStream, data.View, scratch.View.AsContiguous());
        Assert.Equal(numbers.Order(), data.GetAsArray1D());
        accelerator.CreateRadixSort<int, Stride1D.Dense, DescendingInt32>()(accelerator.DefaultStream, data.View, scratch.View.AsContiguous());
        Assert.Equal(numbers.OrderDescending(), data.GetAsArray1D());
    }

    [Fact]
    public void Radix_sort_of_pairs_carries_values_along()
    {
        // Positive ones: ILGPU 1.5.3 orders negative floats backwards, on every device.
        float[] keys = [.. Numbers(600).Select(n => (n + 500) / 8f)];
        int[] values = [.. Enumerable.Range(0, 600)];
        using var a = accelerator.Allocate1D(keys);
        using var b = accelerator.Allocate1D(values);
        var sort = accelerator.CreateRadixSortPairs<float, Stride1D.Dense, int, Stride1D.Dense, AscendingFloat>();
        using var scratch = accelerator.Allocate1D<int>(accelerator.ComputeRadixSortPairsTempStorageSize<float, int, AscendingFloat>(600));
        sort(accelerator.DefaultStream, a.View, b.View, scratch.View.AsContiguous());
        // Sorting by digits is stable, as LINQ's sorting is.
        Assert.Equal(keys.Order(), a.GetAsArray1D());
        Assert.Equal(values.OrderBy(i => keys[i]), b.GetAsArray1D());
    }

    // Public, because ILGPU generates code around it.
    public struct Pair
    {
        public int Value;
        public long Square;
    }

    public readonly struct SquareOf : ITransformer<int, Pair>
    {
        public Pair Transform(int value) => new() { Value = value, Square = (long)value * value };
    }

    [Fact]
    public void Initialize_sequence_and_transform_fill_views()
    {
        var stream = accelerator.DefaultStream;
        using var data = accelerator.Allocate1D<int>(1000);
        accelerator.Initialize(stream, data.View, 23);
        Assert.All(data.GetAsArray1D(), value => Assert.Equal(23, value));
        accelerator.Sequence(stream, data.View, new Int32Sequencer());
        Assert.Equal(Enumerable.Range(0, 1000), data.GetAsArray1D());
        using var pairs = accelerator.Allocate1D<Pair>(1000);
        accelerator.Transform(stream, data.View, pairs.View, new SquareOf());
        Pair[] result = pairs.GetAsArray1D();
        for (int i = 0; i < 1000; i++)
            Assert.Equal((i, (long)i * i), (result[i].Value, result[i].Square));
        accelerator.RepeatedSequence(stream, data.View.SubView(0, 1000), 3, new Int32Sequencer());
        Assert.Equal(Enumerable.Range(0, 1000).Select(i => i % 3), data.GetAsArray1D());
    }

    [Fact]
    public void Unique_keeps_the_first_of_equal_neighbours()
    {
        long[] numbers = [.. Enumerable.Range(0, 900).Select(i => (long)(i / 7 % 5))];
        using var data = accelerator.Allocate1D(numbers);
        long length = accelerator.Unique(accelerator.DefaultStream, data.View);
        long[] expected = [.. numbers.Where((n, i) => i == 0 || n != numbers[i - 1])];
        Assert.Equal(expected, data.GetAsArray1D()[..(int)length]);
    }

    readonly struct Remainder : IComputeSingleBinOperation<int, Index1D>
    {
        public Index1D ComputeHistogramBin(int value, Index1D bins) => value % bins.X;
    }

    [Fact]
    public void Histogram_counts_into_bins()
    {
        int[] numbers = [.. Numbers(4000).Select(Math.Abs)];
        using var data = accelerator.Allocate1D(numbers);
        using var bins = accelerator.Allocate1D<int>(13);
        using var overflow = accelerator.Allocate1D<int>(1);
        bins.MemSetToZero();
        overflow.MemSetToZero();
        accelerator.Histogram<int, Stride1D.Dense, Remainder>(accelerator.DefaultStream, data.View, bins.View, overflow.View);
        Assert.Equal(Enumerable.Range(0, 13).Select(bin => numbers.Count(n => n % 13 == bin)), bins.GetAsArray1D());
        Assert.Equal(0, overflow.GetAsArray1D()[0]);
    }

    static void GroupSums(ArrayView<int> data, ArrayView<int> sums, ArrayView<int> scans)
    {
        int i = Grid.GlobalIndex.X;
        int all = GroupExtensions.AllReduce<int, AddInt32>(data[i]);
        Group.Barrier();
        int first = GroupExtensions.Reduce<int, MaxInt32>(data[i]);
        Group.Barrier();
        scans[i] = GroupExtensions.InclusiveScan<int, AddInt32>(data[i]);
        sums[i] = all;
        if (Group.IsFirstThread)
            sums[i] = first;
    }

    [Theory]
    [InlineData(32)]
    [InlineData(96)]
    [InlineData(256)]
    public void Group_extensions_reduce_and_scan_a_block(int threads)
    {
        int[] numbers = Numbers(4 * threads);
        using var data = accelerator.Allocate1D(numbers);
        using var sums = accelerator.Allocate1D<int>(numbers.Length);
        using var scans = accelerator.Allocate1D<int>(numbers.Length);
        accelerator.LoadStreamKernel<ArrayView<int>, ArrayView<int>, ArrayView<int>>(GroupSums)(new KernelConfig(4, threads), data.View, sums.View, scans.View);
        int[] sum = sums.GetAsArray1D(), scan = scans.GetAsArray1D();
        for (int i = 0; i < numbers.Length; i++)
        {
            int[] block = numbers[(i / threads * threads)..((i / threads + 1) * threads)];
            Assert.Equal(i % threads == 0 ? block.Max() : block.Sum(), sum[i]);
            Assert.Equal(block.Take(i % threads + 1).Sum(), scan[i]);
        }
    }

    static void WarpSums(ArrayView<int> data, ArrayView<int> sums, ArrayView<int> scans)
    {
        int i = Grid.GlobalIndex.X;
        sums[i] = WarpExtensions.AllReduce<int, AddInt32>(data[i]);
        scans[i] = WarpExtensions.ExclusiveScan<int, AddInt32>(data[i]);
    }

    [Fact]
    public void Warp_extensions_reduce_and_scan_32_lanes()
    {
        int[] numbers = Numbers(128);
        using var data = accelerator.Allocate1D(numbers);
        using var sums = accelerator.Allocate1D<int>(128);
        using var scans = accelerator.Allocate1D<int>(128);
        accelerator.LoadStreamKernel<ArrayView<int>, ArrayView<int>, ArrayView<int>>(WarpSums)(new KernelConfig(2, 64), data.View, sums.View, scans.View);
        Assert.Equal(Enumerable.Range(0, 128).Select(i => numbers.Skip(i / 32 * 32).Take(32).Sum()), sums.GetAsArray1D());
        Assert.Equal(Enumerable.Range(0, 128).Select(i => numbers.Skip(i / 32 * 32).Take(i % 32).Sum()), scans.GetAsArray1D());
    }

    static void Darts(Index1D i, RNGView<XorShift64Star> random, ArrayView<int> hits)
    {
        int inside = 0;
        for (int n = 0; n < 64; n++)
        {
            float x = random.NextFloat(), y = random.NextFloat();
            inside += (x * x) + (y * y) < 1 ? 1 : 0;
        }
        Atomic.Add(ref hits[0], inside);
    }

    [Fact]
    public void Darts_at_a_quarter_circle_estimate_pi_and_repeat_with_the_seed()
    {
        int Hits()
        {
            using var generator = RNG.Create<XorShift64Star>(accelerator, new Random(7));
            using var hits = accelerator.Allocate1D<int>(1);
            hits.MemSetToZero();
            accelerator.LoadAutoGroupedStreamKernel<Index1D, RNGView<XorShift64Star>, ArrayView<int>>(Darts)(
                1024, generator.GetView(accelerator.WarpSize), hits.View);
            return hits.GetAsArray1D()[0];
        }
        int first = Hits();
        // 65,536 darts: the standard deviation of the estimate is 0.0064.
        Assert.Equal(Math.PI, 4.0 * first / 65536, 0.03);
        Assert.Equal(first, Hits());
    }

    [Fact]
    public void Filled_random_numbers_are_spread_evenly()
    {
        using var generator = RNG.Create<XorShift128Plus>(accelerator, new Random(3));
        using var data = accelerator.Allocate1D<float>(4096);
        generator.FillUniform(accelerator.DefaultStream, data.View);
        float[] numbers = data.GetAsArray1D();
        Assert.All(numbers, x => Assert.InRange(x, 0, 1));
        Assert.Equal(0.5, numbers.Average(), 0.02);
        Assert.Equal(1.0 / 12, numbers.Average(x => (x - 0.5) * (x - 0.5)), 0.005);
    }

    static void Functions(Index1D i, ArrayView<float> x, ArrayView<double> y)
    {
        float v = x[i];
        double w = v;
        y[i] = XMath.Sin(w) + XMath.Exp(w) + XMath.Log(w + 1) + XMath.Atan2(w, 2.0) + XMath.Rsqrt(w + 1) + XMath.Pow(w + 1, 0.5) + XMath.Sinh(w);
        x[i] = XMath.Rcp(v + 1) + XMath.Log2(v + 1) + XMath.Exp2(v) + XMath.Asin(v / 4) + XMath.Floor(v * 3) + XMath.Cosh(v);
    }

    [Fact]
    public void Functions_in_both_precisions_are_close_to_the_hosts()
    {
        float[] values = [.. Enumerable.Range(0, 64).Select(i => 0.05f * i)];
        using var x = accelerator.Allocate1D(values);
        using var y = accelerator.Allocate1D<double>(64);
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<float>, ArrayView<double>>(Functions)(64, x.View, y.View);
        float[] single = x.GetAsArray1D();
        double[] precise = y.GetAsArray1D();
        for (int i = 0; i < 64; i++)
        {
            double v = values[i];
            double expected = Math.Sin(v) + Math.Exp(v) + Math.Log(v + 1) + Math.Atan2(v, 2) + (1 / Math.Sqrt(v + 1)) + Math.Pow(v + 1, 0.5) + Math.Sinh(v);
            Assert.Equal(expected, precise[i], 1e-5 * Math.Max(1, expected));
            double other = (1 / (v + 1)) + Math.Log2(v + 1) + Math.Pow(2, v) + Math.Asin(v / 4) + Math.Floor(values[i] * 3) + Math.Cosh(v);
            Assert.Equal(other, single[i], 1e-4 * Math.Max(1, other));
        }
    }
}
