using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;

namespace IlgpuPeft.Kernels;

/// <summary>
/// Copies between host and device through page-locked memory, which a GPU reads and writes while the host goes on. An upload returns as soon as its bytes are staged; a download waits.
/// </summary>
sealed class HostTransfers(Accelerator accelerator, AcceleratorStream stream, DeviceBuffers buffers, DeviceFaults faults) : IDisposable
{
    /// <summary>Enough that a model loads at the bus's speed; the small uploads of a step fill a part of it.</summary>
    const int StagingBytes = 4 << 20;

    const int Alignment = 16;

    const int LandingsOfBlock = 64;

    readonly PageLockedArray1D<byte> staging = accelerator.AllocatePageLocked1D<byte>(StagingBytes);
    readonly bool isHost = accelerator is not CudaAccelerator;
    readonly DeviceFaults faults = faults;

    // Where late reads arrive. All of it lives as long as this: a read that nobody waits for may still be written by the GPU, so its place is not used again.
    readonly List<PageLockedArray1D<byte>> landingBlocks = [];
    readonly Stack<(PageLockedArray1D<byte> Block, int Offset)> landings = []; // those not in use now

    int used;

    /// <summary>Downloads so far, each of which waited for the device.</summary>
    public long Downloads { get; private set; }

    /// <summary>Called before a late read is waited for, or null. Where it is set, reads are late as on a GPU, whatever the device.</summary>
    public Action? Waiting { get; set; }

    /// <summary>Queues a copy to the device. The bytes are the caller's again when it returns.</summary>
    /// <exception cref="KernelException">The device failed.</exception>
    public void Upload(ReadOnlySpan<byte> source, Slice destination)
    {
        if (source.IsEmpty)
        {
            return;
        }

        var (buffer, offset) = buffers.Locate(destination);
        while (!source.IsEmpty)
        {
            int count = Math.Min(source.Length, StagingBytes), place = Reserve(count);
            source[..count].CopyTo(staging.Span[place..]);
            long start = offset;
            faults.Ask("a copy to the device", () => buffer.CopyFrom(stream, staging.ArrayView.SubView(place, count), start));
            source = source[count..];
            offset += count;
        }
    }

    /// <summary>Waits for all that is queued, then copies to the host.</summary>
    /// <exception cref="KernelException">The device failed.</exception>
    public void Download(Slice source, Span<byte> destination)
    {
        if (destination.IsEmpty)
        {
            return;
        }

        Downloads++;
        var (buffer, offset) = buffers.Locate(source);
        while (!destination.IsEmpty)
        {
            int count = Math.Min(destination.Length, StagingBytes), place = Reserve(count);
            CopyToHost(buffer, offset, staging.ArrayView.SubView(place, count));
            Synchronize();
            staging.Span.Slice(place, count).CopyTo(destination);
            destination = destination[count..];
            offset += count;
        }
    }

    /// <summary>Queues a copy of a few bytes to the host, which arrive while other work goes on.</summary>
    /// <exception cref="KernelException">The device failed.</exception>
    public PendingRead ReadLater(Slice source)
    {
        Expect.That(source.Bytes <= LateRead.MaxBytes, nameof(ReadLater), $"source has {source.Bytes} bytes, expected at most {LateRead.MaxBytes}.");
        var (buffer, offset) = buffers.Locate(source);
        var landing = Landing();
        CopyToHost(buffer, offset, landing.Block.ArrayView.SubView(landing.Offset, source.Bytes));
        return new LateRead(this, landing, (int)source.Bytes, faults.Ask("a copy to the host", stream.AddProfilingMarker));
    }

    /// <summary>Waits for all that is queued.</summary>
    /// <exception cref="KernelException">The device failed.</exception>
    public void Synchronize() => faults.Ask("a wait", stream.Synchronize);

    /// <inheritdoc />
    public void Dispose()
    {
        staging.Dispose();
        landingBlocks.ForEach(block => block.Dispose());
    }

    void CopyToHost(MemoryBuffer buffer, long offset, ArrayView<byte> destination) => faults.Ask("a copy to the host", () => buffer.CopyTo(stream, offset, destination));

    (PageLockedArray1D<byte> Block, int Offset) Landing()
    {
        if (landings.Count == 0)
        {
            var block = faults.Ask("a request for page-locked memory", () => accelerator.AllocatePageLocked1D<byte>(LandingsOfBlock * LateRead.MaxBytes));
            landingBlocks.Add(block);
            for (int i = 0; i < LandingsOfBlock; i++)
            {
                landings.Push((block, i * LateRead.MaxBytes));
            }
        }

        return landings.Pop();
    }

    /// <summary>A place in the staging memory that no copy under way uses: once round, all of them must have ended.</summary>
    int Reserve(int count)
    {
        if (used + count > StagingBytes)
        {
            Synchronize();
            used = 0;
        }

        int place = used;
        used += (count + Alignment - 1) / Alignment * Alignment;
        return place;
    }

    sealed class LateRead(HostTransfers owner, (PageLockedArray1D<byte> Block, int Offset) landing, int bytes, ProfilingMarker arrived) : PendingRead
    {
        public const int MaxBytes = 256;

        byte[]? result;

        // ILGPU does not tell whether a marker was passed; only a GPU works while the host goes on.
        public override bool HasArrived => result is not null || (owner.isHost && owner.Waiting is null);

        public override byte[] Wait()
        {
            if (result is null)
            {
                owner.Waiting?.Invoke();
                owner.faults.Ask("a wait for a copy to the host", () =>
                {
                    arrived.Synchronize();
                    arrived.Dispose();
                });
                result = landing.Block.Span.Slice(landing.Offset, bytes).ToArray();
                owner.landings.Push(landing);
            }

            return result;
        }
    }
}
