using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>add, sub, mul, mad, fma, min, max, neg and abs without modifiers; div and rem of integers.</summary>
static class ArithmeticDecoder
{
    public static Instruction Numbers<TOperation>(DecodeContext c) where TOperation : INumberOperation
    {
        bool rounded = c.Take("rn");
        var type = c.TakeType();
        if (rounded && !type.IsFloat())
            throw c.Unknown();
        int size = type.Size();
        var (d, a, b) = (c.Destination(0, size), c.Source(1, size), c.Source(2, size));
        return type switch
        {
            PtxType.U16 => new Binary<ushort, OfNumbers<ushort, TOperation>>(InstructionClass.Integer, d, a, b),
            PtxType.S16 => new Binary<short, OfNumbers<short, TOperation>>(InstructionClass.Integer, d, a, b),
            PtxType.U32 => new Binary<uint, OfNumbers<uint, TOperation>>(InstructionClass.Integer, d, a, b),
            PtxType.S32 => new Binary<int, OfNumbers<int, TOperation>>(InstructionClass.Integer, d, a, b),
            PtxType.U64 => new Binary<ulong, OfNumbers<ulong, TOperation>>(InstructionClass.Integer, d, a, b),
            PtxType.S64 => new Binary<long, OfNumbers<long, TOperation>>(InstructionClass.Integer, d, a, b),
            PtxType.F32 => new Binary<float, OfFloats<TOperation>>(InstructionClass.Float, d, a, b),
            PtxType.F64 => new Binary<double, OfNumbers<double, TOperation>>(InstructionClass.Float, d, a, b),
            _ => throw c.Unknown(),
        };
    }

    public static Instruction Multiply(DecodeContext c)
    {
        string? part = c.TakeAny("lo", "wide", "hi");
        if (part is null or "lo")
            return Numbers<Multiply>(c);
        var type = c.TakeType();
        int size = type.Size();
        var (d, a, b) = (c.Destination(0, part == "wide" ? 2 * size : size), c.Source(1, size), c.Source(2, size));
        if (part == "wide")
            return type switch
            {
                PtxType.U16 => Map<ushort, uint>((x, y) => (uint)x * y),
                PtxType.S16 => Map<short, int>((x, y) => x * y),
                PtxType.U32 => Map<uint, ulong>((x, y) => (ulong)x * y),
                PtxType.S32 => Map<int, long>((x, y) => (long)x * y),
                _ => throw c.Unknown(),
            };
        return type switch
        {
            PtxType.U16 => Map<ushort, ushort>(Integers.MultiplyHigh),
            PtxType.S16 => Map<short, short>(Integers.MultiplyHigh),
            PtxType.U32 => Map<uint, uint>(Integers.MultiplyHigh),
            PtxType.S32 => Map<int, int>(Integers.MultiplyHigh),
            PtxType.U64 => Map<ulong, ulong>(Integers.MultiplyHigh),
            PtxType.S64 => Map<long, long>(Integers.MultiplyHigh),
            _ => throw c.Unknown(),
        };

        Map<T, T, TTo> Map<T, TTo>(Func<T, T, TTo> function) where T : unmanaged where TTo : unmanaged =>
            new(InstructionClass.Integer, d, a, b, function);
    }

    public static Instruction MultiplyAdd(DecodeContext c)
    {
        string part = c.TakeAny("lo", "wide", "hi") ?? throw c.Unknown();
        var type = c.TakeType();
        int size = type.Size(), wide = part == "wide" ? 2 * size : size;
        var (d, x, y, z) = (c.Destination(0, wide), c.Source(1, size), c.Source(2, size), c.Source(3, wide));
        return (part, type) switch
        {
            ("lo", PtxType.U16 or PtxType.S16) => Map<ushort, ushort>((a, b, s) => (ushort)((a * b) + s)),
            ("lo", PtxType.U32 or PtxType.S32) => Map<uint, uint>((a, b, s) => (a * b) + s),
            ("lo", PtxType.U64 or PtxType.S64) => Map<ulong, ulong>((a, b, s) => (a * b) + s),
            ("wide", PtxType.U16) => Map<ushort, uint>((a, b, s) => ((uint)a * b) + s),
            ("wide", PtxType.S16) => Map<short, int>((a, b, s) => (a * b) + s),
            ("wide", PtxType.U32) => Map<uint, ulong>((a, b, s) => ((ulong)a * b) + s),
            ("wide", PtxType.S32) => Map<int, long>((a, b, s) => ((long)a * b) + s),
            ("hi", PtxType.U32) => Map<uint, uint>((a, b, s) => Integers.MultiplyHigh(a, b) + s),
            ("hi", PtxType.S32) => Map<int, int>((a, b, s) => Integers.MultiplyHigh(a, b) + s),
            ("hi", PtxType.U64) => Map<ulong, ulong>((a, b, s) => Integers.MultiplyHigh(a, b) + s),
            ("hi", PtxType.S64) => Map<long, long>((a, b, s) => Integers.MultiplyHigh(a, b) + s),
            _ => throw c.Unknown(),
        };

        Map<T, T, TTo, TTo> Map<T, TTo>(Func<T, T, TTo, TTo> function) where T : unmanaged where TTo : unmanaged =>
            new(InstructionClass.Integer, d, x, y, z, function);
    }

