namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// One thread block. Its warps take turns: each runs until it waits at a barrier, ends, or has used up its turn (so that a warp
/// that spins on a value lets the others produce it).
/// </summary>
sealed class Block : IDisposable
{
    const long Turn = 50_000;

    readonly EmulatedWarp[] warps;
    long instructionsBefore;

    public Block(Launch launch, Counters counters)
    {
        Launch = launch;
        Counters = counters;
        ThreadCount = launch.BlockDim.X * launch.BlockDim.Y * launch.BlockDim.Z;
        WarpCount = (ThreadCount + EmulatedWarp.Size - 1) / EmulatedWarp.Size;
        Barriers = new BlockBarriers(this);
        Shared = new BlockMemory(launch.Program.SharedBytes, launch.DynamicSharedBytes);
        warps = new EmulatedWarp[WarpCount];
        for (int i = 0; i < WarpCount; i++)
            warps[i] = new EmulatedWarp(this, i);
    }

    public Launch Launch { get; }

    public Counters Counters { get; }

    public BlockMemory Shared { get; }

    public BlockBarriers Barriers { get; }

    public int ThreadCount { get; }

    public int WarpCount { get; }

    /// <summary>Position in the grid.</summary>
    public (int X, int Y, int Z) Index { get; private set; }

    /// <summary>Number of barriers that all warps have passed.</summary>
    public int Epoch { get; private set; }

    /// <summary>Warp instructions that the block has run: its clock, the same on every run.</summary>
    public long Clock => Counters.TotalWarpInstructions - instructionsBefore;

    public void BeginEpoch() => Epoch++;

    public void Run((int X, int Y, int Z) index)
    {
        Index = index;
        Epoch = 0;
        instructionsBefore = Counters.TotalWarpInstructions;
        Barriers.Start();
        Shared.Start();
        foreach (var warp in warps)
            warp.Start();
        long budget = Launch.Options.InstructionBudgetPerBlock;
        while (true)
        {
            int finished = 0;
            foreach (var warp in warps)
            {
                if (warp.State == WarpState.Ready)
                    budget -= warp.Run(Math.Min(Turn, budget));
                finished += warp.State == WarpState.Finished ? 1 : 0;
                if (budget <= 0 && warp.State == WarpState.Ready)
                    throw warp.Fault($"the block has run {Launch.Options.InstructionBudgetPerBlock} instructions without an end; an endless loop?");
            }
            if (finished == WarpCount)
                return;
            if (!Array.Exists(warps, warp => warp.State == WarpState.Ready))
                throw Barriers.Stuck(warps);
        }
    }

    public void Dispose()
    {
        foreach (var warp in warps)
            warp.Dispose();
        Shared.Dispose();
    }
}
