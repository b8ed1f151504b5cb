using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>atom (with the old value as result) and red (without).</summary>
static class AtomicDecoder
{
    public static Instruction Decode(DecodeContext c)
    {
        while (c.TakeAny("relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys") != null)
            continue;
        bool keepsSubnormals = c.Take("noftz");
        var space = MemoryDecoder.TakeSpace(c);
        if (space is Space.Local or Space.Parameter)
            throw c.Unknown();
        string operation = c.TakeAny("add", "and", "or", "xor", "min", "max", "exch", "cas", "inc", "dec") ?? throw c.Unknown();
        var type = c.TakeType();
        bool halves = type is PtxType.F16 or PtxType.F16x2;
        if (keepsSubnormals != (halves && operation == "add") || (c.Operation == "red" && operation is "exch" or "cas"))
            throw c.Unknown();
        return type switch
        {
            PtxType.U16 when operation == "cas" => Make(c, space, operation, Integer<ushort>(operation)),
            PtxType.F16 when keepsSubnormals => Make<ushort>(c, space, operation, (old, x, _) => AddHalves(old, x), order: true),
            PtxType.F16x2 when keepsSubnormals => Make<uint>(c, space, operation, (old, x, _) =>
                AddHalves(old & 0xFFFF, x & 0xFFFF) | ((uint)AddHalves(old >> 16, x >> 16) << 16), order: true),
            PtxType.U32 => Make(c, space, operation, Integer<uint>(operation) ?? Counter(operation)),
            PtxType.S32 => Make(c, space, operation, Integer<int>(operation)),
            PtxType.U64 => Make(c, space, operation, Integer<ulong>(operation)),
            PtxType.S64 => Make(c, space, operation, Integer<long>(operation)),
            // In global memory the unit that adds floats treats subnormals as zeros, in shared memory it does not.
            PtxType.F32 when operation == "add" => Make<float>(c, space, operation, (old, x, _) => Floats.Canonical(old + x), order: true,
                (old, x, _) => Floats.Flush(Floats.Canonical(Floats.Flush(old) + Floats.Flush(x)))),
            PtxType.F64 when operation == "add" => Make<double>(c, space, operation, (old, x, _) => old + x, order: true),
            _ => throw c.Unknown(),
        };
    }

    static Func<T, T, T, T>? Integer<T>(string operation) where T : unmanaged, IBinaryInteger<T> => operation switch
    {
        "add" => (old, x, _) => old + x,
        "and" => (old, x, _) => old & x,
        "or" => (old, x, _) => old | x,
        "xor" => (old, x, _) => old ^ x,
        "min" => (old, x, _) => T.Min(old, x),
        "max" => (old, x, _) => T.Max(old, x),
        "exch" => (_, x, _) => x,
        "cas" => (old, expected, x) => old == expected ? x : old,
        _ => null,
    };

    static ushort AddHalves(uint a, uint b) => (ushort)FloatArithmetic.Add(FloatFormat.F16, Rounding.Nearest, a, b);

    /// <summary>Counting up to a limit and around, or down from it.</summary>
    static Func<uint, uint, uint, uint>? Counter(string operation) => operation switch
    {
        "inc" => (old, limit, _) => old >= limit ? 0 : old + 1,
        "dec" => (old, limit, _) => old == 0 || old > limit ? limit : old - 1,
        _ => null,
    };

    static unsafe AtomicInstruction<T> Make<T>(
        DecodeContext c, Space space, string operation, Func<T, T, T, T>? function, bool order = false, Func<T, T, T, T>? inGlobal = null)
        where T : unmanaged
    {
        if (function == null)
            throw c.Unknown();
        int first = c.Operation == "atom" ? 1 : 0;
        var (_, start, offset) = MemoryDecoder.Place(c, first, space);
        var d = first == 1 ? c.Destination(0, sizeof(T)) : null;
        var b = operation == "cas" ? c.Source(first + 2, sizeof(T)) : null;
        bool ordered = order || d != null || operation is "exch" or "cas" or "inc" or "dec";
        return new AtomicInstruction<T>(space, ordered, d, start, offset, c.Source(first + 1, sizeof(T)), b, function, inGlobal ?? function);
    }
}
