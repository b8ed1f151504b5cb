using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tensors;

/// <summary>Copies between host spans and device slices, converting to and from the device's own precision.</summary>
public static class Transfers
{
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
        backend.Upload(MemoryMarshal.AsBytes(values), slice);
        return slice;
    }

    /// <summary>Writes F32 values to a slice of F32 or F64.</summary>
    public static void Write(this Backend backend, ReadOnlySpan<float> values, Slice destination)
    {
        if (destination.Type == DType.F32)
        {
            backend.Upload(MemoryMarshal.AsBytes(values), destination);
            return;
        }

        var wide = new double[values.Length];
        System.Numerics.Tensors.TensorPrimitives.ConvertTruncating<float, double>(values, wide);
        backend.Upload(MemoryMarshal.AsBytes<double>(wide), destination);
    }

    /// <summary>Reads a slice of F32 or F64 as F32.</summary>
    public static float[] ReadFloats(this Backend backend, Slice source)
    {
        var values = new float[source.Length];
        if (source.Type == DType.F32)
        {
            backend.Download(source, MemoryMarshal.AsBytes(values.AsSpan()));
            return values;
        }

        System.Numerics.Tensors.TensorPrimitives.ConvertTruncating<double, float>(backend.ReadDoubles(source), values);
        return values;
    }

    /// <summary>Reads a slice of F32 or F64 as F64.</summary>
    public static double[] ReadDoubles(this Backend backend, Slice source)
    {
        var values = new double[source.Length];
        if (source.Type == DType.F64)
        {
            backend.Download(source, MemoryMarshal.AsBytes(values.AsSpan()));
            return values;
        }

        System.Numerics.Tensors.TensorPrimitives.ConvertTruncating<float, double>(backend.ReadFloats(source), values);
        return values;
    }

    /// <summary>Reads a dense matrix of any floating type as F32.</summary>
    /// <exception cref="ArgumentException">The matrix is NF4.</exception>
    public static float[] ReadDense(this Backend backend, Weight weight)
    {
        if (weight.Scales is not null)
        {
            throw new ArgumentException($"ReadDense: the matrix [{weight.Rows}, {weight.Columns}] is NF4, expected a dense one.", nameof(weight));
        }

        var wide = backend.Allocate(DType.F32, weight.Values.Length, "transfer");
        backend.Copy(weight.Values, wide);
        var values = backend.ReadFloats(wide);
        backend.Free(wide);
        return values;
    }

    /// <summary>Reads a slice of I32.</summary>
    public static int[] ReadInts(this Backend backend, Slice source)
    {
        var values = new int[source.Length];
        backend.Download(source, MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }
}