    public static Instruction FusedMultiplyAdd(DecodeContext c)
    {
        if (!c.Take("rn"))
            throw c.Unknown();
        var type = c.TakeType();
        int size = type.Size();
        var (d, x, y, z) = (c.Destination(0, size), c.Source(1, size), c.Source(2, size), c.Source(3, size));
        return type switch
        {
            PtxType.F32 => new Map<float, float, float, float>(
                InstructionClass.Float, d, x, y, z, (a, b, s) => Floats.Canonical(MathF.FusedMultiplyAdd(a, b, s))),
            PtxType.F64 => new Map<double, double, double, double>(InstructionClass.Float, d, x, y, z, Math.FusedMultiplyAdd),
            _ => throw c.Unknown(),
        };
    }

    public static Instruction DivideIntegers(DecodeContext c) => c.TakeType() switch
    {
        PtxType.U16 => Integer<ushort>(c, Integers.Divide),
        PtxType.S16 => Integer<short>(c, Integers.Divide),
        PtxType.U32 => Integer<uint>(c, Integers.Divide),
        PtxType.S32 => Integer<int>(c, Integers.Divide),
        PtxType.U64 => Integer<ulong>(c, Integers.Divide),
        PtxType.S64 => Integer<long>(c, Integers.Divide),
        _ => throw c.Unknown(),
    };

    public static Instruction Remainder(DecodeContext c) => c.TakeType() switch
    {
        PtxType.U16 => Integer<ushort>(c, Integers.Remainder),
        PtxType.S16 => Integer<short>(c, Integers.Remainder),
        PtxType.U32 => Integer<uint>(c, Integers.Remainder),
        PtxType.S32 => Integer<int>(c, Integers.Remainder),
        PtxType.U64 => Integer<ulong>(c, Integers.Remainder),
        PtxType.S64 => Integer<long>(c, Integers.Remainder),
        _ => throw c.Unknown(),
    };

    public static Instruction Negate(DecodeContext c) => Unary(c, new Negation());

    public static Instruction Absolute(DecodeContext c) => Unary(c, new AbsoluteValue());

    interface IUnary
    {
        T Of<T>(T a) where T : unmanaged, INumber<T>;
    }

    readonly struct Negation : IUnary
    {
        public T Of<T>(T a) where T : unmanaged, INumber<T> => -a;
    }

    readonly struct AbsoluteValue : IUnary
    {
        // Not T.Abs, which refuses the most negative integer; PTX leaves it as it is.
        public T Of<T>(T a) where T : unmanaged, INumber<T> => T.IsNegative(a) ? -a : a;
    }

    static Instruction Unary<TUnary>(DecodeContext c, TUnary unary) where TUnary : struct, IUnary
    {
        var type = c.TakeType();
        int size = type.Size();
        var (d, a) = (c.Destination(0, size), c.Source(1, size));
        return type switch
        {
            PtxType.S16 => new Map<short, short>(InstructionClass.Integer, d, a, unary.Of),
            PtxType.S32 => new Map<int, int>(InstructionClass.Integer, d, a, unary.Of),
            PtxType.S64 => new Map<long, long>(InstructionClass.Integer, d, a, unary.Of),
            PtxType.F32 => new Map<float, float>(InstructionClass.Float, d, a, unary.Of),
            PtxType.F64 => new Map<double, double>(InstructionClass.Float, d, a, unary.Of),
            _ => throw c.Unknown(),
        };
    }

    static unsafe Map<T, T, T> Integer<T>(DecodeContext c, Func<T, T, T> function) where T : unmanaged =>
        new(InstructionClass.Integer, c.Destination(0, sizeof(T)), c.Source(1, sizeof(T)), c.Source(2, sizeof(T)), function);
}
