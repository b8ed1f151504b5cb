using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;
using IlgpuPeft.PtxEmulator;

namespace IlgpuPeft.Kernels;

/// <summary>The allocations of one accelerator, found again by address: what turns a <see cref="Slice"/> into the view that ILGPU launches and copies with.</summary>
sealed class DeviceBuffers(Accelerator accelerator, AcceleratorStream stream, DeviceFaults faults)
{
    readonly List<nint> starts = []; // ascending
    readonly List<MemoryBuffer1D<byte, Stride1D.Dense>> buffers = []; // in the same order

    /// <summary>How many allocations were ever made.</summary>
    public long Allocations { get; private set; }

    /// <summary>Bytes that the device has free and has in all; null where that is the host's memory.</summary>
    /// <exception cref="KernelException">The device failed.</exception>
    public (long Free, long Total)? Room => faults.Ask<(long, long)?>("a question for free memory", () => accelerator switch
    {
        CudaAccelerator cuda => (cuda.GetFreeMemory(), cuda.MemorySize),
        PtxEmulatorAccelerator emulator => (emulator.FreeMemory, emulator.MemorySize),
        _ => null,
    });

    /// <summary>Reserves zeroed bytes, aligned to 256.</summary>
    /// <exception cref="OutOfMemoryException">The device has no room.</exception>
    /// <exception cref="KernelException">The device failed.</exception>
    public nint Allocate(long bytes)
    {
        MemoryBuffer1D<byte, Stride1D.Dense>? buffer = null;
        try
        {
            buffer = accelerator.Allocate1D<byte>(bytes);
            buffer.View.MemSetToZero(stream);
        }
        catch (CudaException cause) when (buffer is null && cause.Error == nameof(CudaError.CUDA_ERROR_OUT_OF_MEMORY))
        {
            throw new OutOfMemoryException(cause.Message, cause);
        }
        catch (AcceleratorException cause)
        {
            var fault = faults.Of($"an allocation of {bytes} bytes", cause);
            Release(buffer);
            throw fault;
        }

        int place = ~starts.BinarySearch(buffer.NativePtr);
        starts.Insert(place, buffer.NativePtr);
        buffers.Insert(place, buffer);
        Allocations++;
        return buffer.NativePtr;
    }

    /// <summary>Gives memory back. That the device failed is kept for <see cref="DeviceFaults.Tell"/>: whoever frees one thing has others to free.</summary>
    public void Free(nint address)
    {
        int place = starts.BinarySearch(address);
        var buffer = buffers[place];
        starts.RemoveAt(place);
        buffers.RemoveAt(place);
        Release(buffer);
    }

    /// <summary>The elements of a slice; none for a slice that was left out.</summary>
    /// <exception cref="ArgumentException">The slice lies outside what is allocated: it was freed, or belongs to another device.</exception>
    public ArrayView<T> View<T>(Slice slice) where T : unmanaged
    {
        if (slice.IsEmpty)
        {
            return default;
        }

        var (buffer, offset) = Locate(slice);
        int size = Interop.SizeOf<T>();
        if (offset % size != 0)
        {
            throw new ArgumentException($"a slice of {slice.Type} begins {offset} bytes into its allocation, expected a multiple of {size}.");
        }

        return new ArrayView<T>(buffer, offset / size, slice.Bytes / size);
    }

    /// <summary>The allocation that a slice lies in, and where in it, in bytes.</summary>
    /// <exception cref="ArgumentException">The slice lies outside what is allocated.</exception>
    public (MemoryBuffer Buffer, long Offset) Locate(Slice slice)
    {
        int place = starts.BinarySearch(slice.Address);
        place = place >= 0 ? place : ~place - 1;
        long offset = place < 0 ? 0 : slice.Address - starts[place];
        if (place < 0 || offset + slice.Bytes > buffers[place].Length)
        {
            throw new ArgumentException($"a slice of {slice.Length} elements of {slice.Type} at 0x{slice.Address:x} is not allocated on this device. It was freed, or belongs to another device.");
        }

        return (buffers[place], offset);
    }

    // Where it fails, the memory goes with the GPU's context.
    void Release(MemoryBuffer? buffer)
    {
        try
        {
            buffer?.Dispose();
        }
        catch (AcceleratorException cause)
        {
            faults.Keep("a release of memory", cause);
        }
    }
}
