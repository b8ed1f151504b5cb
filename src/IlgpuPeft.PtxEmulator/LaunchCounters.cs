using System.Text;

namespace IlgpuPeft.PtxEmulator;

/// <summary>What one launch did, exactly: the same on every machine, so tests can assert on it.</summary>
public sealed class LaunchCounters
{
    readonly Counters counters;

    internal LaunchCounters(Launch launch, Counters counters)
    {
        this.counters = counters;
        Kernel = launch.Program.Name;
        GridDim = launch.GridDim;
        BlockDim = launch.BlockDim;
    }

    /// <summary>Name of the PTX entry point.</summary>
    public string Kernel { get; }

    /// <summary>Blocks of the grid.</summary>
    public (int X, int Y, int Z) GridDim { get; }

    /// <summary>Threads of a block.</summary>
    public (int X, int Y, int Z) BlockDim { get; }

    /// <summary>Instructions that warps issued.</summary>
    public long WarpInstructions => counters.WarpInstructions.Sum();

    /// <summary>Instructions that threads executed; at full use 32 for each that a warp issued.</summary>
    public long ThreadInstructions => counters.ThreadInstructions.Sum();

    /// <summary>Warp instructions that load from global memory.</summary>
    public long GlobalLoadRequests => counters.GlobalLoadRequests;

    /// <summary>32-byte sectors that global loads touch.</summary>
    public long GlobalLoadSectors => counters.GlobalLoadSectors;

    /// <summary>Bytes that threads asked global loads for.</summary>
    public long GlobalLoadBytes => counters.GlobalLoadBytes;

    /// <summary>Warp instructions that store to global memory, atomics included.</summary>
    public long GlobalStoreRequests => counters.GlobalStoreRequests;

    /// <summary>32-byte sectors that global stores and atomics touch.</summary>
    public long GlobalStoreSectors => counters.GlobalStoreSectors;

    /// <summary>Bytes that threads store to global memory.</summary>
    public long GlobalStoreBytes => counters.GlobalStoreBytes;

    /// <summary>Warp instructions that access shared memory.</summary>
    public long SharedRequests => counters.SharedRequests;

    /// <summary>Passes over the 32 banks that these take.</summary>
    public long SharedWavefronts => counters.SharedWavefronts;

    /// <summary>Bytes that threads load from and store to shared memory.</summary>
    public long SharedBytes => counters.SharedBytes;

    /// <summary>Bytes loaded from and stored to per-thread local memory: spilled arrays, which live in global memory on a GPU.</summary>
    public long LocalBytes => counters.LocalBytes;

    /// <summary>Block barriers passed, counted once per block.</summary>
    public long Barriers => counters.Barriers;

    /// <summary>Matrix multiply-accumulate instructions of tensor cores.</summary>
    public long MatrixMultiplies => counters.MatrixMultiplies;

    /// <summary>Conditional branches that warps executed.</summary>
    public long Branches => counters.Branches;

    /// <summary>Branches on which the lanes of a warp disagreed.</summary>
    public long DivergentBranches => counters.DivergentBranches;

    /// <summary>Warp instructions of one class.</summary>
    public long Of(InstructionClass kind) => counters.WarpInstructions[(int)kind];

    /// <summary>The counters as a table, with what they mean.</summary>
    public string Report()
    {
        var text = new StringBuilder();
        text.AppendLine($"{Kernel}: grid {GridDim} of blocks {BlockDim}");
        text.AppendLine($"  {WarpInstructions,14:N0} warp instructions, {Ratio(ThreadInstructions, WarpInstructions):F1} of 32 lanes busy");
        foreach (var kind in Enum.GetValues<InstructionClass>())
            if (Of(kind) > 0)
                text.AppendLine($"  {Of(kind),14:N0}   {kind}");
        Memory(text, "global loads", GlobalLoadRequests, GlobalLoadSectors, GlobalLoadBytes);
        Memory(text, "global stores", GlobalStoreRequests, GlobalStoreSectors, GlobalStoreBytes);
        if (SharedRequests > 0)
            text.AppendLine($"  {SharedRequests,14:N0} shared requests in {SharedWavefronts:N0} wavefronts ({Ratio(SharedWavefronts, SharedRequests):F2} each)");
        if (LocalBytes > 0)
            text.AppendLine($"  {LocalBytes,14:N0} bytes of local memory: an array that did not fit registers");
        if (Barriers > 0)
            text.AppendLine($"  {Barriers,14:N0} barriers");
        if (MatrixMultiplies > 0)
            text.AppendLine($"  {MatrixMultiplies,14:N0} tensor core multiplies");
        text.Append($"  {Branches,14:N0} conditional branches, {DivergentBranches:N0} of them divergent");
        return text.ToString();
    }

    static void Memory(StringBuilder text, string what, long requests, long sectors, long bytes)
    {
        if (requests > 0)
            text.AppendLine(
                $"  {requests,14:N0} {what}: {bytes:N0} bytes in {sectors:N0} sectors of 32, {100 * Ratio(bytes, 32 * sectors):F0}% of what moves is used");
    }

    static double Ratio(long a, long b) => b == 0 ? 0 : (double)a / b;
}
