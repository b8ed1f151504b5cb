namespace IlgpuPeft.PtxEmulator;

/// <summary>PTX text that the emulator cannot turn into a program: malformed, or an instruction that it does not know.</summary>
public sealed class PtxSyntaxException : Exception
{
    /// <summary>Names the line (from 1) and what is wrong with it.</summary>
    public PtxSyntaxException(int line, string problem) : base($"PTX line {line}: {problem}.") => Line = line;

    /// <summary>The line of the PTX text, from 1.</summary>
    public int Line { get; }
}
