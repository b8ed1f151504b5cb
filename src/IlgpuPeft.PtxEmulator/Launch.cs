using System.Runtime.ExceptionServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>One kernel launch: the grid, its arguments, and the loop over its blocks.</summary>
sealed class Launch(PtxProgram program, AllocationTable memory, PtxEmulatorOptions options)
{
    /// <summary>Warp instructions that are not worth waking another core for.</summary>
    const long WorthSharing = 5000;

    readonly Lock gate = new();
    long blocks, next = -1, failed = long.MaxValue;
    Exception? failure;

    public PtxProgram Program { get; } = program;

    public AllocationTable Memory { get; } = memory;

    public PtxEmulatorOptions Options { get; } = options;

    public (int X, int Y, int Z) GridDim { get; init; } = (1, 1, 1);

    public (int X, int Y, int Z) BlockDim { get; init; } = (1, 1, 1);

    public int DynamicSharedBytes { get; init; }

    /// <summary>The kernel's parameters, laid out as PTX lays out its parameter list.</summary>
    public byte[] Arguments { get; init; } = [];

    /// <summary>The C# method of the kernel, for errors.</summary>
    public string Method { get; init; } = "";

    /// <summary>Runs every block and returns what happened.</summary>
    /// <exception cref="PtxEmulatorException">The first block, in grid order, that did something wrong.</exception>
    public LaunchCounters Run()
    {
        if (Arguments.Length < Program.ParameterBytes)
            throw new PtxEmulatorException($"{Program.Name} ({Method}): arguments have {Arguments.Length} bytes, expected {Program.ParameterBytes}.");
        int shared = Program.SharedBytes + DynamicSharedBytes;
        if (shared > Options.MaxSharedBytes)
            throw new PtxEmulatorException(
                $"{Program.Name} ({Method}): a block asks for {shared} bytes of shared memory, the device has {Options.MaxSharedBytes}. Use smaller tiles.");
        Memory.Include(Program.Variables);
        blocks = (long)GridDim.X * GridDim.Y * GridDim.Z;
        int workers = Program.NeedsBlockOrder ? 1 : (int)Math.Min(blocks, Math.Max(1, Options.Workers));
        var counters = new Counters[workers];
        var helpers = new Task[workers - 1];
        for (int i = 0; i < workers; i++)
            counters[i] = new Counters();

        var block = Program.TakeBlock(this, counters[0]);
        bool more = RunNext(block);
        if (more && counters[0].WarpInstructions.Sum() * (blocks - 1) >= WorthSharing)
            for (int i = 0; i < helpers.Length; i++)
            {
                var mine = counters[i + 1];
                helpers[i] = Task.Run(() => Work(Program.TakeBlock(this, mine)));
            }
        while (more)
            more = RunNext(block);
        Program.Return(block);
        foreach (var helper in helpers)
            helper?.Wait();
        if (failure != null)
            ExceptionDispatchInfo.Throw(failure);
        return new LaunchCounters(this, Counters.Sum(counters));
    }

    void Work(Block block)
    {
        while (RunNext(block))
            continue;
        Program.Return(block);
    }

    /// <summary>Runs the next block of the grid; false if there is none, or one has failed.</summary>
    bool RunNext(Block block)
    {
        long index = Interlocked.Increment(ref next);
        if (index >= blocks || index > Volatile.Read(ref failed))
            return false;
        try
        {
            block.Run(((int)(index % GridDim.X), (int)(index / GridDim.X % GridDim.Y), (int)(index / GridDim.X / GridDim.Y)));
            return true;
        }
        catch (Exception error)
        {
            // Blocks are handed out in order, so whoever works on an earlier block finishes it: the first failure wins.
            lock (gate)
                if (index < failed)
                    (failed, failure) = (index, error);
            return false;
        }
    }
}
