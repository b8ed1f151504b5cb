using System.Diagnostics;
using ILGPU;
using ILGPU.Backends;
using ILGPU.Runtime;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What ILGPU's samples do around kernels: printing, assertions, streams, page-locked memory, markers, compiling by hand.</summary>
public sealed class PtxEmulatorHostTests : IDisposable
{
    readonly Context context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1).IOOperations().Assertions().Profiling());
    readonly StringWriter output = new();
    readonly PtxEmulatorAccelerator accelerator;

    public PtxEmulatorHostTests() => accelerator = context.CreatePtxEmulator(new PtxEmulatorOptions { Output = output });

    public void Dispose()
    {
        accelerator.Dispose();
        context.Dispose();
        output.Dispose();
    }

    static void Print(Index1D i, ArrayView<long> data) => Interop.WriteLine("{0}: {1} and {2}", i.X, data[i], 0.5f * i.X);

    [Fact]
    public void Kernels_print_in_the_order_of_their_threads()
    {
        using var data = accelerator.Allocate1D([5_000_000_000L, -6, 7]);
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<long>>(Print)(3, data.View);
        Assert.Equal(["0: 5000000000 and 0.000000", "1: -6 and 0.500000", "2: 7 and 1.000000"], output.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries));
    }

    static void AssertPositive(Index1D i, ArrayView<int> data)
    {
        Trace.Assert(data[i] > 0, "only positive numbers");
        data[i]++;
    }

    [Fact]
    public void Failed_assertion_ends_the_launch_with_its_text_and_thread()
    {
        using var data = accelerator.Allocate1D([1, 2, -3, 4]);
        var error = Assert.Throws<PtxEmulatorException>(() => accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<int>>(AssertPositive)(4, data.View));
        Assert.Contains("assertion failed: only positive numbers", error.Message);
        Assert.Equal((2, 0, 0), error.Thread);
        Assert.Contains(nameof(AssertPositive), error.Method);
    }

    static void Beyond(Index1D i, ArrayView<int> data) => data[i + 1] = 1;

    [Fact]
    public void Assertions_of_ILGPU_about_indices_are_checked()
    {
        using var data = accelerator.Allocate1D<int>(64);
        // The view ends within the buffer: no access leaves memory, only the view.
        var error = Assert.Throws<PtxEmulatorException>(() =>
            accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<int>>(Beyond)(8, data.View.SubView(0, 8)));
        Assert.Contains("assertion failed: Index out of range", error.Message);
        Assert.Equal(7, error.Thread.X);
    }

    static void AddOne(Index1D i, ArrayView<int> data) => data[i] += 1;

    [Fact]
    public void Page_locked_arrays_are_copied_on_streams()
    {
        using var stream = accelerator.CreateStream();
        using var locked = accelerator.AllocatePageLocked1D<int>(512);
        for (int i = 0; i < 512; i++)
            locked[i] = i;
        using var data = accelerator.Allocate1D<int>(512);
        data.View.CopyFrom(stream, locked.ArrayView);
        accelerator.LoadAutoGroupedKernel<Index1D, ArrayView<int>>(AddOne)(stream, 512, data.View);
        data.View.CopyTo(stream, locked.ArrayView);
        stream.Synchronize();
        Assert.Equal(Enumerable.Range(1, 512), locked.GetArray());
        int[] pinned = GC.AllocateArray<int>(512, pinned: true);
        using var scope = accelerator.CreatePageLockFromPinned(pinned);
        data.View.CopyToPageLockedAsync(stream, scope);
        Assert.Equal(Enumerable.Range(1, 512), pinned);
    }

    [Fact]
    public void Profiling_markers_measure_forward_in_time()
    {
        using var stream = accelerator.CreateStream();
        using var data = accelerator.Allocate1D<int>(512);
        data.MemSetToZero();
        using var start = stream.AddProfilingMarker();
        accelerator.LoadAutoGroupedKernel<Index1D, ArrayView<int>>(AddOne)(stream, 512, data.View);
        using var end = stream.AddProfilingMarker();
        Assert.True(end - start > TimeSpan.Zero);
        Assert.True(start.MeasureFrom(end) < TimeSpan.Zero);
    }

    static void Grouped(ArrayView<int> data, int constant)
    {
        int i = Grid.GlobalIndex.X;
        if (i < data.Length)
            data[i] = i + constant;
    }

    [Fact]
    public void Kernels_compiled_by_hand_are_launched_by_delegate()
    {
        var method = typeof(PtxEmulatorHostTests).GetMethod(nameof(Grouped), System.Reflection.BindingFlags.NonPublic | System.Reflection.BindingFlags.Static)!;
        var compiled = accelerator.GetBackend().Compile(ILGPU.Backends.EntryPoints.EntryPointDescription.FromExplicitlyGroupedKernel(method), default);
        using var kernel = accelerator.LoadKernel(compiled);
        using var data = accelerator.Allocate1D<int>(1000);
        kernel.CreateLauncherDelegate<Action<AcceleratorStream, KernelConfig, ArrayView<int>, int>>()(
            accelerator.DefaultStream, new KernelConfig(8, 128), data.View, 42);
        Assert.Equal(Enumerable.Range(42, 1000), data.GetAsArray1D());
        Assert.Contains(".entry", ((EmulatedKernel)kernel).Ptx);
    }

    [Fact]
    public void Views_are_sliced_cast_and_copied()
    {
        using var data = accelerator.Allocate1D<int>([.. Enumerable.Range(0, 64)]);
        var add = accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<int>>(AddOne);
        add(16, data.View.SubView(16, 16));
        data.View.SubView(0, 8).CopyTo(data.View.SubView(32, 8));
        using var copy = accelerator.Allocate1D<int>(64);
        data.View.CopyTo(copy.View);
        Assert.Equal(Enumerable.Range(0, 64).Select(i => i is >= 16 and < 32 ? i + 1 : i is >= 32 and < 40 ? i - 32 : i), copy.GetAsArray1D());
        Assert.Equal(256, data.View.Cast<int, byte>().Length);
    }

    [Fact]
    public void Device_describes_itself_as_a_GPU()
    {
        Assert.Equal(AcceleratorType.Cuda, accelerator.AcceleratorType);
        Assert.Equal(32, accelerator.WarpSize);
        Assert.Equal(1024, accelerator.MaxNumThreadsPerGroup);
        using var text = new StringWriter();
        accelerator.PrintInformation(text);
        Assert.Contains("PTX emulator", text.ToString());
    }
}
