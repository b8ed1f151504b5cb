using ILGPU;
using ILGPU.Algorithms;
using ILGPU.Runtime;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Ordinary data-parallel ILGPU programs, run unchanged on the emulator and compared with plain C#.</summary>
public sealed class PtxEmulatorKernelTests : IDisposable
{
    readonly Context context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1).EnableAlgorithms());
    readonly PtxEmulatorAccelerator accelerator;

    public PtxEmulatorKernelTests() => accelerator = context.CreatePtxEmulator();

    public void Dispose()
    {
        accelerator.Dispose();
        context.Dispose();
    }

    static void AddVectors(Index1D i, ArrayView<float> x, ArrayView<float> y, ArrayView<float> sum) => sum[i] = x[i] + y[i];

    [Fact]
    public void Vectors_whose_length_no_block_divides_are_added()
    {
        float[] x = Sequence(1000, i => i), y = Sequence(1000, i => 0.5f * i);
        using var a = accelerator.Allocate1D(x);
        using var b = accelerator.Allocate1D(y);
        using var sum = accelerator.Allocate1D<float>(1000);
        var kernel = accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<float>, ArrayView<float>, ArrayView<float>>(AddVectors);
        kernel(1000, a.View, b.View, sum.View);
        accelerator.Synchronize();
        Assert.Equal(Sequence(1000, i => 1.5f * i), sum.GetAsArray1D());
    }

    static void ReduceBlocks(ArrayView<float> data, ArrayView<float> total)
    {
        var shared = SharedMemory.Allocate<float>(128);
        int t = Group.IdxX;
        shared[t] = data[Grid.GlobalIndex.X];
        Group.Barrier();
        for (int half = 64; half > 0; half >>= 1)
        {
            if (t < half)
                shared[t] += shared[t + half];
            Group.Barrier();
        }
        if (t == 0)
            Atomic.Add(ref total[0], shared[0]);
    }

    [Fact]
    public void A_tree_in_shared_memory_reduces_a_block()
    {
        using var data = accelerator.Allocate1D(Sequence(1024, i => i));
        using var total = accelerator.Allocate1D<float>(1);
        total.MemSetToZero();
        accelerator.LoadStreamKernel<ArrayView<float>, ArrayView<float>>(ReduceBlocks)(new KernelConfig(8, 128), data.View, total.View);
        Assert.Equal(1023f * 1024 / 2, total.GetAsArray1D()[0]);
        Assert.Equal(8 * 8, accelerator.LastLaunch!.Barriers);
    }

    static void Transpose(ArrayView2D<int, Stride2D.DenseX> from, ArrayView2D<int, Stride2D.DenseX> to)
    {
        var tile = SharedMemory.Allocate2D<int, Stride2D.DenseX>(new Index2D(16, 17), new Stride2D.DenseX(17));
        int x = Group.IdxX, y = Group.IdxY;
        tile[y, x] = from[(Grid.IdxY * 16) + y, (Grid.IdxX * 16) + x];
        Group.Barrier();
        to[(Grid.IdxX * 16) + y, (Grid.IdxY * 16) + x] = tile[x, y];
    }

    [Fact]
    public void A_matrix_is_transposed_through_tiles()
    {
        var matrix = new int[32, 48];
        for (int i = 0; i < 32; i++)
            for (int j = 0; j < 48; j++)
                matrix[i, j] = (100 * i) + j;
        using var from = accelerator.Allocate2DDenseX(matrix);
        using var to = accelerator.Allocate2DDenseX<int>(new Index2D(48, 32));
        accelerator.LoadStreamKernel<ArrayView2D<int, Stride2D.DenseX>, ArrayView2D<int, Stride2D.DenseX>>(Transpose)(
            new KernelConfig(new Index2D(3, 2), new Index2D(16, 16)), from.View, to.View);
        int[,] result = to.GetAsArray2D();
        for (int i = 0; i < 32; i++)
            for (int j = 0; j < 48; j++)
                Assert.Equal(matrix[i, j], result[j, i]);
    }

    static void Histogram(Index1D i, ArrayView<int> data, ArrayView<int> bins) => Atomic.Add(ref bins[data[i] & 15], 1);

    [Fact]
    public void A_histogram_counts_every_element()
    {
        int[] values = [.. Enumerable.Range(0, 5000).Select(i => i * i)];
        using var data = accelerator.Allocate1D(values);
        using var bins = accelerator.Allocate1D<int>(16);
        bins.MemSetToZero();
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<int>, ArrayView<int>>(Histogram)(values.Length, data.View, bins.View);
        var expected = new int[16];
        foreach (int value in values)
            expected[value & 15]++;
        Assert.Equal(expected, bins.GetAsArray1D());
    }

    static void Scan(ArrayView<int> data)
    {
        var shared = SharedMemory.GetDynamic<int>();
        int t = Group.IdxX;
        shared[t] = data[t];
        Group.Barrier();
        for (int step = 1; step < Group.DimX; step <<= 1)
        {
            int before = t >= step ? shared[t - step] : 0;
            Group.Barrier();
            shared[t] += before;
            Group.Barrier();
        }
        data[t] = shared[t];
    }

    [Fact]
    public void A_scan_in_dynamic_shared_memory_sums_prefixes()
    {
        int[] values = [.. Enumerable.Range(1, 256)];
        using var data = accelerator.Allocate1D(values);
        accelerator.LoadStreamKernel<ArrayView<int>>(Scan)(new KernelConfig(1, 256, SharedMemoryConfig.RequestDynamic<int>(256)), data.View);
        Assert.Equal([.. values.Select(n => n * (n + 1) / 2)], data.GetAsArray1D());
    }

    static void WarpSums(ArrayView<float> data, ArrayView<float> sums)
    {
        float sum = data[Grid.GlobalIndex.X];
        for (int offset = 16; offset > 0; offset >>= 1)
            sum += Warp.ShuffleDown(sum, offset);
        if (Warp.LaneIdx == 0)
            sums[Grid.GlobalIndex.X / 32] = sum;
    }

    [Fact]
    public void Shuffles_sum_a_warp()
    {
        using var data = accelerator.Allocate1D(Sequence(128, i => i));
        using var sums = accelerator.Allocate1D<float>(4);
        accelerator.LoadStreamKernel<ArrayView<float>, ArrayView<float>>(WarpSums)(new KernelConfig(2, 64), data.View, sums.View);
        Assert.Equal([496f, 1520, 2544, 3568], sums.GetAsArray1D());
    }

    static void Shuffles(ArrayView<int> to)
    {
        int lane = Warp.LaneIdx;
        to[lane] = Warp.ShuffleUp(lane, 3);
        to[lane + 32] = Warp.ShuffleXor(lane, 5);
        to[lane + 64] = Warp.Shuffle(lane, 7);
        to[lane + 96] = Warp.ShuffleDown(lane, 30);
    }

    [Fact]
    public void Shuffles_beyond_the_warp_keep_a_lanes_own_value()
    {
        using var to = accelerator.Allocate1D<int>(128);
        accelerator.LoadStreamKernel<ArrayView<int>>(Shuffles)(new KernelConfig(1, 32), to.View);
        var lanes = Enumerable.Range(0, 32);
        Assert.Equal([.. lanes.Select(i => i < 3 ? i : i - 3), .. lanes.Select(i => i ^ 5), .. lanes.Select(_ => 7), .. lanes.Select(i => i < 2 ? i + 30 : i)],
            to.GetAsArray1D());
    }

    static void NaiveProduct(Index2D at, ArrayView2D<float, Stride2D.DenseY> a, ArrayView2D<float, Stride2D.DenseY> b, ArrayView2D<float, Stride2D.DenseY> c)
    {
        float sum = 0;
        for (int k = 0; k < a.IntExtent.Y; k++)
            sum += a[at.X, k] * b[k, at.Y];
        c[at] = sum;
    }

    const int Tile = 16;

    static void TiledProduct(ArrayView<float> a, ArrayView<float> b, ArrayView<float> c, int n)
    {
        var left = SharedMemory.Allocate<float>(Tile * Tile);
        var right = SharedMemory.Allocate<float>(Tile * Tile);
        int x = Group.IdxX, y = Group.IdxY, row = (Grid.IdxY * Tile) + y, column = (Grid.IdxX * Tile) + x;
        float sum = 0;
        for (int k = 0; k < n; k += Tile)
        {
            left[(y * Tile) + x] = a[(row * n) + k + x];
            right[(y * Tile) + x] = b[((k + y) * n) + column];
            Group.Barrier();
            for (int i = 0; i < Tile; i++)
                sum += left[(y * Tile) + i] * right[(i * Tile) + x];
            Group.Barrier();
        }
        c[(row * n) + column] = sum;
    }

    [Fact]
    public void Naive_and_tiled_products_agree_with_the_host()
    {
        const int n = 64;
        float[] x = Sequence(n * n, i => (i % 7) - 3), y = Sequence(n * n, i => (i % 5) - 2);
        float[] expected = HostProduct(x, y, n);
        using var a = accelerator.Allocate1D(x);
        using var b = accelerator.Allocate1D(y);
        using var c = accelerator.Allocate1D<float>(n * n);
        accelerator.LoadStreamKernel<ArrayView<float>, ArrayView<float>, ArrayView<float>, int>(TiledProduct)(
            new KernelConfig(new Index2D(n / Tile, n / Tile), new Index2D(Tile, Tile)), a.View, b.View, c.View, n);
        Assert.Equal(expected, c.GetAsArray1D());
        c.MemSetToZero();
        var square = new Index2D(n, n);
        accelerator.LoadAutoGroupedStreamKernel<Index2D, ArrayView2D<float, Stride2D.DenseY>, ArrayView2D<float, Stride2D.DenseY>, ArrayView2D<float, Stride2D.DenseY>>(
            NaiveProduct)(square, a.View.As2DDenseYView(square), b.View.As2DDenseYView(square), c.View.As2DDenseYView(square));
        Assert.Equal(expected, c.GetAsArray1D());
    }

    static void Functions(Index1D i, ArrayView<float> x)
    {
        float v = x[i];
        x[i] = XMath.Exp(v) + XMath.Sqrt(v) + XMath.Log(v + 1) + XMath.Tanh(v) + XMath.Sin(v) + XMath.Pow(v + 1, 1.5f);
    }

    [Fact]
    public void Functions_of_ILGPU_Algorithms_are_close_to_the_hosts()
    {
        using var x = accelerator.Allocate1D(Sequence(64, i => 0.05f * i));
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<float>>(Functions)(64, x.View);
        float[] result = x.GetAsArray1D();
        for (int i = 0; i < 64; i++)
        {
            double v = 0.05f * i;
            double expected = Math.Exp(v) + Math.Sqrt(v) + Math.Log(v + 1) + Math.Tanh(v) + Math.Sin(v) + Math.Pow(v + 1, 1.5);
            Assert.Equal(expected, result[i], 1e-5 * Math.Max(1, expected));
        }
    }

    static void SumAll(ArrayView<float> data, ArrayView<float> total) =>
        Atomic.Add(ref total[0], data[Grid.GlobalIndex.X]);

    [Fact]
    public void Float_atomics_give_the_same_bits_on_any_number_of_workers()
    {
        float[] values = Sequence(8192, i => 1f / (i + 1));
        int Run(int workers)
        {
            using var emulator = context.CreatePtxEmulator(new PtxEmulatorOptions { Workers = workers });
            using var data = emulator.Allocate1D(values);
            using var total = emulator.Allocate1D<float>(1);
            total.MemSetToZero();
            emulator.LoadStreamKernel<ArrayView<float>, ArrayView<float>>(SumAll)(new KernelConfig(64, 128), data.View, total.View);
            return BitConverter.SingleToInt32Bits(total.GetAsArray1D()[0]);
        }
        float inOrder = 0;
        foreach (float value in values)
            inOrder += value;
        Assert.Equal(BitConverter.SingleToInt32Bits(inOrder), Run(1));
        Assert.Equal(Run(1), Run(4));
    }

    [Fact]
    public void Product_of_256_takes_the_counts_that_its_tiles_imply()
    {
        const int n = 256;
        float[] x = Sequence(n * n, i => (i % 7) - 3), y = Sequence(n * n, i => (i % 5) - 2);
        using var a = accelerator.Allocate1D(x);
        using var b = accelerator.Allocate1D(y);
        using var c = accelerator.Allocate1D<float>(n * n);
        accelerator.LoadStreamKernel<ArrayView<float>, ArrayView<float>, ArrayView<float>, int>(TiledProduct)(
            new KernelConfig(new Index2D(n / Tile, n / Tile), new Index2D(Tile, Tile)), a.View, b.View, c.View, n);
        Assert.Equal(HostProduct(x, y, n), c.GetAsArray1D());
        var counters = accelerator.LastLaunch!;
        // 256 blocks walk 16 tiles of two matrices, 16 x 16 floats each: two rows, that is 4 sectors, per warp request.
        Assert.Equal(256L * 16 * 2 * 8, counters.GlobalLoadRequests);
        Assert.Equal(256L * 16 * 2 * 8 * 4, counters.GlobalLoadSectors);
        Assert.Equal(256L * 16 * 2, counters.Barriers);
    }

    static float[] HostProduct(float[] a, float[] b, int n)
    {
        var c = new float[n * n];
        for (int i = 0; i < n; i++)
            for (int k = 0; k < n; k++)
                for (int j = 0; j < n; j++)
                    c[(i * n) + j] += a[(i * n) + k] * b[(k * n) + j];
        return c;
    }

    static float[] Sequence(int count, Func<int, float> value) => [.. Enumerable.Range(0, count).Select(value)];
}
