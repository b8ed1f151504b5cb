namespace IlgpuPeft.Kernels;

/// <summary>
/// A matrix [<paramref name="Rows"/>, <paramref name="Columns"/>] (output features, input features) as the linear operations read it:
/// dense in any floating type, or 4-bit NormalFloat that is dequantised while the product runs and never stored dense.
/// </summary>
/// <param name="Rows">Output features.</param>
/// <param name="Columns">Input features.</param>
/// <param name="Values">Dense: Rows·Columns elements, row-major. NF4: ⌈Rows·Columns/2⌉ bytes, the even element in the high nibble.</param>
/// <param name="Scales">Null for a dense matrix.</param>
public sealed record Weight(int Rows, int Columns, Slice Values, Nf4Scales? Scales = null)
{
    /// <summary>Bytes of device memory.</summary>
    public long Bytes => Values.Bytes + (Scales?.Bytes ?? 0);
}

/// <summary>
/// Block scales of an NF4 matrix, in bitsandbytes' layout: blocks run over the flattened row-major matrix and ignore row ends.
/// Single quantisation: <paramref name="AbsMax"/> is F32. Double: it is U8 and
/// absmax[i] = NestedMap[AbsMax[i]] · NestedAbsMax[i / 256] + NestedOffset, in F32.
/// </summary>
/// <param name="AbsMax">One scale per block: F32, or U8 with double quantisation.</param>
/// <param name="NestedAbsMax">F32, one per 256 blocks; empty without double quantisation.</param>
/// <param name="NestedMap">F32 [256], the 8-bit dynamic map; empty without double quantisation.</param>
/// <param name="NestedOffset">Mean of the block scales.</param>
/// <param name="BlockSize">Weights per block: 64 unless a checkpoint says otherwise.</param>
public sealed record Nf4Scales(Slice AbsMax, Slice NestedAbsMax = default, Slice NestedMap = default, float NestedOffset = 0, int BlockSize = 64)
{
    /// <summary>Whether the block scales are themselves quantised to 8 bits.</summary>
    public bool IsDouble => !NestedAbsMax.IsEmpty;

    /// <summary>Bytes of device memory.</summary>
    public long Bytes => AbsMax.Bytes + NestedAbsMax.Bytes + NestedMap.Bytes;
}
