namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// One thread block. Its warps take turns: each runs until it waits at a barrier, ends, or has used up its turn (so that a warp
/// that spins on a value lets the others produce it).
/// </summary>
sealed class Block
{
    const long Turn = 50_000;

    /// <summary>No block starts later: the rest of the numbers is for its barriers.</summary>
    const int MaxStart = 1 << 30;

    readonly AccessShape?[] shapes;
    long instructionsBefore;

    public Block(Launch launch)
    {
        Launch = launch;
        ThreadCount = launch.BlockDim.X * launch.BlockDim.Y * launch.BlockDim.Z;
        WarpCount = (ThreadCount + EmulatedWarp.Size - 1) / EmulatedWarp.Size;
        Barriers = new BlockBarriers(this);
        Shared = new BlockMemory(launch.Program.SharedBytes, launch.DynamicSharedBytes);
        Warps = [.. Enumerable.Range(0, WarpCount).Select(i => new EmulatedWarp(this, i))];
        shapes = new AccessShape?[2 * launch.Program.Code.Length];
        PrepareWarps();
    }

    public Launch Launch { get; private set; }

    public Counters Counters { get; private set; } = new();

    public BlockMemory Shared { get; }

    public BlockBarriers Barriers { get; }

    public EmulatedWarp[] Warps { get; }

    public int ThreadCount { get; }

    public int WarpCount { get; }

    /// <summary>Position in the grid.</summary>
    public (int X, int Y, int Z) Index { get; private set; }

    /// <summary>The time at which all warps were at the last barrier, or the block began: what was done before is ordered before all that follows.</summary>
    public int EpochStart { get; private set; } = 1;

    /// <summary>Whether this block's memory is what a launch needs.</summary>
    public bool Fits(Launch launch) => launch.BlockDim == Launch.BlockDim && launch.DynamicSharedBytes == Launch.DynamicSharedBytes;

    /// <summary>Gets ready for the blocks of a launch that it fits.</summary>
    public void Prepare(Launch launch, Counters counters)
    {
        bool sameGrid = launch.GridDim == Launch.GridDim;
        (Launch, Counters) = (launch, counters);
        if (!sameGrid)
            PrepareWarps();
    }

    /// <summary>The shape of the accesses that an instruction of this block makes; those that copy have a second one.</summary>
    public AccessShape Shape(Instruction instruction, bool second = false) => shapes[(2 * instruction.Number) + (second ? 1 : 0)] ??= new AccessShape();

    /// <summary>Warp instructions that the block has run: its clock, the same on every run.</summary>
    public long Clock => Counters.TotalWarpInstructions - instructionsBefore;

    public void Run((int X, int Y, int Z) index)
    {
        Index = index;
        if (EpochStart > MaxStart)
            Restart();
        BeginEpoch();
        instructionsBefore = Counters.TotalWarpInstructions;
        Barriers.Start();
        Shared.Start();
        foreach (var warp in Warps)
            warp.Start();
        long budget = Launch.Options.InstructionBudgetPerBlock;
        while (true)
        {
            int finished = 0;
            foreach (var warp in Warps)
            {
                if (warp.State == WarpState.Ready)
                    budget -= warp.Run(Math.Min(Turn, budget));
                finished += warp.State == WarpState.Finished ? 1 : 0;
                if (budget <= 0 && warp.State == WarpState.Ready)
                    throw warp.Fault($"the block has run {Launch.Options.InstructionBudgetPerBlock} instructions without an end; an endless loop?");
            }
            if (finished == WarpCount)
                return;
            if (!Array.Exists(Warps, warp => warp.State == WarpState.Ready))
                throw Barriers.Stuck();
        }
    }

    void PrepareWarps()
    {
        foreach (var warp in Warps)
            warp.Prepare();
    }

    /// <summary>Begins to count time anew.</summary>
    void Restart()
    {
        Shared.Forget();
        EpochStart = 0;
        foreach (var warp in Warps)
            warp.Time = 0;
    }

    /// <summary>All threads have met: sets all clocks to a time that none has reached.</summary>
    public void BeginEpoch()
    {
        foreach (var warp in Warps)
            EpochStart = Math.Max(EpochStart, warp.Time + 1);
        foreach (var warp in Warps)
            warp.Time = EpochStart;
    }
}
