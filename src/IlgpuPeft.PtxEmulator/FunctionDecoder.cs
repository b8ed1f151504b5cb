namespace IlgpuPeft.PtxEmulator;

/// <summary>Square roots, reciprocals and the functions that PTX only approximates.</summary>
static class FunctionDecoder
{
    public static Instruction Function(DecodeContext c)
    {
        string name = c.Operation;
        if (c.TakeAny("rn", "approx") == null)
            throw c.Unknown();
        bool flush = c.Take("ftz");
        switch (c.TakeType())
        {
            case PtxType.F16 when name is "tanh" or "ex2":
                Func<float, float> half = name == "tanh" ? Floats.Tanh : Floats.Exp2;
                return Map<Half>(c, x => (Half)half((float)x));
            case PtxType.F32:
                Func<float, float> f = name switch
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
                return Map<float>(c, flush ? x => Floats.Flush(f(Floats.Flush(x))) : f);
            case PtxType.F64:
                return name switch
                {
                    "sqrt" => Map<double>(c, Math.Sqrt),
                    "rsqrt" => Map<double>(c, Floats.ReciprocalSquareRoot),
                    "rcp" => Map<double>(c, x => 1 / x),
                    _ => throw c.Unknown(),
                };
            default:
                throw c.Unknown();
        }
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

    static unsafe Map<T, T> Map<T>(DecodeContext c, Func<T, T> function) where T : unmanaged =>
        new(InstructionClass.Special, c.Destination(0, sizeof(T)), c.Source(1, sizeof(T)), function);
}
