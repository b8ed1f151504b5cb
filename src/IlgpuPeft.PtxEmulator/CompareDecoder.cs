using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>setp, set, selp, slct, testp.</summary>
static class CompareDecoder
{
    /// <summary>What a comparison is about: two operands, where the result goes, and the predicate that it is combined with.</summary>
    sealed record Comparison(string Name, Register A, Register B, Register P, Register? Q, Combine Combine, Register? With, bool WithNegated);

    public static Instruction SetPredicate(DecodeContext c)
    {
        string name = c.TakeNext();
        var combine = TakeCombine(c);
        bool flush = c.Take("ftz");
        var type = c.TakeType();
        var pair = c.Operand(0) as Pair;
        var p = c.Writable(pair?.First ?? c.Operand(0), 0);
        var q = pair == null ? null : c.Writable(pair.Second, 0);
        return Compare(c, name, combine, flush, type, p, q);
    }

    /// <summary>`set`: a comparison whose result is all ones, or 1.0 as a float, or zero.</summary>
    public static Instruction SetNumber(DecodeContext c)
    {
        string name = c.TakeNext();
        var combine = TakeCombine(c);
        bool flush = c.Take("ftz");
        var type = c.TakeType();
        ulong yes = c.TakeType() switch
        {
            PtxType.U32 or PtxType.S32 => uint.MaxValue,
            PtxType.F32 => FloatFormat.F32.One,
            _ => throw c.Unknown(),
        };
        var p = c.Module.Registers.Add(0);
        return new Sequence(
            Compare(c, name, combine, flush, type, p, null),
            new Select<uint>(c.Destination(0, 4), c.Module.Registers.Constant(4, yes), c.Module.Registers.Constant(4, 0), p, negated: false));
    }

    public static Instruction Select(DecodeContext c)
    {
        int size = c.TakeType().Size();
        var (d, a, b) = (c.Destination(0, size), c.Source(1, size), c.Source(2, size));
        var (p, negated) = c.Predicate(3);
        return Select(c, size, d, a, b, p, negated);
    }

