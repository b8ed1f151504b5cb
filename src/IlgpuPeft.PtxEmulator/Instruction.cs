namespace IlgpuPeft.PtxEmulator;

/// <summary>What a counter groups instructions by.</summary>
public enum InstructionClass
{
    /// <summary>Integer and logic arithmetic, comparisons, selections.</summary>
    Integer,

    /// <summary>Floating point arithmetic.</summary>
    Float,

    /// <summary>Approximate functions, square roots and divisions.</summary>
    Special,

    /// <summary>Conversions and moves.</summary>
    Move,

    /// <summary>Loads and stores of any state space, and copies that bypass registers.</summary>
    Memory,

    /// <summary>Atomic operations.</summary>
    Atomic,

    /// <summary>Shuffles, votes, warp reductions and barriers.</summary>
    Synchronization,

    /// <summary>Branches, calls and returns.</summary>
    Control,

    /// <summary>Matrix multiply-accumulate.</summary>
    TensorCore,
}

/// <summary>One decoded instruction; it acts on all lanes of a warp at once.</summary>
abstract class Instruction
{
    /// <summary>Line of the PTX text, from 1.</summary>
    public int Line { get; set; }

    /// <summary>Position in the program.</summary>
    public int Number { get; set; }

    /// <summary>Slot of the guard predicate, or -1.</summary>
    public int Guard { get; set; } = -1;

    public bool GuardNegated { get; set; }

    public abstract InstructionClass Class { get; }

    /// <summary>Runs the lanes of <paramref name="mask"/>, which is never empty. The warp already stands at the next instruction.</summary>
    public abstract void Execute(EmulatedWarp warp, uint mask);
}
