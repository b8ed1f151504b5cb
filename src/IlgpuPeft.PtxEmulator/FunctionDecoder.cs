namespace IlgpuPeft.PtxEmulator;

/// <summary>Divisions, roots and reciprocals, rounded or approximate, and the functions that PTX only approximates.</summary>
static class FunctionDecoder
{
    public static Instruction Function(DecodeContext c)
    {
        if (c.Take("approx"))
            return Approximate(c);
        if (FloatDecoder.TakeRounding(c) is not { } rounding || c.Operation is not ("sqrt" or "rcp"))
            throw c.Unknown();
        bool root = c.Operation == "sqrt", flush = c.Take("ftz");
        return c.TakeType() switch
        {
            // The two that hot loops use.
            PtxType.F32 when rounding == Rounding.Nearest && !flush => Map<float>(c, root ? x => Floats.Canonical(MathF.Sqrt(x)) : x => Floats.Canonical(1 / x)),
            PtxType.F32 => Map<uint>(c, x => (uint)Rounded(FloatFormat.F32, x)),
            PtxType.F64 when !flush => Map<ulong>(c, x => Rounded(FloatFormat.F64, x)),
            _ => throw c.Unknown(),
        };

        ulong Rounded(FloatFormat format, ulong x)
        {
            x = flush ? format.Flush(x) : x;
            ulong result = root ? FloatArithmetic.SquareRoot(format, rounding, x) : FloatArithmetic.Divide(format, rounding, format.One, x);
            return flush ? format.Flush(result) : result;
        }
    }

    public static Instruction Divide(DecodeContext c)
    {
        var rounding = FloatDecoder.TakeRounding(c);
        string? approximate = rounding == null ? c.TakeAny("approx", "full") : null;
        if (rounding == null && approximate == null)
            return ArithmeticDecoder.DivideIntegers(c);
        bool flush = c.Take("ftz");
        return c.TakeType() switch
        {
            PtxType.F32 when approximate == "approx" => Quotient(Floats.DivideApproximately),
            PtxType.F32 when rounding is null or Rounding.Nearest => Quotient((a, b) => Floats.Canonical(a / b)),
            PtxType.F32 => new Map<uint, uint, uint>(InstructionClass.Special, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), (a, b) =>
                (uint)Flush(FloatArithmetic.Divide(FloatFormat.F32, rounding!.Value, Flush(a), Flush(b)))),
            PtxType.F64 when rounding != null && !flush => new Map<ulong, ulong, ulong>(
                InstructionClass.Special, c.Destination(0, 8), c.Source(1, 8), c.Source(2, 8), (a, b) =>
                    FloatArithmetic.Divide(FloatFormat.F64, rounding.Value, a, b)),
            _ => throw c.Unknown(),
        };

        ulong Flush(ulong x) => flush ? FloatFormat.F32.Flush(x) : x;

        Map<float, float, float> Quotient(Func<float, float, float> divide) => new(
            InstructionClass.Special, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4),
            flush ? (a, b) => Floats.Flush(divide(Floats.Flush(a), Floats.Flush(b))) : divide);
    }

    /// <summary>`copysign d, a, b`: the sign of a on the magnitude of b.</summary>
    public static Instruction CopySign(DecodeContext c) => c.TakeType() switch
    {
        PtxType.F32 => new Map<float, float, float>(
            InstructionClass.Float, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), (sign, value) => MathF.CopySign(value, sign)),
        PtxType.F64 => new Map<double, double, double>(
            InstructionClass.Float, c.Destination(0, 8), c.Source(1, 8), c.Source(2, 8), (sign, value) => Math.CopySign(value, sign)),
        _ => throw c.Unknown(),
    };

    static Instruction Approximate(DecodeContext c)
    {
        string name = c.Operation;
        bool flush = c.Take("ftz"), halves = name is "tanh" or "ex2";
        Func<float, float> function = name switch
        {
            "sqrt" => MathF.Sqrt,
            "rsqrt" => Floats.ReciprocalSquareRoot,
            "rcp" => x => 1 / x,
            "sin" => Floats.Sin,
            "cos" => Floats.Cos,
            "tanh" => Floats.Tanh,
            "lg2" => Floats.Log2,
            _ => Floats.Exp2,
        };
        return c.TakeType() switch
        {
            PtxType.F32 when flush && name != "tanh" => Map<float>(c, x => Floats.Flush(Floats.Canonical(function(Floats.Flush(x))))),
            PtxType.F32 when !flush => Map<float>(c, x => Floats.Canonical(function(x))),
            PtxType.F16 when halves && !flush => Map<ushort>(c, x => (ushort)Half(x)),
            PtxType.F16x2 when halves && !flush => Map<uint>(c, x => Half(x & 0xFFFF) | (Half(x >> 16) << 16)),
            // The gross approximations: the low word of the result is zero.
            PtxType.F64 when flush && name is "rcp" or "rsqrt" => Map<double>(c, x => Floats.HighWord(name == "rcp" ? 1 / x : Floats.ReciprocalSquareRoot(x))),
            PtxType.F64 when name == "rsqrt" => Map<double>(c, Floats.ReciprocalSquareRoot),
            _ => throw c.Unknown(),
        };

        uint Half(uint bits) => (uint)FloatFormat.F16.FromDouble(function((float)FloatFormat.F16.ToDouble(bits)), Rounding.Nearest);
    }

    static unsafe Map<T, T> Map<T>(DecodeContext c, Func<T, T> function) where T : unmanaged =>
        new(InstructionClass.Special, c.Destination(0, sizeof(T)), c.Source(1, sizeof(T)), function);
}
