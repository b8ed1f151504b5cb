namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// The `cp.async` copies of a warp that are under way. The source is read when the copy starts; the destination changes only when
/// the thread waits for the copy's group, so a missing wait is seen and not hidden by a fast machine.
/// </summary>
sealed unsafe class AsyncCopies
{
    sealed record Copy(int Lane, int Group, ulong Destination, byte[] Data);

    readonly List<Copy> pending = [];
    readonly int[] committed = new int[EmulatedWarp.Size];

    public void Clear()
    {
        pending.Clear();
        Array.Clear(committed);
    }

    public void Start(EmulatedWarp warp, int lane, ulong destination, byte[] data)
    {
        warp.Block.Shared.Pend(destination, data.Length, 1);
        pending.Add(new Copy(lane, committed[lane], destination, data));
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
        foreach (var copy in pending)
        {
            if (!Done(copy, lanes, left))
                continue;
            shared.Pend(copy.Destination, copy.Data.Length, -1);
            fixed (byte* data = copy.Data)
            {
                if (shared.Write(warp, copy.Lane, copy.Destination, copy.Data.Length, data) is { } problem)
                    throw PtxEmulatorException.At(warp, copy.Lane, problem, copy.Destination);
                Buffer.MemoryCopy(data, shared.Data + copy.Destination, copy.Data.Length, copy.Data.Length);
            }
        }
        pending.RemoveAll(copy => Done(copy, lanes, left));
    }

    bool Done(Copy copy, uint lanes, int left) => (lanes >> copy.Lane & 1) != 0 && copy.Group < committed[copy.Lane] - left;
}
