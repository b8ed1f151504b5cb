namespace IlgpuPeft.PtxEmulator;

/// <summary>A kernel did something that a GPU would not survive, or would answer with garbage. Says what, and exactly where.</summary>
public sealed class PtxEmulatorException : Exception
{
    /// <summary>Creates the error of a launch that never reached a thread.</summary>
    public PtxEmulatorException(string message) : base(message)
    {
    }

    /// <summary>Name of the PTX entry point.</summary>
    public string Kernel { get; private init; } = "";

    /// <summary>The C# method that was compiled, with its class.</summary>
    public string Method { get; private init; } = "";

    /// <summary>Line of the PTX text, from 1.</summary>
    public int PtxLine { get; private init; }

    /// <summary>The PTX instruction on that line.</summary>
    public string Instruction { get; private init; } = "";

    /// <summary>Index of the block in the grid.</summary>
    public (int X, int Y, int Z) Block { get; private init; }

    /// <summary>Index of the thread in its block.</summary>
    public (int X, int Y, int Z) Thread { get; private init; }

    /// <summary>The memory address, if the error is about one.</summary>
    public ulong? Address { get; private init; }

    internal static PtxEmulatorException At(EmulatedWarp warp, int lane, string problem, ulong? address)
    {
        var block = warp.Block;
        var program = block.Launch.Program;
        int line = warp.Current.Line;
        string text = program.SourceLine(line);
        int thread = (warp.Index * EmulatedWarp.Size) + lane;
        var dim = block.Launch.BlockDim;
        var position = (thread % dim.X, thread / dim.X % dim.Y, thread / dim.X / dim.Y);
        string at = address is { } value ? $", address 0x{value:x}" : "";
        string method = block.Launch.Method.Length == 0 ? "" : $" ({block.Launch.Method})";
        return new PtxEmulatorException(
            $"{program.Name}{method}: {problem}. PTX line {line} `{text}`, block {block.Index}, thread {position}{at}.")
        {
            Kernel = program.Name,
            Method = block.Launch.Method,
            PtxLine = line,
            Instruction = text,
            Block = block.Index,
            Thread = position,
            Address = address,
        };
    }
}
