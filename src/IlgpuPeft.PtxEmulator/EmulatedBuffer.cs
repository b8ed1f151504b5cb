using System.Diagnostics;
using System.Runtime.InteropServices;
using ILGPU;
using ILGPU.Runtime;

namespace IlgpuPeft.PtxEmulator;

/// <summary>Device memory: 256-byte aligned host memory, so that an address in PTX is a plain pointer.</summary>
sealed unsafe class EmulatedBuffer : MemoryBuffer
{
    readonly PtxEmulatorAccelerator accelerator;
    readonly Allocation allocation;

    /// <summary>Wraps an allocation that exists: the accelerator disposes every buffer that was ever constructed, even one whose constructor threw.</summary>
    public EmulatedBuffer(PtxEmulatorAccelerator accelerator, Allocation allocation, long length, int elementSize) : base(accelerator, length, elementSize)
    {
        this.accelerator = accelerator;
        this.allocation = allocation;
        NativePtr = (nint)allocation.Start;
    }

    protected override void MemSet(AcceleratorStream stream, byte value, in ArrayView<byte> targetView)
    {
        accelerator.ThrowFault();
        NativeMemory.Fill((void*)targetView.LoadEffectiveAddressAsPtr(), (nuint)targetView.LengthInBytes, value);
    }

    protected override void CopyFrom(AcceleratorStream stream, in ArrayView<byte> sourceView, in ArrayView<byte> targetView) =>
        Copy(sourceView, targetView);

    protected override void CopyTo(AcceleratorStream stream, in ArrayView<byte> sourceView, in ArrayView<byte> targetView) =>
        Copy(sourceView, targetView);

    protected override void DisposeAcceleratorObject(bool disposing)
    {
        accelerator.Memory.Free(allocation);
        if (disposing)
            accelerator.ThrowFault();
    }

    void Copy(in ArrayView<byte> source, in ArrayView<byte> target)
    {
        accelerator.ThrowFault();
        Buffer.MemoryCopy((void*)source.LoadEffectiveAddressAsPtr(), (void*)target.LoadEffectiveAddressAsPtr(), target.LengthInBytes, source.LengthInBytes);
    }
}

/// <summary>A stream of launches that have all ended when the call returns.</summary>
sealed class EmulatedStream(PtxEmulatorAccelerator accelerator) : AcceleratorStream(accelerator)
{
    public override void Synchronize() => accelerator.ThrowFault();

    protected override ProfilingMarker AddProfilingMarkerInternal() => new EmulatedMarker(accelerator);

    protected override void DisposeAcceleratorObject(bool disposing)
    {
    }
}

/// <summary>A point in time of the host: between two of them lies emulation, not what a GPU would take.</summary>
sealed class EmulatedMarker(PtxEmulatorAccelerator accelerator) : ProfilingMarker(accelerator)
{
    readonly long time = Stopwatch.GetTimestamp();

    public override void Synchronize() => accelerator.ThrowFault();

    public override TimeSpan MeasureFrom(ProfilingMarker marker) => marker is EmulatedMarker earlier
        ? Stopwatch.GetElapsedTime(earlier.time, time)
        : throw new ArgumentException($"PtxEmulator: the marker is a {marker.GetType().Name}, expected one of an emulated stream.", nameof(marker));

    protected override void DisposeAcceleratorObject(bool disposing)
    {
    }
}

/// <summary>Host memory needs no locking here: the device is the host.</summary>
sealed class EmulatedPageLock<T> : PageLockScope<T> where T : unmanaged
{
    public EmulatedPageLock(Accelerator accelerator, IntPtr pinned, long length) : base(accelerator, length) => AddrOfLockedObject = pinned;

    protected override void DisposeAcceleratorObject(bool disposing)
    {
    }
}
