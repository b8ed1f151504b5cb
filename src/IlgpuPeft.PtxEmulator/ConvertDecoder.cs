using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>cvt between all types that sm_80 has.</summary>
static class ConvertDecoder
{
    public static Instruction Convert(DecodeContext c)
    {
        string rounding = c.TakeAny("rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi", "rna") ?? "";
        bool flush = c.Take("ftz"), saturate = c.Take("sat"), rectify = c.Take("relu");
        if (c.Statement.Parts[^2] is "bf16" or "bf16x2" or "f16x2" or "tf32" || rectify)
            return Narrow(c, rounding, rectify, flush || saturate);
        var from = c.TakeType();
        var to = c.TakeType();
        if (flush && from != PtxType.F32 && to != PtxType.F32)
            throw c.Unknown();
        // bfloat16 widens to float only; sm_90 has the rest.
        if (rounding == "rna" || to == PtxType.Bf16x2 || to == PtxType.F16x2 || (from == PtxType.Bf16 && (to != PtxType.F32 || flush)))
            throw c.Unknown();
        CheckRounding(c, from, to, rounding);
        return from switch
        {
            PtxType.U8 => FromInteger<byte>(c, to, rounding, saturate),
            PtxType.S8 => FromInteger<sbyte>(c, to, rounding, saturate),
            PtxType.U16 => FromInteger<ushort>(c, to, rounding, saturate),
            PtxType.S16 => FromInteger<short>(c, to, rounding, saturate),
            PtxType.U32 => FromInteger<uint>(c, to, rounding, saturate),
            PtxType.S32 => FromInteger<int>(c, to, rounding, saturate),
            PtxType.U64 => FromInteger<ulong>(c, to, rounding, saturate),
            PtxType.S64 => FromInteger<long>(c, to, rounding, saturate),
            PtxType.F16 => FromFloat<Half>(c, to, rounding, flush, saturate, x => (double)x),
            PtxType.Bf16 => FromFloat<ushort>(c, to, rounding, flush, saturate, x => Floats.FromBf16(x)),
            PtxType.F32 when flush => FromFloat<float>(c, to, rounding, flush, saturate, x => Floats.Flush(x)),
            PtxType.F32 => FromFloat<float>(c, to, rounding, flush, saturate, x => x),
            PtxType.F64 => FromFloat<double>(c, to, rounding, flush, saturate, x => x),
            _ => throw c.Unknown(),
        };
    }

    /// <summary>A rounding mode must stand where something can be lost, and only there.</summary>
    static void CheckRounding(DecodeContext c, PtxType from, PtxType to, string rounding)
    {
        bool loses = to.IsFloat() && (!from.IsFloat() || to.Size() < from.Size());
        bool toInteger = from.IsFloat() && (!to.IsFloat() || (to == from && rounding != ""));
        bool given = rounding.Length == 2, givenInteger = rounding.Length == 3;
        if (given && !loses)
            throw c.Malformed($"'.{rounding}' has nothing to round");
        if (givenInteger && !toInteger)
            throw c.Malformed($"'.{rounding}' rounds to integers, and the result is none");
        if ((loses && !given) || (toInteger && !givenInteger))
            throw c.Malformed("a rounding mode is missing");
    }

    static Instruction FromInteger<T>(DecodeContext c, PtxType to, string rounding, bool saturate) where T : unmanaged, IBinaryInteger<T>
    {
        ulong Exact(T x, FloatFormat format)
        {
            ulong bits = new ExactNumber(BigInteger.CreateTruncating(x), 0).Round(format, Mode(rounding));
            return saturate ? format.Saturate(bits) : bits;
        }

        return to switch
        {
            PtxType.U8 => Make<T, byte>(c, saturate ? byte.CreateSaturating : byte.CreateTruncating),
            PtxType.S8 => Make<T, sbyte>(c, saturate ? sbyte.CreateSaturating : sbyte.CreateTruncating),
            PtxType.U16 => Make<T, ushort>(c, saturate ? ushort.CreateSaturating : ushort.CreateTruncating),
            PtxType.S16 => Make<T, short>(c, saturate ? short.CreateSaturating : short.CreateTruncating),
            PtxType.U32 => Make<T, uint>(c, saturate ? uint.CreateSaturating : uint.CreateTruncating),
            PtxType.S32 => Make<T, int>(c, saturate ? int.CreateSaturating : int.CreateTruncating),
            PtxType.U64 => Make<T, ulong>(c, saturate ? ulong.CreateSaturating : ulong.CreateTruncating),
            PtxType.S64 => Make<T, long>(c, saturate ? long.CreateSaturating : long.CreateTruncating),
            // To nearest, C# rounds once from any integer to float and double.
            PtxType.F32 when rounding == "rn" && !saturate => Make<T, float>(c, float.CreateTruncating),
            PtxType.F64 when rounding == "rn" && !saturate => Make<T, double>(c, double.CreateTruncating),
            PtxType.F16 => Make<T, ushort>(c, x => (ushort)Exact(x, FloatFormat.F16)),
            PtxType.F32 => Make<T, uint>(c, x => (uint)Exact(x, FloatFormat.F32)),
            PtxType.F64 => Make<T, ulong>(c, x => Exact(x, FloatFormat.F64)),
            _ => throw c.Unknown(),
        };
    }

