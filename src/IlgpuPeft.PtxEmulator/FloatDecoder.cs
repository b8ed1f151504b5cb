namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// add, sub, mul, fma, min, max, neg and abs of numbers, in the forms that <see cref="ArithmeticDecoder"/> has no vectors for: halves,
/// bfloat16s and pairs of them, directed rounding, `.ftz`, `.sat`, `.relu` and `.NaN`.
/// </summary>
static class FloatDecoder
{
    /// <summary>What an operation does with bit patterns of a format.</summary>
    delegate ulong Operation(FloatFormat format, Rounding rounding, ulong a, ulong b, ulong c);

    /// <summary>Whether the statement is one of those forms.</summary>
    public static bool Handles(DecodeContext c) => PtxTypes.Parse(c.Statement.Parts[^1]) switch
    {
        PtxType.F16 or PtxType.F16x2 or PtxType.Bf16 or PtxType.Bf16x2 => true,
        PtxType.F32 or PtxType.F64 => Array.Exists(c.Statement.Parts[1..^1], part => part != "rn"),
        _ => false,
    };

    public static Instruction Add(DecodeContext c) => Rounded(c, 2, (f, r, a, b, _) => FloatArithmetic.Add(f, r, a, b));

    public static Instruction Subtract(DecodeContext c) => Rounded(c, 2, (f, r, a, b, _) => FloatArithmetic.Subtract(f, r, a, b));

    public static Instruction Multiply(DecodeContext c) => Rounded(c, 2, (f, r, a, b, _) => FloatArithmetic.Multiply(f, r, a, b));

    public static Instruction MultiplyAdd(DecodeContext c) => Rounded(c, 3, FloatArithmetic.MultiplyAdd);

    public static Instruction Minimum(DecodeContext c)
    {
        bool propagate = c.Take("NaN");
        return Decode(c, 2, Rounding.Nearest, (f, _, a, b, _) => FloatArithmetic.Minimum(f, propagate, a, b));
    }

    public static Instruction Maximum(DecodeContext c)
    {
        bool propagate = c.Take("NaN");
        return Decode(c, 2, Rounding.Nearest, (f, _, a, b, _) => FloatArithmetic.Maximum(f, propagate, a, b));
    }

    public static Instruction Negate(DecodeContext c) => Decode(c, 1, Rounding.Nearest, (f, _, a, _, _) => f.IsNaN(a) ? f.NaN : a ^ f.Sign);

    public static Instruction Absolute(DecodeContext c) => Decode(c, 1, Rounding.Nearest, (f, _, a, _, _) => f.IsNaN(a) ? f.NaN : a & ~f.Sign);

    /// <summary>Takes `.rn`, `.rz`, `.rm` or `.rp`.</summary>
    public static Rounding? TakeRounding(DecodeContext c) => c.TakeAny("rn", "rz", "rm", "rp") switch
    {
        "rn" => Rounding.Nearest,
        "rz" => Rounding.Zero,
        "rm" => Rounding.Down,
        "rp" => Rounding.Up,
        _ => null,
    };

    static Instruction Rounded(DecodeContext c, int operands, Operation operation)
    {
        var rounding = TakeRounding(c);
        var type = PtxTypes.Parse(c.Statement.Parts[^1]);
        // sm_80 has of bfloat16 the fused form only; the others came with sm_90.
        if ((operands == 2 && type is PtxType.Bf16 or PtxType.Bf16x2) || (operands == 3 && rounding == null))
            throw c.Unknown();
        if (type is not (PtxType.F32 or PtxType.F64) && rounding is not (null or Rounding.Nearest))
            throw c.Unknown();
        return Decode(c, operands, rounding ?? Rounding.Nearest, operation);
    }

    static Instruction Decode(DecodeContext c, int operands, Rounding rounding, Operation operation)
    {
        bool flush = c.Take("ftz"), saturate = c.Take("sat"), rectify = c.Take("relu");
        var type = c.TakeType();
        bool rounds = c.Operation is "add" or "sub" or "mul" or "fma" or "mad";
        if ((flush && type is PtxType.F64 or PtxType.Bf16 or PtxType.Bf16x2)
            || (saturate && (!rounds || type is not (PtxType.F32 or PtxType.F16 or PtxType.F16x2)))
            || (rectify && (c.Operation != "fma" || type is PtxType.F32 or PtxType.F64 || saturate)))
            throw c.Unknown();
        var format = type switch
        {
            PtxType.F16 or PtxType.F16x2 => FloatFormat.F16,
            PtxType.Bf16 or PtxType.Bf16x2 => FloatFormat.Bf16,
            PtxType.F32 => FloatFormat.F32,
            _ => FloatFormat.F64,
        };

        ulong Apply(ulong a, ulong b, ulong s)
        {
            if (!flush && !saturate && !rectify)
                return operation(format, rounding, a, b, s);
            if (flush)
                (a, b, s) = (format.Flush(a), format.Flush(b), format.Flush(s));
            ulong result = operation(format, rounding, a, b, s);
            result = flush ? format.Flush(result) : result;
            return saturate ? format.Saturate(result) : rectify ? format.Rectify(result) : result;
        }

        int size = type.Size();
        Register d = c.Destination(0, size), x = c.Source(1, size);
        Register y = operands > 1 ? c.Source(2, size) : x, z = operands > 2 ? c.Source(3, size) : x;
        return (size, format.Size) switch
        {
            (2, _) => Map<ushort>((a, b, s) => (ushort)Apply(a, b, s)),
            (4, 2) => Map<uint>((a, b, s) =>
                (uint)Apply(a & 0xFFFF, b & 0xFFFF, s & 0xFFFF) | ((uint)Apply(a >> 16, b >> 16, s >> 16) << 16)),
            (4, _) => Map<uint>((a, b, s) => (uint)Apply(a, b, s)),
            _ => Map<ulong>(Apply),
        };

        Map<T, T, T, T> Map<T>(Func<T, T, T, T> function) where T : unmanaged => new(InstructionClass.Float, d, x, y, z, function);
    }
}
