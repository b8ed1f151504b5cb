using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>One planted mistake per check of the emulator, in C#: each must be found, and named where it is.</summary>
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

    /// <summary>Runs a kernel that makes a mistake, and checks that the message says what, in which kernel, line, block and thread.</summary>
    PtxEmulatorException Fails(
        Action<ArrayView<int>, long> kernel, int blocks, int threads, string problem, string instruction, int block, int thread, long argument = 0, bool hasAddress = true)
    {
        using var data = accelerator.Allocate1D<int>(64);
        data.MemSetToZero();
        var launch = accelerator.LoadStreamKernel(kernel);
        var error = Assert.Throws<PtxEmulatorException>(() => launch(new KernelConfig(blocks, threads), data.View, argument));
        Assert.Contains(problem, error.Message);
        string method = typeof(PtxEmulatorFaultTests).FullName + "." + kernel.Method.Name;
        Assert.Equal(method, error.Method);
        Assert.Equal("Kernel_" + kernel.Method.Name, error.Kernel);
        Assert.StartsWith(instruction, error.Instruction);
        Assert.True(error.PtxLine > 0);
        Assert.Equal((block, 0, 0), error.Block);
        Assert.Equal((thread, 0, 0), error.Thread);
        Assert.Equal(hasAddress, error.Address != null);
        string place = $"PTX line {error.PtxLine} `{error.Instruction}`, block ({block}, 0, 0), thread ({thread}, 0, 0)" + (hasAddress ? $", address 0x{error.Address:x}." : ".");
        Assert.StartsWith($"Kernel_{kernel.Method.Name} ({method}): ", error.Message);
        Assert.EndsWith(place, error.Message);
        return error;
    }

    static void OneTooFar(ArrayView<int> data, long unused) => data[Grid.GlobalIndex.X + 1] = 7;

    [Fact]
    public void Store_behind_a_buffer() => Fails(OneTooFar, 2, 32, "out of bounds: 4 bytes at byte 256 of buffer", "st.global.b32", block: 1, thread: 31);

    static void ReadBefore(ArrayView<int> data, long unused) => data[0] = data[-1];

    [Fact]
    public void Load_before_a_buffer() => Fails(ReadBefore, 1, 1, "out of bounds", "ld.global.b32", block: 0, thread: 0);

    static void ReadAddress(ArrayView<int> data, long address)
    {
        CudaAsm.Emit("ld.global.b32 %0, [%1];", out int value, address);
        data[Group.IdxX] = value;
    }

    [Fact]
    public void Load_from_a_buffer_that_was_freed_names_the_buffer()
    {
        var freed = accelerator.Allocate1D<int>(33);
        long address = freed.NativePtr;
        freed.Dispose();
        var error = Fails(ReadAddress, 1, 32, "of 132 bytes is used after it was freed", "ld.global.b32", block: 0, thread: 0, address);
        Assert.Equal((ulong)address, error.Address);
    }

    [Fact]
    public void Load_from_nowhere() => Fails(ReadAddress, 1, 2, "out of bounds: 4 bytes at a null address", "ld.global.b32", block: 0, thread: 0, argument: 16);

    [Fact]
    public void Load_from_an_odd_address()
    {
        using var buffer = accelerator.Allocate1D<int>(32);
        Fails(ReadAddress, 1, 32, "misaligned: 4 bytes need an address that 4 divides", "ld.global.b32", block: 0, thread: 0, argument: buffer.NativePtr + 2);
    }

    static void BeyondShared(ArrayView<int> data, long far)
    {
        var shared = SharedMemory.Allocate<int>(32);
        shared[Group.IdxX + (int)far] = 1;
        Group.Barrier();
        data[Group.IdxX] = shared[Group.IdxX];
    }

    [Fact]
    public void Store_behind_shared_memory() =>
        Fails(BeyondShared, 2, 32, "out of bounds: 4 bytes at byte 128 of 128 bytes of shared memory", "st.shared.b32", block: 0, thread: 27, argument: 5);

    static void BeyondLocal(ArrayView<int> data, long far)
    {
        var table = LocalMemory.Allocate<int>(4);
        for (int i = 0; i < 4; i++)
            table[i] = i;
        data[Group.IdxX] = table[(int)far + Group.IdxX];
    }

    [Fact]
    public void Load_behind_local_memory() => Fails(BeyondLocal, 1, 8, "bytes of local memory", "ld.local.b32", block: 0, thread: 3, argument: 1);

    static void ReadUnwritten(ArrayView<int> data, long unused)
    {
        var shared = SharedMemory.Allocate<int>(32);
        if (Group.IdxX < 16)
            shared[Group.IdxX] = 1;
        Group.Barrier();
        data[Group.IdxX] = shared[Group.IdxX];
    }

    [Fact]
    public void Load_of_shared_memory_that_nobody_wrote() => Fails(ReadUnwritten, 1, 32, "no thread of the block has written", "ld.shared.b32", block: 0, thread: 16);

    static void DivergentInWarp(ArrayView<int> data, long unused)
    {
        if (Group.IdxX < 16)
            Group.Barrier();
        data[Group.IdxX] = 1;
    }

    [Fact]
    public void Barrier_that_half_a_warp_reaches() => Fails(
        DivergentInWarp, 1, 32, "divergent barrier: lane 16 does not reach the barrier", "bar.sync", block: 0, thread: 0, hasAddress: false);

    static void DivergentBetweenWarps(ArrayView<int> data, long unused)
    {
        if (Group.IdxX >= 32)
            Group.Barrier();
        data[Group.IdxX] = 1;
    }

    [Fact]
    public void Barrier_that_other_warps_never_reach() => Fails(
        DivergentBetweenWarps, 1, 64, "divergent barrier: other warps of the block have returned", "bar.sync", block: 0, thread: 32, hasAddress: false);

    static void ReadNeighbour(ArrayView<int> data, long unused)
    {
        var shared = SharedMemory.Allocate<int>(32);
        shared[Group.IdxX] = Group.IdxX;
        data[Group.IdxX] = shared[31 - Group.IdxX];
    }

    [Fact]
    public void Race_on_shared_memory() => Fails(
        ReadNeighbour, 3, 32, "shared memory race: reads what thread 31 wrote, without a barrier between", "ld.shared.b32", block: 0, thread: 0);

    static void ForgetToWait(ArrayView<int> data, long unused)
    {
        var shared = SharedMemory.Allocate<int>(32);
        CudaAsm.Emit("cp.async.ca.shared.global [%0], [%1], 4;", 4 * Group.IdxX, unused);
        CudaAsm.Emit("cp.async.commit_group;");
        Group.Barrier();
        data[Group.IdxX] = shared[Group.IdxX];
    }

    [Fact]
    public void Load_of_a_copy_that_nobody_waited_for()
    {
        using var source = accelerator.Allocate1D<int>(1);
        Fails(ForgetToWait, 1, 32, "cp.async has not delivered yet", "ld.shared.b32", block: 0, thread: 0, argument: source.NativePtr);
    }

    static void Endless(ArrayView<int> data, long unused)
    {
        while (data[Grid.IdxX] == 0)
            MemoryFence.GroupLevel();
    }

    [Fact]
    public void Loop_without_an_end() => Fails(Endless, 2, 1, "the block has run 100000 instructions without an end", "", block: 0, thread: 0, hasAddress: false);

    static void ShuffleInBranch(ArrayView<int> data, long unused)
    {
        if (Group.IdxX < 5)
            data[Group.IdxX] = Warp.Shuffle(Group.IdxX, 0);
    }

    [Fact]
    public void Shuffle_that_not_all_named_lanes_reach() => Fails(
        ShuffleInBranch, 1, 32, "lane 5 is named by the member mask but is on another path", "shfl.sync.idx", block: 0, thread: 0, hasAddress: false);

    static void FailInSomeBlocks(ArrayView<int> data, long unused)
    {
        if (Grid.IdxX % 7 == 3)
            data[1_000_000] = 1;
    }

    [Fact]
    public void First_failing_block_is_reported_on_any_number_of_workers()
    {
        for (int i = 0; i < 20; i++)
            Fails(FailInSomeBlocks, 50, 32, "out of bounds", "st.global.b32", block: 3, thread: 0);
    }

    [Fact]
    public void Promised_uniform_branch_that_diverges() => Assert.Contains(
        "bra.uni", PtxText.Fails("mov.b32 %r0, %tid.x; setp.lt.s32 %p0, %r0, 3; @%p0 bra.uni L; mov.b32 %r1, 1; L: ret;").Message);

    static void Nothing(ArrayView<int> data, long unused)
    {
    }

    [Fact]
    public void Launches_that_no_device_takes_name_the_kernel()
    {
        using var data = accelerator.Allocate1D<int>(1);
        var launch = accelerator.LoadStreamKernel<ArrayView<int>, long>(Nothing);
        PtxEmulatorException Fails(KernelConfig config) => Assert.Throws<PtxEmulatorException>(() => launch(config, data.View, 0));
        Assert.Contains("block size (2048, 1, 1)", Fails(new KernelConfig(1, 2048)).Message);
        Assert.Contains("have more than 1024 threads", Fails(new KernelConfig(new Index3D(1, 1, 1), new Index3D(32, 32, 2))).Message);
        var shared = Fails(new KernelConfig(1, 32, SharedMemoryConfig.RequestDynamic<int>(50_000)));
        Assert.Contains("asks for 200000 bytes of shared memory", shared.Message);
        Assert.Contains(nameof(PtxEmulatorFaultTests) + "." + nameof(Nothing), shared.Message);
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
}
