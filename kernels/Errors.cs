namespace IlgpuPeft.Kernels;

/// <summary>A kernel could not be compiled or launched. The message names the operation, the device, the shapes and the cause.</summary>
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

    public static void That(bool condition, string operation, string problem)
    {
        if (!condition)
        {
            throw new ArgumentException($"{operation}: {problem}");
        }
    }
}