    /// <summary>All formats pass through double, which holds them exactly.</summary>
    static Instruction FromFloat<T>(DecodeContext c, PtxType to, string rounding, bool flush, bool saturate, Func<T, double> widen) where T : unmanaged
    {
        Func<double, double> round = rounding switch
        {
            "rni" => x => Math.Round(x, MidpointRounding.ToEven),
            "rzi" => Math.Truncate,
            "rmi" => Math.Floor,
            "rpi" => Math.Ceiling,
            _ => x => x,
        };
        var mode = Mode(rounding);

        ulong Pattern(T x, FloatFormat format)
        {
            ulong bits = format.FromDouble(round(widen(x)), mode);
            bits = flush && format == FloatFormat.F32 ? format.Flush(bits) : bits;
            return saturate ? format.Saturate(bits) : bits;
        }

        return to switch
        {
            PtxType.U8 => Integer<byte>(),
            PtxType.S8 => Integer<sbyte>(),
            PtxType.U16 => Integer<ushort>(),
            PtxType.S16 => Integer<short>(),
            PtxType.U32 => Integer<uint>(),
            PtxType.S32 => Integer<int>(),
            PtxType.U64 => Integer<ulong>(),
            PtxType.S64 => Integer<long>(),
            PtxType.F16 => Make<T, ushort>(c, x => (ushort)Pattern(x, FloatFormat.F16)),
            PtxType.F32 => Make<T, uint>(c, x => (uint)Pattern(x, FloatFormat.F32)),
            PtxType.F64 => Make<T, ulong>(c, x => Pattern(x, FloatFormat.F64)),
            _ => throw c.Unknown(),
        };

        // Out of range saturates. No number gives 0, but where 64 bits are converted from or to, the top bit.
        Map<T, TTo> Integer<TTo>() where TTo : unmanaged, IBinaryInteger<TTo>
        {
            int bits = TTo.Zero.GetByteCount() * 8;
            var missing = bits == 64 || typeof(T) == typeof(double) ? TTo.One << (bits - 1) : TTo.Zero;
            return Make<T, TTo>(c, x => double.IsNaN(widen(x)) ? missing : TTo.CreateSaturating(round(widen(x))));
        }
    }

    /// <summary>
    /// From float to bfloat16 or half (with `.relu`), to a pair of them (`cvt.rn.bf16x2.f32 d, high, low`), or to tf32, a float with 10
    /// bits behind the point.
    /// </summary>
    static Instruction Narrow(DecodeContext c, string rounding, bool rectify, bool more)
    {
        string to = c.Statement.Parts[^2];
        if (more || c.TakeType() != PtxType.F32 || !c.Take(to))
            throw c.Unknown();
        if (to == "tf32")
            return rounding == "rna" && !rectify
                ? new Map<uint, uint>(InstructionClass.Move, c.Destination(0, 4), c.Source(1, 4), Floats.ToTf32)
                : throw c.Unknown();
        if (rounding is not ("rn" or "rz") || to is not ("f16" or "bf16" or "f16x2" or "bf16x2"))
            throw c.Unknown();
        var format = to is "bf16" or "bf16x2" ? FloatFormat.Bf16 : FloatFormat.F16;
        var mode = Mode(rounding);
        Func<float, ushort> plain = (format == FloatFormat.Bf16, mode) switch
        {
            (true, Rounding.Nearest) => Floats.ToBf16,
            _ => x => (ushort)format.FromDouble(x, mode),
        };
        Func<float, ushort> narrow = rectify ? x => (ushort)format.Rectify(plain(x)) : plain;
        if (to is "f16" or "bf16")
            return Make<float, ushort>(c, narrow);
        return new Map<float, float, uint>(
            InstructionClass.Move, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), (high, low) => ((uint)narrow(high) << 16) | narrow(low));
    }

    static Rounding Mode(string rounding) => rounding switch
    {
        "rz" => Rounding.Zero,
        "rm" => Rounding.Down,
        "rp" => Rounding.Up,
        _ => Rounding.Nearest,
    };

    static unsafe Map<T, TTo> Make<T, TTo>(DecodeContext c, Func<T, TTo> function) where T : unmanaged where TTo : unmanaged
    {
        var (d, a) = (c.AnyDestination(0), c.AnySource(1, Math.Max(2, sizeof(T))));
        if (d.LaneSize < Math.Max(2, sizeof(TTo)) || a.LaneSize < Math.Max(2, sizeof(T)))
            throw c.Malformed("a register is too narrow");
        return new Map<T, TTo>(InstructionClass.Move, d, a, function);
    }
}
