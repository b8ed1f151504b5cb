using System.Numerics;
using System.Numerics.Tensors;

namespace IlgpuPeft.Kernels;

/// <summary>Converts runs of a stored weight, of any format, to the element type that a product computes in.</summary>
static unsafe class WeightReader
{
    const int Chunk = 64; // elements converted at a time on the way to a type other than float

    /// <summary>Elements <paramref name="start"/> to <paramref name="start"/> + <paramref name="count"/> - 1 of the flattened matrix.</summary>
    public static void Read<T>(Weight weight, long start, int count, T* destination) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        if (weight.Scales is null)
        {
            Conversion.Read(weight.Values, start, new Span<T>(destination, count));
        }
        else if (typeof(T) == typeof(float))
        {
            Nf4Decoder.Decode(weight, start, count, (float*)destination);
        }
        else
        {
            float* single = stackalloc float[Chunk];
            for (int done = 0; done < count; done += Chunk)
            {
                int now = Math.Min(Chunk, count - done);
                Nf4Decoder.Decode(weight, start + done, now, single);
                TensorPrimitives.ConvertTruncating(new ReadOnlySpan<float>(single, now), new Span<T>(destination + done, now));
            }
        }
    }
}
