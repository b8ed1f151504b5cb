namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// One thread block. Its warps take turns: each runs until it waits at a barrier, ends, or has used up its turn (so that a warp
/// that spins on a value lets the others produce it).
/// </summary>
sealed class Block : IDisposable
{
    const long Turn = 50_000;

    readonly EmulatedWarp[] warps;

    public Block(Launch launch, Counters counters)
    {
        Launch = launch;
        Counters = counters;
        ThreadCount = launch.BlockDim.X * launch.BlockDim.Y * launch.BlockDim.Z;
        WarpCount = (ThreadCount + EmulatedWarp.Size - 1) / EmulatedWarp.Size;
        Shared = new BlockMemory(launch.Program.SharedBytes, launch.DynamicSharedBytes);
        warps = new EmulatedWarp[WarpCount];
        for (int i = 0; i < WarpCount; i++)
            warps[i] = new EmulatedWarp(this, i);
    }

    public Launch Launch { get; }

    public Counters Counters { get; }

    public BlockMemory Shared { get; }

    public int ThreadCount { get; }

    public int WarpCount { get; }

    /// <summary>Position in the grid.</summary>
    public (int X, int Y, int Z) Index { get; private set; }

    /// <summary>Number of barriers that all warps have passed.</summary>
    public int Epoch { get; private set; }

    public void Run((int X, int Y, int Z) index)
    {
        Index = index;
        Epoch = 0;
        Shared.Start();
        foreach (var warp in warps)
            warp.Start();
        long budget = Launch.Options.InstructionBudgetPerBlock;
        while (true)
        {
            int waiting = 0, finished = 0;
            foreach (var warp in warps)
            {
                if (warp.State == WarpState.Ready)
                    budget -= warp.Run(Math.Min(Turn, budget));
                waiting += warp.State == WarpState.AtBarrier ? 1 : 0;
                finished += warp.State == WarpState.Finished ? 1 : 0;
                if (budget <= 0 && warp.State == WarpState.Ready)
                    throw warp.Fault($"the block has run {Launch.Options.InstructionBudgetPerBlock} instructions without an end; an endless loop?");
            }
            if (finished == WarpCount)
                return;
            if (waiting + finished == WarpCount)
                Release(finished);
        }
    }

    public void Dispose()
    {
        foreach (var warp in warps)
            warp.Dispose();
        Shared.Dispose();
    }

    void Release(int finished)
    {
        var first = Array.Find(warps, warp => warp.State == WarpState.AtBarrier)!;
        if (finished > 0)
            throw first.Fault("divergent barrier: other warps of the block have returned and will never reach it");
        foreach (var warp in warps)
            if (!first.Waiting!.Matches(warp.Waiting!))
                throw warp.Fault($"divergent barrier: this warp waits at barrier {warp.Waiting!.Id}, others at barrier {first.Waiting.Id}");
        int count = warps.Sum(warp => warp.Waiting!.Votes(warp));
        foreach (var warp in warps)
            warp.Waiting!.Complete(warp, count, ThreadCount);
        Counters.Barriers++;
        Epoch++;
        foreach (var warp in warps)
        {
            warp.Time++;
            warp.Resume();
        }
    }
}
