namespace IlgpuPeft.Kernels;

/// <summary>
/// The two moments of AdamW in 8 bits, in bitsandbytes' form: blocks of <see cref="BlockSize"/> elements, each with a scale; an element is the value of its code times the scale. Zeroed
/// memory holds moments of zero.
/// </summary>
/// <param name="First">U8 [n], codes of the signed map.</param>
/// <param name="FirstScales">F32, one per block.</param>
/// <param name="Second">U8 [n], codes of the unsigned map.</param>
/// <param name="SecondScales">F32, one per block.</param>
/// <param name="Maps">F32 [512], <see cref="MapValues"/>.</param>
public sealed record Moments8Bit(Slice First, Slice FirstScales, Slice Second, Slice SecondScales, Slice Maps)
{
    /// <summary>Elements that share a scale.</summary>
    public const int BlockSize = 256;

    static readonly float[] Values = [.. DynamicMap.Signed, .. DynamicMap.Unsigned];

    /// <summary>The values of the signed dynamic map (Dettmers et al. 2022, arXiv:2110.02861), then those of the unsigned one.</summary>
    public static ReadOnlySpan<float> MapValues => Values;

    /// <summary>Blocks of <paramref name="length"/> elements; the last may be short.</summary>
    public static long Blocks(long length) => (length + BlockSize - 1) / BlockSize;

    internal void Check(string operation, long length)
    {
        Expect.Elements(operation, DType.U8, length, (nameof(First), First), (nameof(Second), Second));
        Expect.Elements(operation, DType.F32, Blocks(length), (nameof(FirstScales), FirstScales), (nameof(SecondScales), SecondScales));
        Expect.Elements(operation, DType.F32, Values.Length, (nameof(Maps), Maps));
    }
}
