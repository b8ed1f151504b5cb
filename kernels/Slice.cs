using System.Runtime.CompilerServices;

namespace IlgpuPeft.Kernels;

/// <summary>
/// A typed range of device memory: what every backend operation reads and writes. Shapes are the operation's business.
/// </summary>
/// <param name="Address">Address of the first element: a host pointer on <c>cpu</c>, a device pointer on a GPU.</param>
/// <param name="Length">Number of elements.</param>
/// <param name="Type">Element type.</param>
public readonly record struct Slice(nint Address, long Length, DType Type)
{
    /// <summary>True for <c>default</c>: an optional argument that was left out.</summary>
    public bool IsEmpty => Address == 0;

    /// <summary>Size in bytes.</summary>
    public long Bytes => Length * Type.Size();

    /// <summary>The <paramref name="length"/> elements from <paramref name="start"/>.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The range leaves this slice.</exception>
    public Slice Range(long start, long length)
    {
        if (start < 0 || length < 0 || start + length > Length)
        {
            throw new ArgumentOutOfRangeException(nameof(start), $"Slice: range [{start}, {start + length}) leaves a slice of {Length} elements.");
        }

        return new Slice(Address + (nint)(start * Type.Size()), length, Type);
    }

    /// <summary>The elements as a host pointer. Only the host backend may call this.</summary>
    internal unsafe T* Pointer<T>() where T : unmanaged
    {
        System.Diagnostics.Debug.Assert(Unsafe.SizeOf<T>() == Type.Size() || IsEmpty, "element size");
        return (T*)Address;
    }
}
