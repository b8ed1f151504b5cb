using ILGPU;
using ILGPU.Runtime;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Which accesses to shared memory race, and which do not.</summary>
public sealed class PtxEmulatorRaceTests : IDisposable
{
    readonly Context context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1));
    readonly PtxEmulatorAccelerator accelerator;

    public PtxEmulatorRaceTests() => accelerator = context.CreatePtxEmulator();

    public void Dispose()
    {
        accelerator.Dispose();
        context.Dispose();
    }

    int[] Run(Action<ArrayView<int>> kernel, int threads)
    {
        using var data = accelerator.Allocate1D<int>(threads);
        accelerator.LoadStreamKernel(kernel)(new KernelConfig(1, threads), data.View);
        return data.GetAsArray1D();
    }

    void Races(Action<ArrayView<int>> kernel, int threads, string how)
    {
        string message = Assert.Throws<PtxEmulatorException>(() => Run(kernel, threads)).Message;
        Assert.True(message.Contains("shared memory race: " + how, StringComparison.Ordinal), message);
    }

    static void OverwriteWhatOthersRead(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<int>(64);
        shared[Group.IdxX] = Group.IdxX;
        Group.Barrier();
        data[Group.IdxX] = shared[Group.IdxX ^ 32];
        shared[Group.IdxX] = 5;
    }

    [Fact]
    public void Overwrite_of_what_another_warp_reads() => Races(OverwriteWhatOthersRead, 64, "reads what thread 32 wrote");

    static void WriteOneWord(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<int>(1);
        shared[0] = Group.IdxX;
        Group.Barrier();
        data[Group.IdxX] = shared[0];
    }

    [Fact]
    public void Two_different_values_for_one_word()
    {
        Races(WriteOneWord, 32, "overwrites what thread 0 wrote");
        using var lenient = context.CreatePtxEmulator(new PtxEmulatorOptions { CheckSharedRaces = false });
        using var data = lenient.Allocate1D<int>(32);
        lenient.LoadStreamKernel<ArrayView<int>>(WriteOneWord)(new KernelConfig(1, 32), data.View);
        Assert.All(data.GetAsArray1D(), value => Assert.Equal(31, value));
    }

    static void WriteOneValue(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<int>(1);
        shared[0] = 7;
        Group.Barrier();
        data[Group.IdxX] = shared[0];
    }

    [Fact]
    public void One_value_from_many_threads_is_no_race() => Assert.All(Run(WriteOneValue, 64), value => Assert.Equal(7, value));

    static void WarpOrdered(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<int>(32);
        shared[Group.IdxX] = Group.IdxX;
        Warp.Barrier();
        int sum = shared[0] + shared[31 - Group.IdxX];
        Warp.Barrier();
        shared[Group.IdxX] = sum;
        Warp.Barrier();
        data[Group.IdxX] = shared[31 - Group.IdxX];
    }

    [Fact]
    public void Warp_barriers_order_the_lanes_of_a_warp() => Assert.Equal(Enumerable.Range(0, 32), Run(WarpOrdered, 32));

    static void OwnAtomic(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<int>(64);
        shared[Group.IdxX] = 1;
        Atomic.Add(ref shared[Group.IdxX], 2);
        data[Group.IdxX] = shared[Group.IdxX];
    }

    [Fact]
    public void Access_of_a_thread_around_its_own_atomic_is_no_race() => Assert.All(Run(OwnAtomic, 64), value => Assert.Equal(3, value));

    static void CountTogether(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<int>(1);
        if (Group.IsFirstThread)
            shared[0] = 0;
        Group.Barrier();
        Atomic.Add(ref shared[0], 1);
        Group.Barrier();
        data[Group.IdxX] = shared[0];
    }

    [Fact]
    public void Atomics_do_not_race_with_each_other() => Assert.All(Run(CountTogether, 96), value => Assert.Equal(96, value));

    static void ReadWhileCounting(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<int>(1);
        if (Group.IsFirstThread)
            shared[0] = 0;
        Group.Barrier();
        Atomic.Add(ref shared[0], 1);
        data[Group.IdxX] = shared[0];
    }

    [Fact]
    public void Read_among_the_atomics_of_others() => Races(ReadWhileCounting, 32, "reads what other threads wrote");

    [Theory]
    [InlineData(1, "overwrites what thread 32 read, without a barrier between")] // the last to reach a barrier goes on first
    [InlineData(0, "reads shared memory that cp.async has not delivered yet")]
    public void Copy_that_starts_while_another_warp_reads(int reader, string problem) => Assert.Contains(problem, CopyBesideAccess(reader, "ld.shared.b32 %r3, [%r1];").Message);

    [Fact]
    public void Copy_that_starts_while_another_warp_writes() =>
        Assert.Contains("overwrites what thread 32 wrote, without a barrier between", CopyBesideAccess(1, "st.shared.b32 [%r1], 2;").Message);

    [Fact]
    public void Copy_after_a_barrier_is_no_race() => Assert.Equal(Enumerable.Repeat(7u, 32), PtxText.Run(Copying(1, "ld.shared.b32 %r3, [%r1]; bar.sync 0;", "bar.sync 0;"), 64, 128, Sevens)[..32]);

    [Fact]
    public void Copy_of_what_is_there_already_is_no_race() => PtxText.Run(Copying(1, "ld.shared.b32 %r3, [%r1];", ""), 64, 128, [.. Enumerable.Repeat(1u, 32)]);

    static uint[] Sevens => [.. Enumerable.Repeat(7u, 32)];

    static PtxEmulatorException CopyBesideAccess(int warp, string access) => Assert.Throws<PtxEmulatorException>(() => PtxText.Run(Copying(warp, access, ""), 64, 128, Sevens));

    /// <summary>The first warp fills 32 words with ones; behind a barrier the given one accesses them, the other replaces them by a copy; behind another barrier all of it has arrived.</summary>
    static string Copying(int warp, string access, string beforeCopy) => $"""
        ld.param.b64 %rd0, [p]; mov.u32 %r0, %tid.x; and.b32 %r2, %r0, 31; shl.b32 %r2, %r2, 2; mov.u32 %r1, tile; add.u32 %r1, %r1, %r2; cvt.u64.u32 %rd1, %r2; add.u64 %rd1, %rd0, %rd1;
        setp.ge.u32 %p0, %r0, 32; @%p0 bra filled; st.shared.b32 [%r1], 1;
        filled: bar.sync 0; setp.lt.u32 %p1, %r0, 32; @{(warp == 0 ? "!" : "")}%p1 bra copy; {access} bra done;
        copy: {beforeCopy} cp.async.ca.shared.global [%r1], [%rd1], 4; cp.async.commit_group;
        done: bar.sync 0; cp.async.wait_group 0; bar.sync 0; ld.shared.b32 %r3, [%r1]; st.global.b32 [%rd1], %r3; ret;
        """;

    static void BytesOfOneWord(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<byte>(64);
        shared[Group.IdxX] = (byte)Group.IdxX;
        data[Group.IdxX] = shared[Group.IdxX];
    }

    [Fact]
    public void Bytes_of_one_word_from_many_threads_are_no_race() => Assert.Equal(Enumerable.Range(0, 64), Run(BytesOfOneWord, 64));

    static void NeighboursByte(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<byte>(64);
        shared[Group.IdxX] = (byte)Group.IdxX;
        // All of the warp have written: of each word, byte 3 last.
        data[Group.IdxX] = shared[Group.IdxX ^ 1];
    }

    [Fact]
    public void Read_of_another_threads_byte() => Races(NeighboursByte, 32, "reads what thread 1 wrote");

    static void ByteUnderReadWord(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<int>(8);
        if (Group.IdxX < 8)
            shared[Group.IdxX] = 0x01010101;
        Group.Barrier();
        data[Group.IdxX] = shared[Group.IdxX / 4];
        shared.Cast<byte>()[Group.IdxX] = 9;
    }

    [Fact]
    public void Overwrite_of_one_byte_of_a_word_that_others_read() => Races(ByteUnderReadWord, 32, "overwrites what");

    static void HalvesThenWord(ArrayView<int> data)
    {
        var shared = SharedMemory.Allocate<short>(64);
        shared[Group.IdxX] = (short)Group.IdxX;
        if (Group.IdxX % 2 == 0)
            data[Group.IdxX] = shared.Cast<int>()[Group.IdxX / 2];
    }

    [Fact]
    public void Read_of_a_word_of_which_another_thread_wrote_half() => Races(HalvesThenWord, 32, "reads what thread 1 wrote");
}
