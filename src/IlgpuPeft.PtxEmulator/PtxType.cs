namespace IlgpuPeft.PtxEmulator;

/// <summary>The fundamental types of PTX. Untyped bits (`.b32`) are read as unsigned integers.</summary>
enum PtxType { Pred, U8, S8, U16, S16, U32, S32, U64, S64, F16, Bf16, F32, F64, F16x2, Bf16x2 }

static class PtxTypes
{
    /// <summary>The type that a suffix such as "s32" or "b64" names, or null.</summary>
    public static PtxType? Parse(string suffix) => suffix switch
    {
        "pred" => PtxType.Pred,
        "u8" or "b8" => PtxType.U8,
        "s8" => PtxType.S8,
        "u16" or "b16" => PtxType.U16,
        "s16" => PtxType.S16,
        "u32" or "b32" => PtxType.U32,
        "s32" => PtxType.S32,
        "u64" or "b64" => PtxType.U64,
        "s64" => PtxType.S64,
        "f16" => PtxType.F16,
        "bf16" => PtxType.Bf16,
        "f32" => PtxType.F32,
        "f64" => PtxType.F64,
        "f16x2" => PtxType.F16x2,
        "bf16x2" => PtxType.Bf16x2,
        _ => null,
    };

    /// <summary>Bytes of one value in memory. A predicate has no size there; in a register all 32 lanes are one 4-byte mask.</summary>
    public static int Size(this PtxType type) => type switch
    {
        PtxType.Pred => 0,
        PtxType.U8 or PtxType.S8 => 1,
        PtxType.U16 or PtxType.S16 or PtxType.F16 or PtxType.Bf16 => 2,
        PtxType.U32 or PtxType.S32 or PtxType.F32 or PtxType.F16x2 or PtxType.Bf16x2 => 4,
        _ => 8,
    };

    public static bool IsFloat(this PtxType type) => type >= PtxType.F16;
}
