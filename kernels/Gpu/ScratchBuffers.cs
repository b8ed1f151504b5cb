namespace IlgpuPeft.Kernels;

/// <summary>
/// Working memory of kernels, one buffer a purpose, grown to the largest call so far and kept. All launches are queued on one stream, so a buffer is free again for the next call as soon
/// as a call has queued its last kernel.
/// </summary>
/// <param name="device">Whose memory it is.</param>
/// <param name="account">Says who holds the rest, when there is no room; null where nobody keeps one.</param>
sealed class ScratchBuffers(KernelDevice device, MemoryAccount? account = null) : IDisposable
{
    readonly Dictionary<string, Slice> buffers = new(StringComparer.Ordinal);

    /// <summary>Bytes held.</summary>
    public long Bytes => buffers.Values.Sum(buffer => buffer.Bytes);

    /// <summary>At least <paramref name="length"/> elements, whose contents are undefined, until the next request for the same purpose.</summary>
    /// <exception cref="DeviceMemoryException">The device has no room.</exception>
    public Slice Get(string purpose, DType type, long length)
    {
        long bytes = length * type.Size();
        if (!buffers.TryGetValue(purpose, out var held) || held.Bytes < bytes)
        {
            buffers.Remove(purpose);
            if (!held.IsEmpty)
            {
                device.Buffers.Free(held.Address);
            }

            try
            {
                held = new Slice(device.Buffers.Allocate(bytes), bytes, DType.U8);
            }
            catch (OutOfMemoryException cause)
            {
                throw (account ?? new MemoryAccount()).NoRoom(device.Name, bytes, $"kernels' working memory ({purpose})", device.Buffers.Room, cause);
            }

            buffers.Add(purpose, held);
        }

        return new Slice(held.Address, length, type);
    }

    /// <inheritdoc />
    public void Dispose()
    {
        foreach (var buffer in buffers.Values)
        {
            device.Buffers.Free(buffer.Address);
        }

        buffers.Clear();
    }
}
