using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>atom (with the old value as result) and red (without).</summary>
static class AtomicDecoder
{
    public static Instruction Decode(DecodeContext c)
    {
        while (c.TakeAny("relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys", "noftz") != null)
            continue;
        var space = MemoryDecoder.TakeSpace(c);
        if (space is Space.Local or Space.Parameter)
            throw c.Unknown();
        string operation = c.TakeAny("add", "and", "or", "xor", "min", "max", "exch", "cas", "inc", "dec") ?? throw c.Unknown();
        return c.TakeType() switch
        {
            PtxType.U32 => Make(c, space, operation, Integer<uint>(operation) ?? Counter(operation)),
            PtxType.S32 => Make(c, space, operation, Integer<int>(operation)),
            PtxType.U64 => Make(c, space, operation, Integer<ulong>(operation)),
            PtxType.S64 => Make(c, space, operation, Integer<long>(operation)),
            PtxType.F32 when operation == "add" => Make<float>(c, space, operation, (old, x, _) => old + x, order: true),
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

    /// <summary>Counting up to a limit and around, or down from it.</summary>
    static Func<uint, uint, uint, uint>? Counter(string operation) => operation switch
    {
        "inc" => (old, limit, _) => old >= limit ? 0 : old + 1,
        "dec" => (old, limit, _) => old == 0 || old > limit ? limit : old - 1,
        _ => null,
    };

    static unsafe AtomicInstruction<T> Make<T>(
        DecodeContext c, Space space, string operation, Func<T, T, T, T>? function, bool order = false) where T : unmanaged
    {
        if (function == null)
            throw c.Unknown();
        int first = c.Operation == "atom" ? 1 : 0;
        var (_, start, offset) = MemoryDecoder.Place(c, first, space);
        var d = first == 1 ? c.Destination(0, sizeof(T)) : null;
        var b = operation == "cas" ? c.Source(first + 2, sizeof(T)) : null;
        bool ordered = order || d != null || operation is "exch" or "cas" or "inc" or "dec";
        return new AtomicInstruction<T>(space, ordered, d, start, offset, c.Source(first + 1, sizeof(T)), b, function);
    }
}
