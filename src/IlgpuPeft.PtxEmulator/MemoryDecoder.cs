namespace IlgpuPeft.PtxEmulator;

/// <summary>ld, ldu, st, cvta and cp.async.</summary>
static class MemoryDecoder
{
    public static Instruction Load(DecodeContext c)
    {
        var space = TakeSpace(c);
        TakeCacheHints(c, 2);
        int count = TakeVector(c);
        var type = c.TakeType();
        Register[] values = [.. c.Items(0).Select(item => item as Register ?? c.Writable(item, Math.Max(2, type.Size())))];
        CheckValues(c, values, count, type);
        if (space == Space.Parameter && ParameterVariable(c, 1) is { Space: "kernel" } parameter)
        {
            long at = parameter.Offset + AddressOperand(c, 1).Offset;
            if (at < parameter.Offset || at + (count * type.Size()) > parameter.Offset + parameter.Size)
                throw c.Malformed("reads beyond the parameter");
            return new LoadParameter((int)at, values, type);
        }
        var (actual, start, offset) = Place(c, 1, space);
        return new Load(actual, start, offset, values, type);
    }

    public static Instruction Store(DecodeContext c)
    {
        var space = TakeSpace(c);
        TakeCacheHints(c, 2);
        int count = TakeVector(c);
        var type = c.TakeType();
        Register[] values = [.. c.Items(1).Select(item => item as Register ?? c.Source(item, Math.Max(2, type.Size())))];
        CheckValues(c, values, count, type);
        var (actual, start, offset) = Place(c, 0, space);
        return new Store(actual, start, offset, values, type);
    }

    public static Instruction ConvertAddress(DecodeContext c)
    {
        bool toSpace = c.Take("to");
        var space = c.TakeAny("global", "shared", "shared::cta", "local", "const") switch
        {
            "global" or "const" => Space.Global,
            "shared" or "shared::cta" => Space.Shared,
            "local" => Space.Local,
            _ => throw c.Unknown(),
        };
        return c.TakeType().Size() == 8 ? new ConvertAddress(c.Destination(0, 8), c.Source(1, 8), space, !toSpace) : throw c.Unknown();
    }

    /// <summary>`cp.async.ca|cg.shared.global [d], [s], bytes{, used}`, and its commit_group, wait_group and wait_all.</summary>
    public static Instruction AsyncCopy(DecodeContext c)
    {
        if (!c.Take("async"))
            throw c.Unknown();
        if (c.Take("commit_group"))
            return new CommitCopies();
        if (c.Take("wait_group"))
            return new WaitForCopies(c.Literal(0), all: false);
        if (c.Take("wait_all"))
            return new WaitForCopies(0, all: true);
        bool bypass = c.Take("cg");
        if ((!bypass && !c.Take("ca")) || c.TakeAny("shared", "shared::cta") == null || !c.Take("global"))
            throw c.Unknown();
        bool hint = c.Statement.Parts.Contains("L2::cache_hint");
        int operands = hint ? c.Count - 1 : c.Count;
        TakeCacheHints(c, operands);
        int size = c.Literal(2);
        if (size != 16 && (bypass || (size != 4 && size != 8)))
            throw c.Malformed($"copies of {size} bytes do not exist");
        var (_, to, toOffset) = Place(c, 0, Space.Shared);
        var (_, from, fromOffset) = Place(c, 1, Space.Global);
        if (operands <= 3)
            return new AsyncCopy(to, toOffset, from, fromOffset, size, null, null, false);
        // The fourth operand says how many bytes to read, or as a predicate whether to read none.
        return c.Operand(3) is Not or Register { LaneSize: 0 } && c.Predicate(3) is var (ignore, negated)
            ? new AsyncCopy(to, toOffset, from, fromOffset, size, null, ignore, negated)
            : new AsyncCopy(to, toOffset, from, fromOffset, size, c.Source(3, 4), null, false);
    }

    /// <summary>The register and offset of an address operand, and the space it is in.</summary>
    public static (Space Space, Register Start, long Offset) Place(DecodeContext c, int operand, Space space)
    {
        var address = AddressOperand(c, operand);
        if (space == Space.Parameter)
        {
            if (ParameterVariable(c, operand) is not { Space: "param" } variable)
                throw c.Malformed("the address is not a parameter");
            return (Space.Local, c.Module.Registers.Constant(8, (ulong)variable.Offset), address.Offset);
        }
        return (space, address.Base is Register register ? register : c.Source(address.Base, 8), address.Offset);
    }

    public static Space TakeSpace(DecodeContext c) => c.TakeAny("global", "shared", "shared::cta", "local", "param", "const") switch
    {
        // Constants lie among the device's memory.
        "global" or "const" => Space.Global,
        "shared" or "shared::cta" => Space.Shared,
        "local" => Space.Local,
        "param" => Space.Parameter,
        _ => Space.Generic,
    };

    /// <summary>Which cache keeps a value, and for how long, changes no result; a policy follows the <paramref name="operands"/> others.</summary>
    public static void TakeCacheHints(DecodeContext c, int operands)
    {
        if (c.Take("L2::cache_hint"))
            c.Source(operands, 8);
        while (c.TakeAny("nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt", "volatile", "relaxed", "acquire", "release", "cta", "gpu", "sys", "weak") != null
            || c.TakeAny("L1::no_allocate", "L1::evict_last", "L1::evict_first", "L1::evict_normal", "L1::evict_unchanged", "L2::64B", "L2::128B", "L2::256B") != null)
            continue;
    }

    static int TakeVector(DecodeContext c) => c.TakeAny("v2", "v4") switch { "v2" => 2, "v4" => 4, _ => 1 };

    static Address AddressOperand(DecodeContext c, int operand) => c.Operand(operand) as Address ?? throw c.Malformed("the address must stand in brackets");

    static Variable? ParameterVariable(DecodeContext c, int operand) =>
        AddressOperand(c, operand).Base is Name name ? c.Variable(name) : null;

    static void CheckValues(DecodeContext c, Register[] values, int count, PtxType type)
    {
        if (values.Length != count)
            throw c.Malformed($"{values.Length} registers, expected {count}");
        if (type == PtxType.Pred || count * type.Size() > 16)
            throw c.Unknown();
        if (Array.Exists(values, value => value.LaneSize < type.Size() || value.LaneSize == 0))
            throw c.Malformed("a register is too narrow");
    }
}
