namespace IlgpuPeft.PtxEmulator;

/// <summary>One kernel launch: the grid, its arguments, and the loop over its blocks.</summary>
sealed unsafe class Launch(PtxProgram program, AllocationTable memory, PtxEmulatorOptions options)
{
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
        long blocks = (long)GridDim.X * GridDim.Y * GridDim.Z;
        int workers = Program.NeedsBlockOrder ? 1 : (int)Math.Min(blocks, Math.Max(1, Options.Workers));
        var counters = new Counters[workers];
        var failures = new (long Block, Exception Error)[workers];
        long next = -1, failed = long.MaxValue;

        void Work(int worker)
        {
            counters[worker] = new Counters();
            using var block = new Block(this, counters[worker]);
            while (true)
            {
                long index = Interlocked.Increment(ref next);
                if (index >= blocks || index > Volatile.Read(ref failed))
                    return;
                try
                {
                    block.Run(((int)(index % GridDim.X), (int)(index / GridDim.X % GridDim.Y), (int)(index / GridDim.X / GridDim.Y)));
                }
                catch (Exception error)
                {
                    // Blocks are handed out in order, so whoever works on an earlier block finishes it: the first failure wins.
                    failures[worker] = (index, error);
                    for (long seen = failed; index < seen; seen = Interlocked.Read(ref failed))
                        Interlocked.CompareExchange(ref failed, index, seen);
                    return;
                }
            }
        }

        if (workers == 1)
            Work(0);
        else
            Parallel.For(0, workers, new ParallelOptions { MaxDegreeOfParallelism = workers }, Work);
        if (failed != long.MaxValue)
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failures.First(f => f.Error != null && f.Block == failed).Error);
        return new LaunchCounters(this, Counters.Sum(counters));
    }
}
