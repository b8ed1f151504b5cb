namespace IlgpuPeft.PtxEmulator;

/// <summary>What can stand as an operand of an instruction.</summary>
abstract record Operand;

/// <summary>A register: where its lanes start in the register file, and bytes per lane (0: a predicate, one bit per lane).</summary>
sealed record Register(int Slot, int LaneSize) : Operand;

/// <summary>A literal, as the bits that PTX writes; an integer is sign-extended to 64 bits.</summary>
sealed record Immediate(ulong Bits) : Operand;

/// <summary>A number with a decimal point: its bits depend on the type that the instruction wants.</summary>
sealed record Real(double Value) : Operand
{
    public ulong Bits(int size) => size switch
    {
        2 => BitConverter.HalfToUInt16Bits((Half)Value),
        4 => BitConverter.SingleToUInt32Bits((float)Value),
        _ => BitConverter.DoubleToUInt64Bits(Value),
    };
}

/// <summary>A name that is no register: a label, a function, or a variable of some state space.</summary>
sealed record Name(string Text) : Operand;

/// <summary>`[base + offset]`.</summary>
sealed record Address(Operand Base, long Offset) : Operand;

/// <summary>`{a, b, ...}`, and the lists in the parentheses of a call.</summary>
sealed record Vector(IReadOnlyList<Operand> Items) : Operand;

/// <summary>`p|q`: two results.</summary>
sealed record Pair(Operand First, Operand Second) : Operand;

/// <summary>`!p`.</summary>
sealed record Not(Operand Value) : Operand;

/// <summary>One instruction as written. Parts are the opcode split at its dots.</summary>
sealed record Statement(int Line, string Opcode, IReadOnlyList<Operand> Operands, Register? Guard, bool GuardNegated, Scope Scope)
{
    public string[] Parts { get; } = Opcode.Split('.');
}

/// <summary>A named piece of memory: at an offset in `.param`, `.shared` or `.local`, at an address in `.global` and `.const`.</summary>
sealed record Variable(string Space, int Offset, int Size, PtxType Type)
{
    public ulong Address { get; init; }
}

/// <summary>Names visible between two braces.</summary>
sealed class Scope(Scope? parent)
{
    public Dictionary<string, Register> Registers { get; } = [];

    public Dictionary<string, Variable> Variables { get; } = [];

    public Register? FindRegister(string name) =>
        Registers.TryGetValue(name, out var register) ? register : parent?.FindRegister(name);

    public Variable? FindVariable(string name) =>
        Variables.TryGetValue(name, out var variable) ? variable : parent?.FindVariable(name);
}

/// <summary>An `.entry` or a `.func`. Parameters and results of a function live in per-lane memory, those of an entry in one buffer.</summary>
sealed class Function(string name, bool isEntry, Scope scope)
{
    public string Name { get; } = name;

    public bool IsEntry { get; } = isEntry;

    public Scope Scope { get; } = scope;

    public List<Variable> Parameters { get; } = [];

    public Variable? Result { get; set; }

    public List<Statement> Statements { get; } = [];

    /// <summary>Index of the statement that a label stands before.</summary>
    public Dictionary<string, int> Labels { get; } = [];

    /// <summary>Label lists of `.branchtargets`, under the label of the list.</summary>
    public Dictionary<string, string[]> BranchTargets { get; } = [];
}