    /// <summary>`slct`: the first of two values where a third is not negative; -0 is not, and NaN is.</summary>
    public static Instruction SelectBySign(DecodeContext c)
    {
        bool flush = c.Take("ftz");
        var by = c.TakeType();
        int size = c.TakeType().Size();
        if (by is not (PtxType.S32 or PtxType.F32) || (flush && by != PtxType.F32))
            throw c.Unknown();
        Register p = c.Module.Registers.Add(0), zero = c.Module.Registers.Constant(4, 0);
        var test = new Comparison("ge", c.Source(3, 4), zero, p, null, Combine.None, null, false);
        // A subnormal becomes -0 at most, which is not negative either.
        var flushed = c.Module.Registers.Add(4);
        Instruction[] steps = flush
            ? [new Map<float, float>(InstructionClass.Float, flushed, test.A, Floats.Flush), Typed<float>(c, test with { A = flushed })]
            : [by == PtxType.S32 ? Typed<int>(c, test) : Typed<float>(c, test)];
        return new Sequence([.. steps, Select(c, size, c.Destination(0, size), c.Source(1, size), c.Source(2, size), p, negated: false)]);
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

    static Combine TakeCombine(DecodeContext c) =>
        c.TakeAny("and", "or", "xor") switch { "and" => Combine.And, "or" => Combine.Or, "xor" => Combine.Xor, _ => Combine.None };

    static Instruction Compare(DecodeContext c, string name, Combine combine, bool flush, PtxType type, Register p, Register? q)
    {
        if (flush && type is not (PtxType.F32 or PtxType.F16 or PtxType.F16x2))
            throw c.Unknown();
        int size = type.Size();
        var (with, negated) = combine == Combine.None ? (null, false) : c.Predicate(3);
        var all = new Comparison(name, c.Source(1, size), c.Source(2, size), p, q, combine, with, negated);
        if (type == PtxType.F16x2)
            return ComparePairs(c, all, flush);
        if (!flush)
            return Typed(c, all, type);
        var registers = c.Module.Registers;
        var plain = all with { A = registers.Add(size), B = registers.Add(size) };
        return new Sequence(Flush(all.A, plain.A), Flush(all.B, plain.B), Typed(c, plain, type));
    }

    /// <summary>Of two pairs of halves, p is about the low ones and q about the high ones.</summary>
    static Sequence ComparePairs(DecodeContext c, Comparison all, bool flush)
    {
        if (all.Q == null)
            throw c.Malformed("two results are needed, as p|q");
        var registers = c.Module.Registers;
        Register[] a = [registers.Add(2), registers.Add(2)], b = [registers.Add(2), registers.Add(2)];
        Instruction[] flushes = flush ? [.. a.Concat(b).Select(half => Flush(half, half))] : [];
        return new Sequence(
        [
            new Unpack(a, all.A), new Unpack(b, all.B), .. flushes,
            Typed<Half>(c, all with { A = a[0], B = b[0], Q = null }), Typed<Half>(c, all with { A = a[1], B = b[1], P = all.Q, Q = null }),
        ]);
    }

    static Instruction Flush(Register from, Register to) => to.LaneSize == 2
        ? new Map<ushort, ushort>(InstructionClass.Float, to, from, x => (ushort)FloatFormat.F16.Flush(x))
        : new Map<float, float>(InstructionClass.Float, to, from, Floats.Flush);

    static Instruction Typed(DecodeContext c, Comparison comparison, PtxType type) => type switch
    {
        PtxType.U16 => Typed<ushort>(c, comparison),
        PtxType.S16 => Typed<short>(c, comparison),
        PtxType.U32 => Typed<uint>(c, comparison),
        PtxType.S32 => Typed<int>(c, comparison),
        PtxType.U64 => Typed<ulong>(c, comparison),
        PtxType.S64 => Typed<long>(c, comparison),
        PtxType.F16 => Typed<Half>(c, comparison),
        PtxType.F32 => Typed<float>(c, comparison),
        PtxType.F64 => Typed<double>(c, comparison),
        _ => throw c.Unknown(),
    };

    /// <summary>The unordered comparisons (`ltu` ...) hold where a number is missing: each is the opposite of an ordered one.</summary>
    static Instruction Typed<T>(DecodeContext c, Comparison of) where T : unmanaged, INumber<T> => of.Name switch
    {
        "eq" => Make<T, IsEqual>(of),
        "ne" => Make<T, IsDifferent>(of),
        "lt" or "lo" => Make<T, IsLess>(of),
        "le" or "ls" => Make<T, IsLessOrEqual>(of),
        "gt" or "hi" => Make<T, IsLess>(of, swap: true),
        "ge" or "hs" => Make<T, IsLessOrEqual>(of, swap: true),
        "equ" => Make<T, IsDifferent>(of, opposite: true),
        "neu" => Make<T, IsEqual>(of, opposite: true),
        "ltu" => Make<T, IsLessOrEqual>(of, swap: true, opposite: true),
        "leu" => Make<T, IsLess>(of, swap: true, opposite: true),
        "gtu" => Make<T, IsLessOrEqual>(of, opposite: true),
        "geu" => Make<T, IsLess>(of, opposite: true),
        "num" => Make<T, AreNumbers>(of),
        "nan" => Make<T, AreNumbers>(of, opposite: true),
        _ => throw c.Unknown(),
    };

    static SetPredicate<T, TComparison> Make<T, TComparison>(Comparison of, bool swap = false, bool opposite = false)
        where T : unmanaged, INumber<T> where TComparison : IComparison =>
        new(of.P, of.Q, swap ? of.B : of.A, swap ? of.A : of.B, opposite, of.Combine, of.With, of.WithNegated);

    static Instruction Select(DecodeContext c, int size, Register d, Register a, Register b, Register p, bool negated) => size switch
    {
        2 => new Select<ushort>(d, a, b, p, negated),
        4 => new Select<uint>(d, a, b, p, negated),
        8 => new Select<ulong>(d, a, b, p, negated),
        _ => throw c.Unknown(),
    };

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

/// <summary>One PTX instruction that is several steps here.</summary>
sealed class Sequence(params Instruction[] steps) : Instruction
{
    public override InstructionClass Class => steps[^1].Class;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        foreach (var step in steps)
            step.Execute(warp, mask);
    }
}
