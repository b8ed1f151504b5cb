using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.CompilerServices;
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

    /// <summary>Writes F32 values to a slice of F32 or F64.</summary>
    /// <exception cref="ArgumentException">The slice has another length or type.</exception>
    public static void Write(this Backend backend, ReadOnlySpan<float> values, Slice destination) => Write(backend, values, destination, PieceElements);

    /// <summary>Reads a slice of F32 or F64 as F32.</summary>
    /// <exception cref="ArgumentException">The slice is of another type.</exception>
    public static float[] ReadFloats(this Backend backend, Slice source) => Read<float, double>(backend, source, PieceElements);

    /// <summary>Reads a slice of F32 or F64 as F64.</summary>
    /// <exception cref="ArgumentException">The slice is of another type.</exception>
    public static double[] ReadDoubles(this Backend backend, Slice source) => Read<double, float>(backend, source, PieceElements);

    /// <summary>Reads a slice of I32.</summary>
    public static int[] ReadInts(this Backend backend, Slice source)
    {
        var values = new int[source.Length];
        backend.Download(source, MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }

    internal static void Write(Backend backend, ReadOnlySpan<float> values, Slice destination, int piece)
    {
        if (destination.Type is not (DType.F32 or DType.F64) || destination.Length != values.Length)
        {
            throw new ArgumentException($"Write: the slice is {destination.Type} [{destination.Length}], expected F32 or F64 [{values.Length}].", nameof(destination));
        }

        var wide = destination.Type == DType.F32 ? [] : new double[Math.Min(piece, values.Length)];
        foreach (var (first, count) in Pieces(values.Length, piece))
        {
            var part = values.Slice((int)first, count);
            var bytes = MemoryMarshal.AsBytes(part);
            if (wide.Length > 0)
            {
                TensorPrimitives.ConvertTruncating(part, wide);
                bytes = MemoryMarshal.AsBytes(wide.AsSpan(0, count));
            }

            backend.Upload(bytes, destination.Range(first, count));
        }
    }

    internal static T[] Read<T, TOther>(Backend backend, Slice source, int piece) where T : unmanaged, INumber<T> where TOther : unmanaged, INumber<TOther>
    {
        if (source.Type is not (DType.F32 or DType.F64))
        {
            throw new ArgumentException($"Read: the slice is {source.Type}, expected F32 or F64.", nameof(source));
        }

        var values = new T[source.Length];
        var other = source.Type.Size() == Unsafe.SizeOf<T>() ? [] : new TOther[Math.Min(piece, values.Length)];
        foreach (var (first, count) in Pieces(values.Length, piece))
        {
            var part = values.AsSpan((int)first, count);
            var range = source.Range(first, count);
            if (other.Length == 0)
            {
                backend.Download(range, MemoryMarshal.AsBytes(part));
                continue;
            }

            var stored = other.AsSpan(0, count);
            backend.Download(range, MemoryMarshal.AsBytes(stored));
            TensorPrimitives.ConvertTruncating<TOther, T>(stored, part);
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
