using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>setp, selp, testp.</summary>
static class CompareDecoder
{
    public static Instruction SetPredicate(DecodeContext c)
    {
        string comparison = c.TakeNext();
        var combine = c.TakeAny("and", "or", "xor") switch { "and" => Combine.And, "or" => Combine.Or, "xor" => Combine.Xor, _ => Combine.None };
        if (c.Take("ftz"))
            throw c.Malformed("comparing with subnormal numbers as zero is not supported");
        return c.TakeType() switch
        {
            PtxType.U16 => Typed<ushort>(c, comparison, combine),
            PtxType.S16 => Typed<short>(c, comparison, combine),
            PtxType.U32 => Typed<uint>(c, comparison, combine),
            PtxType.S32 => Typed<int>(c, comparison, combine),
            PtxType.U64 => Typed<ulong>(c, comparison, combine),
            PtxType.S64 => Typed<long>(c, comparison, combine),
            PtxType.F16 => Typed<Half>(c, comparison, combine),
            PtxType.F32 => Typed<float>(c, comparison, combine),
            PtxType.F64 => Typed<double>(c, comparison, combine),
            _ => throw c.Unknown(),
        };
    }

    /// <summary>The unordered comparisons (`ltu` ...) hold where a number is missing: each is the opposite of an ordered one.</summary>
    static Instruction Typed<T>(DecodeContext c, string comparison, Combine combine) where T : unmanaged, INumber<T> => comparison switch
    {
        "eq" => Make<T, IsEqual>(c, combine),
        "ne" => Make<T, IsDifferent>(c, combine),
        "lt" or "lo" => Make<T, IsLess>(c, combine),
        "le" or "ls" => Make<T, IsLessOrEqual>(c, combine),
        "gt" or "hi" => Make<T, IsLess>(c, combine, swap: true),
        "ge" or "hs" => Make<T, IsLessOrEqual>(c, combine, swap: true),
        "equ" => Make<T, IsDifferent>(c, combine, opposite: true),
        "neu" => Make<T, IsEqual>(c, combine, opposite: true),
        "ltu" => Make<T, IsLessOrEqual>(c, combine, swap: true, opposite: true),
        "leu" => Make<T, IsLess>(c, combine, swap: true, opposite: true),
        "gtu" => Make<T, IsLessOrEqual>(c, combine, opposite: true),
        "geu" => Make<T, IsLess>(c, combine, opposite: true),
        "num" => Make<T, AreNumbers>(c, combine),
        "nan" => Make<T, AreNumbers>(c, combine, opposite: true),
        _ => throw c.Unknown(),
    };

    static unsafe SetPredicate<T, TComparison> Make<T, TComparison>(DecodeContext c, Combine combine, bool swap = false, bool opposite = false)
        where T : unmanaged, INumber<T> where TComparison : IComparison
    {
        var pair = c.Operand(0) as Pair;
        var p = c.Writable(pair?.First ?? c.Operand(0), 0);
        var q = pair == null ? null : c.Writable(pair.Second, 0);
        var (a, b) = (c.Source(swap ? 2 : 1, sizeof(T)), c.Source(swap ? 1 : 2, sizeof(T)));
        if (combine == Combine.None)
            return new SetPredicate<T, TComparison>(p, q, a, b, opposite, combine, null, false);
        var (with, negated) = c.Predicate(3);
        return new SetPredicate<T, TComparison>(p, q, a, b, opposite, combine, with, negated);
    }

    public static Instruction Select(DecodeContext c)
    {
        int size = c.TakeType().Size();
        var (d, a, b) = (c.Destination(0, size), c.Source(1, size), c.Source(2, size));
        var (p, negated) = c.Predicate(3);
        return size switch
        {
            2 => new Select<ushort>(d, a, b, p, negated),
            4 => new Select<uint>(d, a, b, p, negated),
            8 => new Select<ulong>(d, a, b, p, negated),
            _ => throw c.Unknown(),
        };
    }

    public static Instruction TestProperty(DecodeContext c)
    {
        string property = c.TakeNext();
        return c.TakeType() switch
        {
            PtxType.F32 => Property<float>(c, property),
            PtxType.F64 => Property<double>(c, property),
            _ => throw c.Unknown(),
        };
    }

    static unsafe TestProperty<T> Property<T>(DecodeContext c, string property) where T : unmanaged, IFloatingPointIeee754<T> =>
        new(c.Destination(0, 0), c.Source(1, sizeof(T)), property switch
        {
            "finite" => T.IsFinite,
            "infinite" => T.IsInfinity,
            "number" => x => !T.IsNaN(x),
            "notanumber" => T.IsNaN,
            "normal" => T.IsNormal,
            "subnormal" => T.IsSubnormal,
            _ => throw c.Unknown(),
        });
}
