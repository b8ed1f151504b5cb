namespace IlgpuPeft.Kernels;

/// <summary>Element types of device memory. The names are those of the safetensors format.</summary>
public enum DType
{
    /// <summary>32-bit IEEE float.</summary>
    F32,

    /// <summary>64-bit IEEE float: the oracle backend computes in it.</summary>
    F64,

    /// <summary>bfloat16: the upper half of an F32.</summary>
    BF16,

    /// <summary>16-bit IEEE float.</summary>
    F16,

    /// <summary>Unsigned byte: packed 4-bit codes, 8-bit scales.</summary>
    U8,

    /// <summary>32-bit integer: token ids, positions, offsets.</summary>
    I32,

    /// <summary>64-bit integer, as some files store token ids.</summary>
    I64,
}

/// <summary>Sizes of <see cref="DType"/>.</summary>
public static class DTypes
{
    /// <summary>Bytes of one element.</summary>
    public static int Size(this DType type) => type switch
    {
        DType.U8 => 1,
        DType.BF16 or DType.F16 => 2,
        DType.F32 or DType.I32 => 4,
        _ => 8,
    };
}
