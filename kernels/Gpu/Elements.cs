using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>How a kernel stores activations; it always computes in 32-bit floats. Kernels are generic in it, so one source serves both widths.</summary>
/// <typeparam name="TSelf">The element itself.</typeparam>
interface IElement<TSelf> where TSelf : unmanaged, IElement<TSelf>
{
    static abstract DType Type { get; }

    /// <summary>The stored value, exactly.</summary>
    static abstract float Widen(TSelf value);

    /// <summary>The nearest value that can be stored, ties to even.</summary>
    static abstract TSelf Narrow(float value);
}

/// <summary>A 32-bit float.</summary>
readonly struct F32(float value) : IElement<F32>
{
    readonly float value = value;

    public static DType Type => DType.F32;

    public static float Widen(F32 element) => element.value;

    public static F32 Narrow(float value) => new(value);
}

/// <summary>bfloat16: the upper half of a 32-bit float.</summary>
readonly struct BF16(ushort bits) : IElement<BF16>
{
    readonly ushort bits = bits;

    public static DType Type => DType.BF16;

    public static float Widen(BF16 element) => Interop.IntAsFloat((uint)element.bits << 16);

    public static BF16 Narrow(float value) => new((ushort)Intrinsics.PackBf16(value, 0));
}

/// <summary>A 16-bit IEEE float. Weights may be stored so; activations are not.</summary>
readonly struct F16(ushort bits) : IElement<F16>
{
    readonly ushort bits = bits;

    public static DType Type => DType.F16;

    public static float Widen(F16 element) => Intrinsics.WidenF16(element.bits);

    public static F16 Narrow(float value) => new((ushort)Intrinsics.NarrowToF16(value));
}
