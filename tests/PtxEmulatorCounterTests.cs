using ILGPU;
using ILGPU.Runtime;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Counts that can be worked out by hand.</summary>
public sealed class PtxEmulatorCounterTests : IDisposable
{
    readonly Context context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1));
    readonly PtxEmulatorAccelerator accelerator;

    public PtxEmulatorCounterTests() => accelerator = context.CreatePtxEmulator();

    public void Dispose()
    {
        accelerator.Dispose();
        context.Dispose();
    }

    static void CopyStrided(ArrayView<float> from, ArrayView<float> to, int stride) =>
        to[Grid.GlobalIndex.X] = from[Grid.GlobalIndex.X * stride];

    [Theory]
    [InlineData(1, 4)]
    [InlineData(2, 8)]
    [InlineData(8, 32)]
    [InlineData(0, 1)]
    public void Strided_loads_touch_the_sectors_they_must(int stride, int sectorsPerWarp)
    {
        using var from = accelerator.Allocate1D<float>(128 * 8);
        using var to = accelerator.Allocate1D<float>(128);
        from.MemSetToZero();
        accelerator.LoadStreamKernel<ArrayView<float>, ArrayView<float>, int>(CopyStrided)(new KernelConfig(2, 64), from.View, to.View, stride);
        var counters = accelerator.LastLaunch!;
        Assert.Equal(4, counters.GlobalLoadRequests);
        Assert.Equal(4 * sectorsPerWarp, counters.GlobalLoadSectors);
        Assert.Equal(128 * 4, counters.GlobalLoadBytes);
        Assert.Equal(4 * 4, counters.GlobalStoreSectors);
        Assert.Contains("global loads: 512 bytes", counters.Report());
    }

    static void StoreShared(ArrayView<float> to, int stride)
    {
        var shared = ILGPU.SharedMemory.Allocate<float>(32 * 33);
        shared[Group.IdxX * stride] = Group.IdxX;
        to[Group.IdxX] = Group.IdxX;
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 2)]
    [InlineData(32, 32)]
    [InlineData(33, 1)]
    public void Shared_stores_take_a_wavefront_per_word_of_the_busiest_bank(int stride, int wavefronts)
    {
        using var to = accelerator.Allocate1D<float>(32);
        accelerator.LoadStreamKernel<ArrayView<float>, int>(StoreShared)(new KernelConfig(1, 32), to.View, stride);
        Assert.Equal(1, accelerator.LastLaunch!.SharedRequests);
        Assert.Equal(wavefronts, accelerator.LastLaunch.SharedWavefronts);
    }

    static void Diverge(ArrayView<int> to, int at)
    {
        int value = 1;
        if (Group.IdxX < at)
            value = to[Group.IdxX];
        to[Group.IdxX] = value + 1;
    }

    [Theory]
    [InlineData(0, 0)]
    [InlineData(32, 0)]
    [InlineData(16, 1)]
    [InlineData(48, 1)]
    public void Branch_diverges_in_the_warps_whose_lanes_disagree(int at, int divergent)
    {
        using var to = accelerator.Allocate1D<int>(64);
        to.MemSetToZero();
        accelerator.LoadStreamKernel<ArrayView<int>, int>(Diverge)(new KernelConfig(1, 64), to.View, at);
        Assert.Equal(divergent, accelerator.LastLaunch!.DivergentBranches);
        Assert.Equal(2, accelerator.LastLaunch.Branches);
        Assert.Equal(Enumerable.Range(0, 64).Select(t => t < at ? 1 : 2), to.GetAsArray1D());
    }

    [Fact]
    public void Counts_do_not_depend_on_the_number_of_workers()
    {
        string Run(int workers)
        {
            using var emulator = context.CreatePtxEmulator(new PtxEmulatorOptions { Workers = workers });
            using var from = emulator.Allocate1D<float>(4096);
            using var to = emulator.Allocate1D<float>(4096);
            from.MemSetToZero();
            emulator.LoadStreamKernel<ArrayView<float>, ArrayView<float>, int>(CopyStrided)(new KernelConfig(64, 64), from.View, to.View, 1);
            return emulator.LastLaunch!.Report();
        }
        Assert.Equal(Run(1), Run(5));
    }

    [Fact]
    public void Program_of_the_readme_runs()
    {
        using var data = accelerator.Allocate1D(new float[] { 1, 2, 3 });
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<float>>((i, x) => x[i] *= 2)((int)data.Length, data.View);
        Assert.Equal(new float[] { 2, 4, 6 }, data.GetAsArray1D());
        Assert.Contains("1 global loads: 12 bytes in 1 sectors", accelerator.LastLaunch!.Report());
    }
}
