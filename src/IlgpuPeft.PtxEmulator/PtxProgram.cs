using System.Collections.Concurrent;

namespace IlgpuPeft.PtxEmulator;

/// <summary>A kernel ready to run: instructions with numbered registers and resolved targets, and the memory they need.</summary>
sealed class PtxProgram
{
    readonly string[] lines;
    readonly ConcurrentBag<Block> idleBlocks = [];

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
        for (int i = 0; i < Code.Length; i++)
            Code[i].Number = i;
        Classes = [.. code.Select(instruction => instruction.Class)];
        Constants = [.. module.Registers.Constants];
        var special = module.Registers.Special.Select(pair => (pair.Key, pair.Value));
        SpecialRegisters = [.. special.Where(register => !PtxEmulator.SpecialRegisters.IsOfBlock(register.Key))];
        BlockRegisters = [.. special.Where(register => PtxEmulator.SpecialRegisters.IsOfBlock(register.Key))];
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

    /// <summary>Registers that hold the same in every block of a launch.</summary>
    public (string Name, Register Register)[] SpecialRegisters { get; }

    public ModuleVariables Variables { get; }

    /// <summary>Registers that tell where in the grid a block is.</summary>
    public (string Name, Register Register)[] BlockRegisters { get; }

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

    /// <summary>A block for a launch's grid: one that an earlier launch has used, if it has the size.</summary>
    public Block TakeBlock(Launch launch, Counters counters)
    {
        if (!idleBlocks.TryTake(out var block) || !block.Fits(launch))
            block = new Block(launch);
        block.Prepare(launch, counters);
        return block;
    }

    /// <summary>Keeps a block for later launches.</summary>
    public void Return(Block block) => idleBlocks.Add(block);

    public string SourceLine(int line) => line >= 1 && line <= lines.Length ? lines[line - 1].Trim().Replace('\t', ' ') : "";
}
