using System.Runtime.InteropServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// The `cp.async` copies of a warp that are under way. The source is read when the copy starts; the destination changes only when
/// the thread waits for the copy's group, so a missing wait is seen and not hidden by a fast machine.
/// </summary>
sealed unsafe class AsyncCopies
{
    /// <summary>One lane's copy of up to 16 bytes.</summary>
    readonly record struct Copy(int Lane, int Group, ulong Destination, int Size, UInt128 Data);

    readonly List<Copy> pending = [];
    readonly int[] committed = new int[EmulatedWarp.Size];

    public void Clear()
    {
        pending.Clear();
        Array.Clear(committed);
    }

    /// <summary>Begins a copy of <paramref name="size"/> bytes: the source's, and zeros behind them.</summary>
    public void Start(EmulatedWarp warp, int lane, ulong destination, int size, ReadOnlySpan<byte> source)
    {
        UInt128 data = 0;
        source.CopyTo(new Span<byte>(&data, sizeof(UInt128)));
        var shared = warp.Block.Shared;
        if (shared.CopyRace(warp, lane, destination, size, &data) is { } problem)
            throw PtxEmulatorException.At(warp, lane, problem, destination);
        shared.Pend(destination, size, 1);
        pending.Add(new Copy(lane, committed[lane], destination, size, data));
    }

    /// <summary>Closes the group that the lanes have been filling.</summary>
    public void Commit(uint lanes)
    {
        for (int lane = 0; lane < EmulatedWarp.Size; lane++)
            if ((lanes >> lane & 1) != 0)
                committed[lane]++;
    }

    /// <summary>Delivers all but the last <paramref name="left"/> groups of the lanes.</summary>
    public void Wait(EmulatedWarp warp, uint lanes, int left)
    {
        var shared = warp.Block.Shared;
        int kept = 0;
        foreach (var copy in CollectionsMarshal.AsSpan(pending))
        {
            bool done = (lanes >> copy.Lane & 1) != 0 && copy.Group < committed[copy.Lane] - left;
            if (!done)
            {
                pending[kept++] = copy;
                continue;
            }
            shared.Pend(copy.Destination, copy.Size, -1);
            var data = copy.Data;
            if (shared.Write(warp, copy.Lane, copy.Destination, copy.Size, &data) is { } problem)
                throw PtxEmulatorException.At(warp, copy.Lane, problem, copy.Destination);
            Buffer.MemoryCopy(&data, shared.Data + copy.Destination, copy.Size, copy.Size);
        }
        CollectionsMarshal.SetCount(pending, kept);
    }
}
