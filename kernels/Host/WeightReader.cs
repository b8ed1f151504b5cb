using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>Converts runs of a stored weight, of any format, to the element type that a product computes in.</summary>
static unsafe class WeightReader
{
    const int Chunk = 64; // elements converted at a time on the way to a type other than float

    /// <summary>Elements <paramref name="start"/> to <paramref name="start"/> + <paramref name="count"/> - 1 of the flattened matrix.</summary>
    public static void Read<T>(Weight weight, long start, int count, T* destination) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        if (typeof(T) == typeof(float))
        {
            ReadSingle(weight, start, count, (float*)destination);
        }
        else if (weight.Scales is null && weight.Values.Type == DType.F64)
        {
            new ReadOnlySpan<T>((T*)weight.Values.Address + start, count).CopyTo(new Span<T>(destination, count));
        }
        else
        {
            float* single = stackalloc float[Chunk];
            for (int done = 0; done < count; done += Chunk)
            {
                int now = Math.Min(Chunk, count - done);
                ReadSingle(weight, start + done, now, single);
                for (int i = 0; i < now; i++)
                {
                    destination[done + i] = T.CreateTruncating(single[i]);
                }
            }
        }
    }

    static void ReadSingle(Weight weight, long start, int count, float* destination)
    {
        if (weight.Scales is not null)
        {
            Nf4Decoder.Decode(weight, start, count, destination);
            return;
        }

        nint values = weight.Values.Address;
        switch (weight.Values.Type)
        {
            case DType.F32:
                new ReadOnlySpan<float>((float*)values + start, count).CopyTo(new Span<float>(destination, count));
                break;
            case DType.BF16:
                ReadBFloat16((ushort*)values + start, count, destination);
                break;
            case DType.F16:
                TensorPrimitives.ConvertToSingle(new ReadOnlySpan<Half>((Half*)values + start, count), new Span<float>(destination, count));
                break;
            case DType.F64:
                TensorPrimitives.ConvertTruncating(new ReadOnlySpan<double>((double*)values + start, count), new Span<float>(destination, count));
                break;
            default:
                throw new ArgumentException($"Weight: values are {weight.Values.Type}, expected F32, F64, BF16 or F16, or U8 with NF4 scales.", nameof(weight));
        }
    }

    static void ReadBFloat16(ushort* source, int count, float* destination)
    {
        int i = 0;
        for (; i <= count - Vector256<float>.Count; i += Vector256<float>.Count)
        {
            var (lower, upper) = Vector128.Widen(Vector128.Load(source + i));
            (Vector256.Create(lower, upper) << 16).AsSingle().Store(destination + i);
        }

        for (; i < count; i++)
        {
            destination[i] = BitConverter.UInt32BitsToSingle((uint)source[i] << 16);
        }
    }
}
