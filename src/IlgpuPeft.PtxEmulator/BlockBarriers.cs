namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// The 16 barriers of a block. One is complete when as many warps have arrived as it expects; those that wait for it go on. A barrier
/// of the whole block orders all memory accesses before and after it; one of a part of the block orders those of the warps that
/// arrived before those of the warps that waited.
/// </summary>
sealed class BlockBarriers(Block block)
{
    const int Count = 16;

    readonly record struct Arrival(EmulatedWarp Warp, Barrier Barrier, int Time, int[]? Seen);

    readonly List<Arrival>[] arrivals = [.. Enumerable.Range(0, Count).Select(_ => new List<Arrival>())];
    readonly int[] expected = new int[Count];

    /// <summary>Forgets everything, for the next block.</summary>
    public void Start()
    {
        foreach (var list in arrivals)
            list.Clear();
    }

    /// <summary>A warp reaches a barrier; it waits there unless the barrier is complete, or it only arrives.</summary>
    public void Arrive(EmulatedWarp warp, Barrier barrier)
    {
        var (id, threads) = barrier.Which(warp);
        if (id >= Count)
            throw warp.Fault($"barrier {id} does not exist, there are {Count}");
        if (threads % EmulatedWarp.Size != 0 || threads > block.WarpCount * EmulatedWarp.Size || (threads == 0 && barrier.Arrives))
            throw warp.Fault($"barrier {id} of {threads} threads: expected a multiple of {EmulatedWarp.Size} up to the block's {block.ThreadCount}");
        int warps = threads == 0 ? block.WarpCount : (int)threads / EmulatedWarp.Size;
        var here = arrivals[id];
        if (here.Count == 0)
            expected[id] = warps;
        else if (expected[id] != warps || !here[0].Barrier.Matches(barrier))
            throw warp.Fault($"divergent barrier: other warps use barrier {id} for another number of threads or in another way");
        here.Add(new Arrival(warp, barrier, warp.Time, warp.Seen == null ? null : [.. warp.Seen]));
        if (barrier.Arrives)
            warp.Time++;
        else
            warp.Wait();
        if (here.Count == warps)
            Complete(here);
    }

    /// <summary>Why no warp of the block can go on.</summary>
    public PtxEmulatorException Stuck()
    {
        var waiting = Enumerable.Range(0, Count).Where(id => arrivals[id].Exists(arrival => !arrival.Barrier.Arrives)).ToArray();
        var here = arrivals[waiting[^1]];
        var warp = here.First(arrival => !arrival.Barrier.Arrives).Warp;
        if (waiting.Length > 1)
            return warp.Fault($"divergent barrier: this warp waits at barrier {waiting[^1]}, others at barrier {waiting[0]}");
        if (Array.Exists(block.Warps, other => other.State == WarpState.Finished))
            return warp.Fault("divergent barrier: other warps of the block have returned and will never reach it");
        return warp.Fault($"barrier {waiting[0]} waits for {expected[waiting[0]]} warps, and {here.Count} arrive");
    }

    void Complete(List<Arrival> here)
    {
        bool whole = here.Count == block.WarpCount && !here.Exists(arrival => arrival.Barrier.Arrives);
        int votes = here.Sum(arrival => arrival.Barrier.Votes(arrival.Warp));
        int threads = here.Sum(arrival => System.Numerics.BitOperations.PopCount(arrival.Warp.AllLanes));
        block.Counters.Barriers++;
        foreach (var arrival in here)
        {
            var warp = arrival.Warp;
            if (arrival.Barrier.Arrives)
                continue;
            arrival.Barrier.Complete(warp, votes, threads);
            warp.Seen = whole ? null : Merge(warp.Seen, here);
            warp.Time++;
            warp.Resume();
        }
        if (whole)
            block.BeginEpoch();
        here.Clear();
    }

    /// <summary>What a warp that waited knows of every warp's accesses: all before its arrival, and what it knew then.</summary>
    int[] Merge(int[]? seen, List<Arrival> here)
    {
        seen ??= new int[block.WarpCount];
        foreach (var arrival in here)
        {
            seen[arrival.Warp.Index] = Math.Max(seen[arrival.Warp.Index], arrival.Time + 1);
            for (int i = 0; i < seen.Length && arrival.Seen != null; i++)
                seen[i] = Math.Max(seen[i], arrival.Seen[i]);
        }
        return seen;
    }
}
