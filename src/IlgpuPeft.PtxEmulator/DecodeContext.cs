namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// One statement on its way to an instruction. Modifiers of the opcode are taken out one by one: what is left at the end is
/// something that the emulator does not know, and an error.
/// </summary>
sealed class DecodeContext
{
    readonly List<string> modifiers;
    int lastOperand = -1;

    public DecodeContext(Statement statement, ModuleSyntax module)
    {
        (Statement, Module) = (statement, module);
        modifiers = [.. statement.Parts.Skip(1)];
    }

    public Statement Statement { get; }

    public ModuleSyntax Module { get; }

    public string Operation => Statement.Parts[0];

    public int Count => Statement.Operands.Count;

    public bool Take(string modifier) => modifiers.Remove(modifier);

    /// <summary>The first of these modifiers that is there, or null.</summary>
    public string? TakeAny(params ReadOnlySpan<string> choices)
    {
        foreach (string choice in choices)
            if (Take(choice))
                return choice;
        return null;
    }

    /// <summary>Takes the type at the end of the opcode.</summary>
    public PtxType TakeType()
    {
        if (modifiers.Count == 0 || PtxTypes.Parse(modifiers[^1]) is not { } type)
            throw Unknown();
        modifiers.RemoveAt(modifiers.Count - 1);
        return type;
    }

    /// <summary>Takes the modifier that comes next, whatever it is.</summary>
    public string TakeNext()
    {
        if (modifiers.Count == 0)
            throw Unknown();
        string next = modifiers[0];
        modifiers.RemoveAt(0);
        return next;
    }

    /// <summary>Everything must have been understood: all modifiers taken, all operands looked at.</summary>
    public void RequireNoMore()
    {
        if (modifiers.Count > 0)
            throw Unknown();
        if (lastOperand + 1 < Count)
            throw Malformed($"{Count} operands, expected {lastOperand + 1}");
    }

    public PtxSyntaxException Unknown() => new(Statement.Line, $"instruction '{Statement.Opcode}' is not known to the emulator");

    public PtxSyntaxException Malformed(string problem) => new(Statement.Line, $"'{Statement.Opcode}': {problem}");

    public Operand Operand(int index)
    {
        lastOperand = Math.Max(lastOperand, index);
        return index < Count ? Statement.Operands[index] : throw Malformed($"operand {index + 1} is missing");
    }

    /// <summary>An operand that is written: a register with the given bytes per lane.</summary>
    public Register Destination(int index, int laneSize) => Writable(Operand(index), laneSize);

    /// <summary>`_` is a result that nobody reads.</summary>
    public Register Writable(Operand operand, int laneSize) => operand switch
    {
        Register register => Sized(register, laneSize),
        Name { Text: "_" } => Module.Registers.Add(laneSize),
        _ => throw Malformed("the result must be a register"),
    };

    /// <summary>An operand that is read, with the given bytes per lane; literals and addresses of variables get a register.</summary>
    public Register Source(int index, int laneSize) => Source(Operand(index), laneSize);

    public Register Source(Operand operand, int laneSize) => operand switch
    {
        Register register => Sized(register, laneSize),
        Immediate immediate => Module.Registers.Constant(laneSize, immediate.Bits),
        Real real => Module.Registers.Constant(laneSize, real.Bits(laneSize)),
        Name => Module.Registers.Constant(laneSize, AddressOf(Variable(operand))),
        _ => throw Malformed("an operand is not a register or a number"),
    };

    /// <summary>A register of whatever width it was declared with; a literal gets <paramref name="literalSize"/> bytes.</summary>
    public Register AnySource(int index, int literalSize) =>
        Operand(index) is Register register ? register : Source(index, literalSize);

    public Register AnyDestination(int index) => Operand(index) as Register ?? throw Malformed("the result must be a register");

    /// <summary>A predicate operand and whether it is negated.</summary>
    public (Register Register, bool Negated) Predicate(int index) => Operand(index) is Not { Value: var inner }
        ? (Source(inner, 0), true)
        : (Source(index, 0), false);

    public int Literal(int index) => Operand(index) is Immediate immediate
        ? (int)(long)immediate.Bits
        : throw Malformed($"operand {index + 1} must be a number");

    /// <summary>Registers of `{a, b}`, or one register alone.</summary>
    public Operand[] Items(int index) => Operand(index) is Vector vector ? [.. vector.Items] : [Operand(index)];

    public Variable Variable(Operand operand) => operand is Name name && Statement.Scope.FindVariable(name.Text) is { } variable
        ? variable
        : throw Malformed($"'{(operand is Name unknown ? unknown.Text : operand)}' is not declared");

    /// <summary>Where a variable lies within its state space.</summary>
    public ulong AddressOf(Variable variable) => variable.Space switch
    {
        "dynamic" => (ulong)((Module.SharedBytes + 15) / 16 * 16),
        "global" or "const" => variable.Address,
        _ => (ulong)variable.Offset,
    };

    Register Sized(Register register, int laneSize) => register.LaneSize == laneSize
        ? register
        : throw Malformed($"a register has {8 * register.LaneSize} bits, expected {8 * laneSize}");
}
