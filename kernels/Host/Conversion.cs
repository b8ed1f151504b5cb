using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

/// <summary>Reads and writes any floating element type as the type that is computed in, rounding once, to nearest even.</summary>
static unsafe class Conversion
{
    /// <summary>Elements <paramref name="start"/>, start + 1 ... of <paramref name="source"/>, one for each of <paramref name="destination"/>.</summary>
    public static void Read<T>(Slice source, long start, Span<T> destination) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Slice part = source.Range(start, destination.Length);
        switch (source.Type)
        {
            case DType.F32:
                TensorPrimitives.ConvertTruncating(new ReadOnlySpan<float>(part.Pointer<float>(), destination.Length), destination);
                break;
            case DType.F64:
                TensorPrimitives.ConvertTruncating(new ReadOnlySpan<double>(part.Pointer<double>(), destination.Length), destination);
                break;
            case DType.F16:
                TensorPrimitives.ConvertTruncating(new ReadOnlySpan<Half>(part.Pointer<Half>(), destination.Length), destination);
                break;
            case DType.BF16:
                ReadBFloat16(part.Pointer<ushort>(), destination);
                break;
            default:
                throw new ArgumentException($"Conversion: source is {source.Type}, expected a floating type.", nameof(source));
        }
    }

    /// <summary>The inverse of <see cref="Read"/>.</summary>
    public static void Write<T>(ReadOnlySpan<T> source, Slice destination, long start) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Slice part = destination.Range(start, source.Length);
        switch (destination.Type)
        {
            case DType.F32:
                TensorPrimitives.ConvertTruncating(source, new Span<float>(part.Pointer<float>(), source.Length));
                break;
            case DType.F64:
                TensorPrimitives.ConvertTruncating(source, new Span<double>(part.Pointer<double>(), source.Length));
                break;
            case DType.F16:
                TensorPrimitives.ConvertTruncating(source, new Span<Half>(part.Pointer<Half>(), source.Length));
                break;
            case DType.BF16:
                ushort* bits = part.Pointer<ushort>();
                for (int i = 0; i < source.Length; i++)
                {
                    bits[i] = typeof(T) == typeof(float) ? ToBFloat16(float.CreateTruncating(source[i])) : ToBFloat16(double.CreateTruncating(source[i]));
                }

                break;
            default:
                throw new ArgumentException($"Conversion: destination is {destination.Type}, expected a floating type.", nameof(destination));
        }
    }

    static void ReadBFloat16<T>(ushort* source, Span<T> destination) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int i = 0;
        if (typeof(T) == typeof(float))
        {
            fixed (T* to = destination)
            {
                for (; Avx512F.IsSupported && i <= destination.Length - Vector512<float>.Count; i += Vector512<float>.Count)
                {
                    (Avx512F.ConvertToVector512Int32(Vector256.Load(source + i)) << 16).AsSingle().Store((float*)to + i);
                }

                for (; Avx2.IsSupported && i <= destination.Length - Vector256<float>.Count; i += Vector256<float>.Count)
                {
                    (Avx2.ConvertToVector256Int32(source + i) << 16).AsSingle().Store((float*)to + i);
                }

                for (; i <= destination.Length - Vector128<float>.Count; i += Vector128<float>.Count)
                {
                    (Vector128.WidenLower(Vector128.CreateScalarUnsafe(*(ulong*)(source + i)).AsUInt16()) << 16).AsSingle().Store((float*)to + i);
                }
            }
        }

        for (; i < destination.Length; i++)
        {
            destination[i] = T.CreateTruncating(FromBFloat16(source[i]));
        }
    }

    /// <summary>A bfloat16 is the upper half of a float.</summary>
    public static float FromBFloat16(ushort bits) => BitConverter.UInt32BitsToSingle((uint)bits << 16);

    /// <summary>To nearest, ties to even; a NaN stays one, whatever its payload.</summary>
    public static ushort ToBFloat16(float value)
    {
        uint bits = BitConverter.SingleToUInt32Bits(value);
        return float.IsNaN(value) ? (ushort)((bits >> 16) | 0x40) : (ushort)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
    }

    /// <summary>
    /// One rounding, not two: the float in between is rounded to odd (toward zero, with the last bit set where anything was cut off), which keeps
    /// the second rounding from seeing a tie that was none.
    /// </summary>
    public static ushort ToBFloat16(double value)
    {
        float nearest = (float)value;
        if (nearest == value || !float.IsFinite(nearest))
        {
            return ToBFloat16(nearest);
        }

        float toZero = Math.Abs((double)nearest) <= Math.Abs(value) ? nearest : BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(nearest) - 1);
        return ToBFloat16(BitConverter.UInt32BitsToSingle(BitConverter.SingleToUInt32Bits(toZero) | 1));
    }
}
