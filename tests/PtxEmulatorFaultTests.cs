using ILGPU;
using ILGPU.Runtime;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>One planted bug per check of the emulator: each must be found, and named where it is.</summary>
public sealed class PtxEmulatorFaultTests : IDisposable
{
    readonly Context context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1));
    readonly PtxEmulatorAccelerator accelerator;

    public PtxEmulatorFaultTests() => accelerator = context.CreatePtxEmulator(new PtxEmulatorOptions { InstructionBudgetPerBlock = 100_000 });

    public void Dispose()
    {
        accelerator.Dispose();
        context.Dispose();
    }

    PtxEmulatorException Fails(Action<ArrayView<int>> kernel, int blocks, int threads, int length = 64)
    {
        using var data = accelerator.Allocate1D<int>(length);
        data.MemSetToZero();
        var launch = accelerator.LoadStreamKernel(kernel);
        return Assert.Throws<PtxEmulatorException>(() => launch(new KernelConfig(blocks, threads), data.View));
    }

    static void OneTooFar(ArrayView<int> data) => data[Grid.GlobalIndex.X + 1] = 7;

    [Fact]
    public void Out_of_bounds_store_names_kernel_line_block_thread_and_address()
    {
        var error = Fails(OneTooFar, 2, 32);
        Assert.Contains("out of bounds: 4 bytes at byte 256 of buffer", error.Message);
        Assert.Equal((1, 0, 0), error.Block);
        Assert.Equal((31, 0, 0), error.Thread);
        Assert.EndsWith(nameof(PtxEmulatorFaultTests) + "." + nameof(OneTooFar), error.Method);
        Assert.StartsWith("st.global.b32", error.Instruction);
        Assert.True(error.PtxLine > 0 && error.Address > 0);
        Assert.Contains(nameof(OneTooFar), error.Kernel);
    }

    static void ReadBefore(ArrayView<int> data) => data[0] = data[-1];

    [Fact]
    public void Negative_index_is_out_of_bounds() => Assert.Contains("out of bounds", Fails(ReadBefore, 1, 1).Message);

    [Fact]
    public void Freed_buffer_is_recognised()
    {
        // ILGPU itself refuses the view of a disposed buffer, so the kernel is handed the address that it had.
        var freed = accelerator.Allocate1D<int>(32);
        long address = freed.NativePtr;
        freed.Dispose();
        var program = PtxProgram.Parse(PtxText.Kernel("ld.param.u64 %rd0, [p]; ld.global.b32 %r0, [%rd0]; ret;"));
        var error = Assert.Throws<PtxEmulatorException>(() =>
            new Launch(program, accelerator.Memory, accelerator.Options) { Arguments = BitConverter.GetBytes(address) }.Run());
        Assert.Contains("used after it was freed", error.Message);
    }

    static void ReadUnwritten(ArrayView<int> data)
    {
        var shared = ILGPU.SharedMemory.Allocate<int>(32);
        if (Group.IdxX < 16)
            shared[Group.IdxX] = 1;
        Group.Barrier();
        data[Group.IdxX] = shared[Group.IdxX];
    }

    [Fact]
    public void Unwritten_shared_memory_is_not_read()
    {
        var error = Fails(ReadUnwritten, 1, 32);
        Assert.Contains("no thread of the block has written", error.Message);
        Assert.Equal(16, error.Thread.X);
    }

    static void DivergentInWarp(ArrayView<int> data)
    {
        if (Group.IdxX < 16)
            Group.Barrier();
        data[Group.IdxX] = 1;
    }

    [Fact]
    public void Barrier_in_a_branch_is_divergent() => Assert.Contains("divergent barrier", Fails(DivergentInWarp, 1, 32).Message);

    static void DivergentBetweenWarps(ArrayView<int> data)
    {
        if (Group.IdxX < 32)
            Group.Barrier();
        data[Group.IdxX] = 1;
    }

    [Fact]
    public void Barrier_that_other_warps_never_reach_is_divergent() =>
        Assert.Contains("divergent barrier", Fails(DivergentBetweenWarps, 1, 64).Message);

    static void ReadNeighbour(ArrayView<int> data)
    {
        var shared = ILGPU.SharedMemory.Allocate<int>(64);
        shared[Group.IdxX] = Group.IdxX;
        data[Group.IdxX] = shared[63 - Group.IdxX];
    }

    [Fact]
    public void Read_of_another_threads_write_without_barrier_is_a_race()
    {
        using var data = accelerator.Allocate1D<int>(64);
        var launch = accelerator.LoadStreamKernel<ArrayView<int>>(ReadNeighbour);
        var error = Assert.Throws<PtxEmulatorException>(() => launch(new KernelConfig(1, 64), data.View));
        // Of the two warps the first meets memory that is not written yet, which is the same mistake.
        Assert.Contains("no thread of the block has written", error.Message);
        Assert.Contains("race", Fails(ReadNeighbourInWarp, 1, 32).Message);
    }

    static void ReadNeighbourInWarp(ArrayView<int> data)
    {
        var shared = ILGPU.SharedMemory.Allocate<int>(32);
        shared[Group.IdxX] = Group.IdxX;
        data[Group.IdxX] = shared[31 - Group.IdxX];
    }

    static void OverwriteWhatOthersRead(ArrayView<int> data)
    {
        var shared = ILGPU.SharedMemory.Allocate<int>(64);
        shared[Group.IdxX] = Group.IdxX;
        Group.Barrier();
        data[Group.IdxX] = shared[Group.IdxX ^ 32];
        shared[Group.IdxX] = 5;
    }

    [Fact]
    public void Overwrite_of_what_another_warp_reads_is_a_race() => Assert.Contains("race", Fails(OverwriteWhatOthersRead, 1, 64).Message);

    static void WriteOneWord(ArrayView<int> data)
    {
        var shared = ILGPU.SharedMemory.Allocate<int>(1);
        shared[0] = Group.IdxX;
        Group.Barrier();
        data[Group.IdxX] = shared[0];
    }

    [Fact]
    public void Two_different_values_for_one_word_are_a_race()
    {
        Assert.Contains("race", Fails(WriteOneWord, 1, 32).Message);
        using var lenient = context.CreatePtxEmulator(new PtxEmulatorOptions { CheckSharedRaces = false });
        using var data = lenient.Allocate1D<int>(32);
        lenient.LoadStreamKernel<ArrayView<int>>(WriteOneWord)(new KernelConfig(1, 32), data.View);
        Assert.All(data.GetAsArray1D(), value => Assert.Equal(31, value));
    }

    static void WarpOrdered(ArrayView<int> data)
    {
        var shared = ILGPU.SharedMemory.Allocate<int>(32);
        shared[Group.IdxX] = Group.IdxX;
        ILGPU.Warp.Barrier();
        int sum = shared[0] + shared[31 - Group.IdxX];
        ILGPU.Warp.Barrier();
        shared[Group.IdxX] = sum;
        ILGPU.Warp.Barrier();
        data[Group.IdxX] = shared[31 - Group.IdxX];
    }

    [Fact]
    public void Warp_barriers_order_the_lanes_of_a_warp()
    {
        using var data = accelerator.Allocate1D<int>(32);
        accelerator.LoadStreamKernel<ArrayView<int>>(WarpOrdered)(new KernelConfig(1, 32), data.View);
        Assert.Equal(Enumerable.Range(0, 32), data.GetAsArray1D());
    }

    static void Endless(ArrayView<int> data)
    {
        while (data[0] == 0)
            MemoryFence.GroupLevel();
    }

    [Fact]
    public void Endless_loop_ends() => Assert.Contains("endless loop", Fails(Endless, 1, 1).Message);

    static void FailInSomeBlocks(ArrayView<int> data)
    {
        if (Grid.IdxX % 7 == 3)
            data[1_000_000] = 1;
    }

    [Fact]
    public void First_failing_block_is_reported_on_any_number_of_workers()
    {
        for (int i = 0; i < 20; i++)
            Assert.Equal(3, Fails(FailInSomeBlocks, 50, 32).Block.X);
    }

    [Fact]
    public void Misaligned_access_is_refused()
    {
        using var memory = new AllocationTable();
        var buffer = memory.Allocate(64);
        var program = PtxProgram.Parse(PtxText.Kernel("ld.param.u64 %rd0, [p]; ld.global.b32 %r0, [%rd0+2]; ret;"));
        var error = Assert.Throws<PtxEmulatorException>(() =>
            new Launch(program, memory, new PtxEmulatorOptions()) { Arguments = BitConverter.GetBytes(buffer.Start) }.Run());
        Assert.Contains("misaligned", error.Message);
        Assert.Equal(buffer.Start + 2, error.Address);
    }

    [Fact]
    public void Promised_uniform_branch_that_diverges_is_refused()
    {
        var error = PtxText.Fails("mov.b32 %r0, %tid.x; setp.lt.s32 %p0, %r0, 3; @%p0 bra.uni L; mov.b32 %r1, 1; L: ret;");
        Assert.Contains("bra.uni", error.Message);
    }

    [Fact]
    public void Shuffle_on_a_diverged_path_is_refused()
    {
        var error = PtxText.Fails("mov.b32 %r0, %tid.x; setp.lt.s32 %p0, %r0, 3; @%p0 bra L; shfl.sync.idx.b32 %r1, %r0, 0, 31, -1; L: ret;");
        Assert.Contains("on another path", error.Message);
    }

    [Fact]
    public void Missing_wait_for_an_async_copy_is_found()
    {
        const string copy = "ld.param.u64 %rd0, [p]; mov.b32 %r0, 0; cp.async.ca.shared.global [%r0], [%rd0], 4; cp.async.commit_group; ";
        Assert.Contains("cp.async", PtxText.Fails(copy + "ld.shared.b32 %r1, [%r0]; ret;", threads: 1, shared: 64).Message);
        uint[] arrived = PtxText.Run(copy + "cp.async.wait_group 0; ld.shared.b32 %r1, [%r0]; st.global.b32 [%rd0+4], %r1; ret;", 1, 64, 42);
        Assert.Equal(42u, arrived[1]);
    }

    [Fact]
    public void Async_copy_of_the_group_that_may_stay_does_not_arrive()
    {
        const string two = "ld.param.u64 %rd0, [p]; mov.b32 %r0, 0; cp.async.ca.shared.global [%r0], [%rd0], 4; cp.async.commit_group; "
            + "cp.async.ca.shared.global [%r0+4], [%rd0+4], 4; cp.async.commit_group; cp.async.wait_group 1; ";
        Assert.Equal(5u, PtxText.Run(two + "ld.shared.b32 %r1, [%r0]; st.global.b32 [%rd0+8], %r1; ret;", 1, 64, 5, 6)[2]);
        Assert.Contains("cp.async", PtxText.Fails(two + "ld.shared.b32 %r1, [%r0+4]; ret;", threads: 1, shared: 64).Message);
    }

    [Theory]
    [InlineData("frobnicate.b32 %r0, %r1;", "frobnicate")]
    [InlineData("add.sat.u32 %r0, %r1, %r2;", "add.sat.u32")]
    [InlineData("add.s32 %r0, %r1;", "operand 3 is missing")]
    [InlineData("add.s32 %rd0, %r1, %r2;", "64 bits, expected 32")]
    [InlineData("bra NOWHERE;", "NOWHERE")]
    [InlineData("ld.global.b32 %r0, [unknown];", "unknown")]
    public void Unknown_or_malformed_instruction_names_its_line(string instruction, string named)
    {
        var error = Assert.Throws<PtxSyntaxException>(() => PtxProgram.Parse(PtxText.Kernel("ret;\n" + instruction)));
        Assert.Contains(named, error.Message);
        Assert.Equal(PtxText.Kernel("ret;\n").Split('\n').ToList().FindIndex(line => line.StartsWith("ret", StringComparison.Ordinal)) + 2, error.Line);
    }

    [Fact]
    public void Context_that_optimises_at_O2_is_refused()
    {
        using var fast = Context.Create(builder => builder.Optimize(OptimizationLevel.O2));
        Assert.Contains("O2", Assert.Throws<ArgumentException>(() => fast.CreatePtxEmulator()).Message);
    }

    static void LoadThenStore(ArrayView<int> data)
    {
        int sum = 0;
        for (int i = 0; i < 4; i++)
        {
            int old = data[i];
            data[i] = 5;
            sum += old;
        }
        data[4] = sum;
    }

    [Fact]
    public void Stock_O2_moves_a_load_below_a_store_and_the_safe_pipeline_does_not()
    {
        int Run(OptimizationLevel level, bool stock)
        {
            using var local = Context.Create(builder => builder.Optimize(level));
            using var emulator = local.CreatePtxEmulator(new PtxEmulatorOptions { StockPipeline = stock });
            using var data = emulator.Allocate1D([1, 2, 3, 4, 0]);
            emulator.LoadStreamKernel<ArrayView<int>>(LoadThenStore)(new KernelConfig(1, 1), data.View);
            return data.GetAsArray1D()[4];
        }
        Assert.Equal(10, Run(OptimizationLevel.O1, stock: false));
        Assert.Equal(20, Run(OptimizationLevel.O2, stock: true));
    }
}
