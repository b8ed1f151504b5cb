using ILGPU;
using ILGPU.AtomicOperations;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The ideas of ILGPU's own samples, in our words: what the language offers in kernels, run unchanged on the emulator.</summary>
public sealed class PtxEmulatorSampleTests : IDisposable
{
    readonly Context context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1));
    readonly PtxEmulatorAccelerator accelerator;

    public PtxEmulatorSampleTests() => accelerator = context.CreatePtxEmulator();

    public void Dispose()
    {
        accelerator.Dispose();
        context.Dispose();
    }

    static void Positions(ArrayView3D<int, Stride3D.DenseXY> to)
    {
        var at = new Index3D(
            (Grid.IdxX * Group.DimX) + Group.IdxX, (Grid.IdxY * Group.DimY) + Group.IdxY, (Grid.IdxZ * Group.DimZ) + Group.IdxZ);
        if (at.X < to.IntExtent.X && at.Y < to.IntExtent.Y && at.Z < to.IntExtent.Z)
            to[at] = (at.X * 10_000) + (at.Y * 100) + at.Z;
    }

    [Fact]
    public void Explicit_groups_in_three_dimensions_cover_a_view()
    {
        using var to = accelerator.Allocate3DDenseXY<int>(new Index3D(5, 6, 7));
        accelerator.LoadStreamKernel<ArrayView3D<int, Stride3D.DenseXY>>(Positions)(
            new KernelConfig(new Index3D(2, 2, 4), new Index3D(4, 4, 2)), to.View);
        int[,,] result = to.GetAsArray3D();
        for (int x = 0; x < 5; x++)
            for (int y = 0; y < 6; y++)
                for (int z = 0; z < 7; z++)
                    Assert.Equal((x * 10_000) + (y * 100) + z, result[x, y, z]);
    }

    static void Implicit3D(Index3D i, ArrayView3D<int, Stride3D.DenseXY> to, int factor) => to[i] = factor * (i.X + (i.Y * i.Z));

    [Fact]
    public void Implicit_groups_in_three_dimensions_cover_a_view()
    {
        using var to = accelerator.Allocate3DDenseXY<int>(new Index3D(9, 4, 3));
        accelerator.LoadAutoGroupedStreamKernel<Index3D, ArrayView3D<int, Stride3D.DenseXY>, int>(Implicit3D)(new Index3D(9, 4, 3), to.View, 5);
        int[,,] result = to.GetAsArray3D();
        Assert.Equal(5 * (8 + (3 * 2)), result[8, 3, 2]);
        Assert.Equal(5 * (0 + (2 * 1)), result[0, 2, 1]);
    }

    readonly struct AddDouble : IAtomicOperation<double>
    {
        public double Operation(double current, double value) => current + value;
    }

    static void AddInTurns(Index1D i, ArrayView<double> sum, double value)
    {
        Atomic.MakeAtomic(ref sum[0], value, new AddDouble(), new CompareExchangeDouble());
        Atomic.Add(ref sum[1], value);
    }

    [Fact]
    public void Atomics_built_from_compare_exchange_lose_nothing()
    {
        using var sum = accelerator.Allocate1D<double>(2);
        sum.MemSetToZero();
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<double>, double>(AddInTurns)(1024, sum.View, 2.0);
        Assert.Equal([2048, 2048], sum.GetAsArray1D());
    }

    public interface IOperation<T> where T : unmanaged
    {
        static abstract T Of(T a, T b);
    }

    readonly struct Sum : IOperation<int>
    {
        public static int Of(int a, int b) => a + b;
    }

    readonly struct Product : IOperation<double>
    {
        public static double Of(double a, double b) => a * b;
    }

    static void Apply<T, TOperation>(Index1D i, ArrayView<T> data) where T : unmanaged where TOperation : IOperation<T> =>
        data[i] = TOperation.Of(data[i], data[i]);

    [Fact]
    public void Generic_kernels_are_made_for_static_abstract_operations()
    {
        using var numbers = accelerator.Allocate1D([1, 2, 3]);
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<int>>(Apply<int, Sum>)(3, numbers.View);
        Assert.Equal([2, 4, 6], numbers.GetAsArray1D());
        using var reals = accelerator.Allocate1D([1.5, 2, 3]);
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<double>>(Apply<double, Product>)(3, reals.View);
        Assert.Equal([2.25, 4, 9], reals.GetAsArray1D());
    }

    static void Life(Index2D at, ArrayView2D<byte, Stride2D.DenseX> now, ArrayView2D<byte, Stride2D.DenseX> next)
    {
        int width = now.IntExtent.X, height = now.IntExtent.Y, neighbours = 0;
        for (int dx = -1; dx <= 1; dx++)
            for (int dy = -1; dy <= 1; dy++)
                if (dx != 0 || dy != 0)
                    neighbours += now[(at.X + dx + width) % width, (at.Y + dy + height) % height];
        next[at] = (byte)(neighbours == 3 || (neighbours == 2 && now[at] == 1) ? 1 : 0);
    }

    [Fact]
    public void A_glider_moves_one_cell_in_four_generations()
    {
        var cells = new byte[16, 12];
        foreach (var (x, y) in ((int, int)[])[(1, 0), (2, 1), (0, 2), (1, 2), (2, 2)])
            cells[x, y] = 1;
        using var a = accelerator.Allocate2DDenseX(cells);
        using var b = accelerator.Allocate2DDenseX<byte>(new Index2D(16, 12));
        var step = accelerator.LoadAutoGroupedStreamKernel<Index2D, ArrayView2D<byte, Stride2D.DenseX>, ArrayView2D<byte, Stride2D.DenseX>>(Life);
        for (int generation = 0; generation < 2; generation++)
        {
            step(new Index2D(16, 12), a.View, b.View);
            step(new Index2D(16, 12), b.View, a.View);
        }
        byte[,] result = a.GetAsArray2D();
        for (int x = 0; x < 16; x++)
            for (int y = 0; y < 12; y++)
                Assert.Equal(cells[(x + 15) % 16, (y + 11) % 12], result[x, y]);
    }

    // Public, because ILGPU generates code around it.
    public unsafe struct Blocks
    {
        public fixed double Reals[2];
        public fixed int Numbers[3];
    }

    static unsafe void FillBlocks(Index1D i, ArrayView<Blocks> to)
    {
        to[i].Reals[1] = 1.5 * i.X;
        to[i].Numbers[2] = i;
        to[i].Numbers[i % 2] = -1;
    }

    [Fact]
    public unsafe void Fixed_buffers_inside_structures_are_written()
    {
        using var to = accelerator.Allocate1D<Blocks>(16);
        to.MemSetToZero();
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<Blocks>>(FillBlocks)(16, to.View);
        Blocks[] result = to.GetAsArray1D();
        for (int i = 0; i < 16; i++)
            Assert.Equal((0.0, 1.5 * i, i, -1, 0), (result[i].Reals[0], result[i].Reals[1], result[i].Numbers[2], result[i].Numbers[i % 2], result[i].Numbers[1 - (i % 2)]));
    }

    static void Wide(Index1D i, ArrayView<ulong> to, SpecializedValue<ulong> factor)
    {
        CudaAsm.Emit("mul.hi.u64 %0, %1, %2;", out ulong high, factor.Value, (ulong)i.X);
        CudaAsm.Emit("{ .reg .u32 t; mov.u32 t, %%laneid; cvt.u64.u32 %0, t; }", out ulong lane);
        to[2 * i] = high;
        to[(2 * i) + 1] = lane;
    }

    [Fact]
    public void Inline_PTX_is_executed()
    {
        using var to = accelerator.Allocate1D<ulong>(200);
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<ulong>, SpecializedValue<ulong>>(Wide)(100, to.View, SpecializedValue.New(ulong.MaxValue));
        Assert.Equal(Enumerable.Range(0, 200).Select(i => (ulong)(i % 2 == 0 ? Math.Max(i / 2 - 1, 0) : i / 2 % 32)), to.GetAsArray1D());
    }

    static void Pressure(ArrayView<int> to)
    {
        var table = LocalMemory.Allocate<int>(8);
        for (int i = 0; i < 8; i++)
            table[i] = i * Group.IdxX;
        var shared = SharedMemory.GetDynamic<int>();
        shared[Group.IdxX] = table[Group.IdxX % 8];
        Group.Barrier();
        to[Grid.GlobalIndex.X] = shared[Group.DimX - 1 - Group.IdxX];
    }

    [Fact]
    public void Local_and_dynamic_shared_memory_hold_what_was_stored()
    {
        using var to = accelerator.Allocate1D<int>(96);
        accelerator.LoadStreamKernel<ArrayView<int>>(Pressure)(new KernelConfig(2, 48, SharedMemoryConfig.RequestDynamic<int>(48)), to.View);
        Assert.Equal(Enumerable.Range(0, 96).Select(i => (47 - (i % 48)) % 8 * (47 - (i % 48))), to.GetAsArray1D());
    }
}
