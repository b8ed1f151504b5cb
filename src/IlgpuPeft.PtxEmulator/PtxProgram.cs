namespace IlgpuPeft.PtxEmulator;

/// <summary>A kernel ready to run: instructions with numbered registers and resolved targets, and the memory they need.</summary>
sealed class PtxProgram
{
    readonly string[] lines;

    PtxProgram(string text, ModuleSyntax module, Function entry)
    {
        lines = text.Split('\n');
        Name = entry.Name;
        ParameterBytes = entry.Parameters.Count == 0 ? 0 : entry.Parameters[^1].Offset + entry.Parameters[^1].Size;
        SharedBytes = module.SharedBytes;
        LaneBytes = (module.LaneBytes + 15) / 16 * 16;

        var code = new List<Instruction>();
        var starts = new Dictionary<string, int>();
        // The kernel first: it starts at instruction 0.
        foreach (var function in module.Functions.Values.OrderBy(f => f == entry ? 0 : 1))
        {
            starts[function.Name] = code.Count;
            Linker.Append(function, module, code);
        }
        foreach (var call in code.OfType<Call>())
            call.Target = starts[call.Function];
        Code = [.. code];
        Classes = [.. code.Select(instruction => instruction.Class)];
        Constants = [.. module.Registers.Constants];
        SpecialRegisters = [.. module.Registers.Special.Select(pair => (pair.Key, pair.Value))];
        RegisterBytes = module.Registers.Size;
        Variables = module.Variables;
        NeedsBlockOrder = Code.OfType<Print>().Any() || Code.OfType<AtomicInstruction>().Any(atomic => atomic.DependsOnOrder);
    }

    /// <summary>Name of the entry point.</summary>
    public string Name { get; }

    public Instruction[] Code { get; }

    /// <summary>The class of each instruction, beside the code because every step counts it.</summary>
    public InstructionClass[] Classes { get; }

    public int EntryPc { get; }

    /// <summary>Bytes of kernel parameters.</summary>
    public int ParameterBytes { get; }

    /// <summary>Bytes of shared memory with a fixed size, per block.</summary>
    public int SharedBytes { get; }

    /// <summary>Bytes of local memory and function parameters, per lane.</summary>
    public int LaneBytes { get; }

    /// <summary>Bytes of registers, per warp.</summary>
    public int RegisterBytes { get; }

    public (Register Register, ulong Bits)[] Constants { get; }

    public (string Name, Register Register)[] SpecialRegisters { get; }

    public ModuleVariables Variables { get; }

    /// <summary>Whether the kernel prints, or has atomics whose result depends on which block comes first: then blocks run one after the other.</summary>
    public bool NeedsBlockOrder { get; }

    /// <summary>Parses and links a module with one entry point.</summary>
    /// <exception cref="PtxSyntaxException">Malformed text or an unknown instruction; names the line.</exception>
    public static PtxProgram Parse(string text)
    {
        var module = Parser.Parse(text);
        var entries = module.Functions.Values.Where(f => f.IsEntry).ToArray();
        return entries.Length == 1
            ? new PtxProgram(text, module, entries[0])
            : throw new PtxSyntaxException(1, $"expected one .entry, got {entries.Length}");
    }

    public string SourceLine(int line) => line >= 1 && line <= lines.Length ? lines[line - 1].Trim().Replace('\t', ' ') : "";
}
