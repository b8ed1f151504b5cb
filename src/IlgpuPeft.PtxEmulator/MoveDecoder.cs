using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>mov, also between one register and its parts, and cvt.</summary>
static class MoveDecoder
{
    public static Instruction Move(DecodeContext c)
    {
        var type = c.TakeType();
        if (type == PtxType.Pred)
            return new PredicateMove(c.Destination(0, 0), c.Source(1, 0));
        int size = type.Size();
        if (c.Operand(0) is Vector parts)
            return new Unpack([.. parts.Items.Select(item => c.Writable(item, size / parts.Items.Count))], c.Source(1, size));
        if (c.Operand(1) is Vector whole)
            return new Pack(c.Destination(0, size), [.. whole.Items.Select(item => c.Source(item, size / whole.Items.Count))]);
        var (d, a) = (c.Destination(0, size), c.Source(1, size));
        return size switch
        {
            2 => new Copy<ushort>(d, a),
            4 => new Copy<uint>(d, a),
            8 => new Copy<ulong>(d, a),
            _ => throw c.Unknown(),
        };
    }

    public static Instruction Convert(DecodeContext c)
    {
        string rounding = c.TakeAny("rn", "rni", "rzi", "rmi", "rpi", "rz") ?? "";
        bool flush = c.Take("ftz");
        if (c.Statement.Parts.Contains("bf16x2") || c.Statement.Parts.Contains("f16x2"))
            return ConvertPair(c, rounding);
        var from = c.TakeType();
        var to = c.TakeType();
        if (flush && from != PtxType.F32 && to != PtxType.F32)
            throw c.Unknown();
        // Between integers, and where every value fits, there is nothing to round.
        if (rounding == "rz" || (rounding == "rn" && !to.IsFloat()))
            throw c.Unknown();
        return from switch
        {
            PtxType.U8 => FromInteger<byte>(c, to),
            PtxType.S8 => FromInteger<sbyte>(c, to),
            PtxType.U16 => FromInteger<ushort>(c, to),
            PtxType.S16 => FromInteger<short>(c, to),
            PtxType.U32 => FromInteger<uint>(c, to),
            PtxType.S32 => FromInteger<int>(c, to),
            PtxType.U64 => FromInteger<ulong>(c, to),
            PtxType.S64 => FromInteger<long>(c, to),
            PtxType.F16 => FromFloat<Half>(c, to, rounding, x => (double)x),
            PtxType.Bf16 => FromFloat<ushort>(c, to, rounding, x => Floats.FromBf16(x)),
            PtxType.F32 when flush => FromFloat<float>(c, to, rounding, x => Floats.Flush(x)),
            PtxType.F32 => FromFloat<float>(c, to, rounding, x => x),
            PtxType.F64 => FromFloat<double>(c, to, rounding, x => x),
            _ => throw c.Unknown(),
        };
    }

    static Instruction FromInteger<T>(DecodeContext c, PtxType to) where T : unmanaged, IBinaryInteger<T> => to switch
    {
        PtxType.U8 => Make<T, byte>(c, byte.CreateTruncating),
        PtxType.S8 => Make<T, sbyte>(c, sbyte.CreateTruncating),
        PtxType.U16 => Make<T, ushort>(c, ushort.CreateTruncating),
        PtxType.S16 => Make<T, short>(c, short.CreateTruncating),
        PtxType.U32 => Make<T, uint>(c, uint.CreateTruncating),
        PtxType.S32 => Make<T, int>(c, int.CreateTruncating),
        PtxType.U64 => Make<T, ulong>(c, ulong.CreateTruncating),
        PtxType.S64 => Make<T, long>(c, long.CreateTruncating),
        // Through double, because C# would round twice on the way through float; larger integers are infinite halves anyway.
        PtxType.F16 => Make<T, Half>(c, x => (Half)double.CreateTruncating(x)),
        PtxType.F32 => Make<T, float>(c, float.CreateTruncating),
        PtxType.F64 => Make<T, double>(c, double.CreateTruncating),
        _ => throw c.Unknown(),
    };

    /// <summary>Halves and floats pass through double, which holds them exactly. Out of range saturates, no number gives zero.</summary>
    static Instruction FromFloat<T>(DecodeContext c, PtxType to, string rounding, Func<T, double> widen) where T : unmanaged
    {
        Func<double, double> round = rounding switch
        {
            "rni" => x => Math.Round(x, MidpointRounding.ToEven),
            "rzi" => Math.Truncate,
            "rmi" => Math.Floor,
            "rpi" => Math.Ceiling,
            _ => to.IsFloat() ? x => x : throw c.Malformed("a rounding mode is missing"),
        };
        return to switch
        {
            PtxType.U8 => Make<T, byte>(c, x => byte.CreateSaturating(round(widen(x)))),
            PtxType.S8 => Make<T, sbyte>(c, x => sbyte.CreateSaturating(round(widen(x)))),
            PtxType.U16 => Make<T, ushort>(c, x => ushort.CreateSaturating(round(widen(x)))),
            PtxType.S16 => Make<T, short>(c, x => short.CreateSaturating(round(widen(x)))),
            PtxType.U32 => Make<T, uint>(c, x => uint.CreateSaturating(round(widen(x)))),
            PtxType.S32 => Make<T, int>(c, x => int.CreateSaturating(round(widen(x)))),
            PtxType.U64 => Make<T, ulong>(c, x => ulong.CreateSaturating(round(widen(x)))),
            PtxType.S64 => Make<T, long>(c, x => long.CreateSaturating(round(widen(x)))),
            PtxType.F16 => Make<T, Half>(c, x => (Half)round(widen(x))),
            PtxType.Bf16 when typeof(T) == typeof(float) => Make<T, ushort>(c, x => Floats.ToBf16((float)widen(x))),
            PtxType.F32 => Make<T, float>(c, x => (float)round(widen(x))),
            PtxType.F64 => Make<T, double>(c, x => round(widen(x))),
            _ => throw c.Unknown(),
        };
    }

    /// <summary>`cvt.rn.bf16x2.f32 d, high, low`.</summary>
    static Instruction ConvertPair(DecodeContext c, string rounding)
    {
        bool brain = c.Take("bf16x2");
        if (rounding != "rn" || (!brain && !c.Take("f16x2")) || c.TakeType() != PtxType.F32)
            throw c.Unknown();
        Func<float, ushort> narrow = brain ? Floats.ToBf16 : x => BitConverter.HalfToUInt16Bits((Half)x);
        return new Map<float, float, uint>(
            InstructionClass.Move, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4), (high, low) => ((uint)narrow(high) << 16) | narrow(low));
    }

    static unsafe Map<T, TTo> Make<T, TTo>(DecodeContext c, Func<T, TTo> function) where T : unmanaged where TTo : unmanaged
    {
        var (d, a) = (c.AnyDestination(0), c.AnySource(1, Math.Max(2, sizeof(T))));
        if (d.LaneSize < Math.Max(2, sizeof(TTo)) || a.LaneSize < Math.Max(2, sizeof(T)))
            throw c.Malformed("a register is too narrow");
        return new Map<T, TTo>(InstructionClass.Move, d, a, function);
    }
}
