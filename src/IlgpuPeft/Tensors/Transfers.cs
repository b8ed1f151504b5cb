using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tensors;

/// <summary>
/// Copies between host memory and device slices, converting to and from the device's own precision. Everything moves in pieces: a span holds less than 2 GiB,
/// an array of floats up to 8, and no conversion needs a second array of the whole.
/// </summary>
public static class Transfers
{
    /// <summary>Elements moved at a time: enough that a transfer outweighs its start, little beside a model.</summary>
    internal const int PieceElements = 1 << 22;

    /// <summary>Persistent memory that holds the given values unconverted.</summary>
    public static Slice Place<T>(this Backend backend, ReadOnlySpan<T> values, string owner) where T : unmanaged
    {
        var type = default(T) switch
        {
            float => DType.F32,
            double => DType.F64,
            int => DType.I32,
            byte => DType.U8,
            _ => throw new ArgumentException($"Place: no element type for {typeof(T).Name}.", nameof(values)),
        };
        var slice = backend.Allocate(type, values.Length, owner);
        foreach (var (first, count) in Pieces(values.Length, PieceElements))
        {
            backend.Upload(MemoryMarshal.AsBytes(values.Slice((int)first, count)), slice.Range(first, count));
        }

        return slice;
    }

    /// <summary>Writes F32 values to a slice of any floating type, rounding to nearest even.</summary>
    /// <exception cref="ArgumentException">The slice has another length, or is not of a floating type.</exception>
    public static void Write(this Backend backend, ReadOnlySpan<float> values, Slice destination) => Write(backend, values, destination, PieceElements);

    /// <summary>Writes F64 values to a slice of any floating type, rounding to nearest even by way of F32 where it is not F64.</summary>
    /// <exception cref="ArgumentException">The slice has another length, or is not of a floating type.</exception>
    public static void Write(this Backend backend, ReadOnlySpan<double> values, Slice destination)
    {
        if (destination.Type == DType.F64 && destination.Length == values.Length)
        {
            foreach (var (first, count) in Pieces(values.Length, PieceElements))
            {
                backend.Upload(MemoryMarshal.AsBytes(values.Slice((int)first, count)), destination.Range(first, count));
            }

            return;
        }

        var floats = new float[values.Length];
        TensorPrimitives.ConvertTruncating(values, floats);
        backend.Write(floats, destination);
    }

    /// <summary>Reads a slice of any floating type as F32.</summary>
    /// <exception cref="ArgumentException">The slice is of another type.</exception>
    public static float[] ReadFloats(this Backend backend, Slice source) => Read<float>(backend, source, PieceElements);

    /// <summary>Reads a slice of any floating type as F64.</summary>
    /// <exception cref="ArgumentException">The slice is of another type.</exception>
    public static double[] ReadDoubles(this Backend backend, Slice source) => Read<double>(backend, source, PieceElements);

    /// <summary>Reads a slice of I32.</summary>
    public static int[] ReadInts(this Backend backend, Slice source)
    {
        var values = new int[source.Length];
        backend.Download(source, MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }

    internal static void Write(Backend backend, ReadOnlySpan<float> values, Slice destination, int piece)
    {
        if (!FloatCodec.IsFloat(destination.Type) || destination.Length != values.Length)
        {
            throw new ArgumentException($"Write: the slice is {destination.Type} [{destination.Length}], expected a floating type and [{values.Length}].", nameof(destination));
        }

        var encoded = destination.Type == DType.F32 ? [] : new byte[Math.Min(piece, values.Length) * destination.Type.Size()];
        foreach (var (first, count) in Pieces(values.Length, piece))
        {
            var part = values.Slice((int)first, count);
            var bytes = MemoryMarshal.AsBytes(part);
            if (encoded.Length > 0)
            {
                FloatCodec.Encode(destination.Type, part, encoded.AsSpan(0, count * destination.Type.Size()));
                bytes = encoded.AsSpan(0, count * destination.Type.Size());
            }

            backend.Upload(bytes, destination.Range(first, count));
        }
    }

    internal static T[] Read<T>(Backend backend, Slice source, int piece) where T : unmanaged, INumber<T>
    {
        if (!FloatCodec.IsFloat(source.Type))
        {
            throw new ArgumentException($"Read: the slice is {source.Type}, expected a floating type.", nameof(source));
        }

        var values = new T[source.Length];
        bool same = source.Type == (typeof(T) == typeof(float) ? DType.F32 : DType.F64);
        var (encoded, floats) = same ? ([], []) : (new byte[Math.Min(piece, values.Length) * source.Type.Size()], new float[Math.Min(piece, values.Length)]);
        foreach (var (first, count) in Pieces(values.Length, piece))
        {
            var part = values.AsSpan((int)first, count);
            var range = source.Range(first, count);
            if (same)
            {
                backend.Download(range, MemoryMarshal.AsBytes(part));
                continue;
            }

            var bytes = encoded.AsSpan(0, count * source.Type.Size());
            backend.Download(range, bytes);
            FloatCodec.Decode(source.Type, bytes, floats.AsSpan(0, count));
            TensorPrimitives.ConvertTruncating<float, T>(floats.AsSpan(0, count), part);
        }

        return values;
    }

    /// <summary>The consecutive ranges of at most <paramref name="piece"/> that make up 0 to <paramref name="length"/> - 1.</summary>
    internal static IEnumerable<(long First, int Count)> Pieces(long length, int piece)
    {
        for (long first = 0; first < length; first += piece)
        {
            yield return (first, (int)Math.Min(piece, length - first));
        }
    }
}
