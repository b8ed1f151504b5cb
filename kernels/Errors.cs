namespace IlgpuPeft.Kernels;

/// <summary>A kernel could not be compiled or launched, or the device failed while it ran. The message names the device, the operation and shapes or the last kernels, and the cause.</summary>
public sealed class KernelException : Exception
{
    /// <summary>Creates the exception with a complete message.</summary>
    public KernelException(string message, Exception? inner = null) : base(message, inner)
    {
    }
}

/// <summary>The device has no room for an allocation. The message says what was asked, what is held, and which owner holds most.</summary>
public sealed class DeviceMemoryException : Exception
{
    /// <summary>Creates the exception with a complete message.</summary>
    public DeviceMemoryException(string message, Exception? inner = null) : base(message, inner)
    {
    }
}

/// <summary>Shape checks with one form of message: <c>where: what, expected ..., got ....</c></summary>
static class Expect
{
    public static void Length(string operation, string name, Slice slice, long expected)
    {
        if (slice.Length != expected)
        {
            throw new ArgumentException($"{operation}: {name} has {slice.Length} elements, expected {expected}.", name);
        }
    }

    public static void Type(string operation, string name, Slice slice, DType expected)
    {
        if (slice.Type != expected)
        {
            throw new ArgumentException($"{operation}: {name} is {slice.Type}, expected {expected}.", name);
        }
    }

    /// <summary>The slice holds what the operation computes in: float or double.</summary>
    public static void Element<T>(string operation, string name, Slice slice) => Type(operation, name, slice, typeof(T) == typeof(float) ? DType.F32 : DType.F64);

    /// <summary>An optional slice is left out, or holds <paramref name="length"/> elements of what the operation computes in.</summary>
    public static void Optional<T>(string operation, string name, Slice slice, long length) =>
        Optional(operation, name, slice, typeof(T) == typeof(float) ? DType.F32 : DType.F64, length);

    /// <summary>An optional slice is left out, or holds <paramref name="length"/> elements of a type.</summary>
    public static void Optional(string operation, string name, Slice slice, DType type, long length)
    {
        if (!slice.IsEmpty)
        {
            Elements(operation, type, length, (name, slice));
        }
    }

    /// <summary>Every slice holds <paramref name="length"/> elements of one type.</summary>
    public static void Elements(string operation, DType type, long length, params ReadOnlySpan<(string Name, Slice Slice)> slices)
    {
        foreach (var (name, slice) in slices)
        {
            Type(operation, name, slice, type);
            Length(operation, name, slice, length);
        }
    }

    /// <summary>The slices of a weight have the types and lengths that its extents and block size call for.</summary>
    public static void Weight(string operation, string name, Weight weight)
    {
        long elements = (long)weight.Rows * weight.Columns;
        if (weight.Rows <= 0 || weight.Columns <= 0)
        {
            throw new ArgumentException($"{operation}: {name} is [{weight.Rows}, {weight.Columns}], expected positive extents.", name);
        }

        if (weight.Scales is not { } scales)
        {
            var type = weight.Values.Type is DType.F64 or DType.BF16 or DType.F16 ? weight.Values.Type : DType.F32;
            Part(operation, name, nameof(weight.Values), weight.Values, type, elements);
            return;
        }

        if (!Nf4.IsBlockSize(scales.BlockSize))
        {
            throw new ArgumentException($"{operation}: {name} has blocks of {scales.BlockSize}, expected a power of two from 32 to 4096.", name);
        }

        long blocks = (elements + scales.BlockSize - 1) / scales.BlockSize;
        Part(operation, name, nameof(weight.Values), weight.Values, DType.U8, (elements + 1) / 2);
        Part(operation, name, nameof(scales.AbsMax), scales.AbsMax, scales.IsDouble ? DType.U8 : DType.F32, blocks);
        if (scales.IsDouble)
        {
            Part(operation, name, nameof(scales.NestedAbsMax), scales.NestedAbsMax, DType.F32, (blocks + Nf4.NestedBlockSize - 1) / Nf4.NestedBlockSize);
            Part(operation, name, nameof(scales.NestedMap), scales.NestedMap, DType.F32, 256);
        }
    }

    public static void That(bool condition, string operation, string problem)
    {
        if (!condition)
        {
            throw new ArgumentException($"{operation}: {problem}");
        }
    }

    static void Part(string operation, string name, string part, Slice slice, DType type, long length)
    {
        if (slice.Type != type || slice.Length != length)
        {
            throw new ArgumentException($"{operation}: {name}.{part} is {slice.Type} [{slice.Length}], expected {type} [{length}].", name);
        }
    }
}
