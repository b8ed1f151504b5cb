using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tensors;

/// <summary>
/// Memory of one step: slabs are bumped through, and everything is free again at <see cref="Reset"/>. Within a step, a released range serves the next
/// request of the same size; layers repeat their shapes, so this keeps the peak near what is really alive. After the first steps no slab is added.
/// </summary>
public sealed class Arena(Backend backend, string owner = "activations") : IDisposable
{
    const long SlabBytes = 16L << 20;
    const long Alignment = 256;

    readonly List<Slice> slabs = [];
    readonly Dictionary<long, Stack<nint>> released = [];
    int slab;
    long used;
    long taken;

    /// <summary>Bytes reserved from the device.</summary>
    public long Bytes => slabs.Sum(x => x.Bytes);

    /// <summary>Reserves memory until <see cref="Release"/> or <see cref="Reset"/>. Its contents are undefined.</summary>
    public Slice Allocate(DType type, long length)
    {
        long bytes = Padded(length * type.Size());
        if (released.TryGetValue(bytes, out var free) && free.TryPop(out nint again))
        {
            return new Slice(again, length, type);
        }

        while (slab < slabs.Count && used + bytes > slabs[slab].Bytes)
        {
            slab++;
            used = 0;
        }

        if (slab == slabs.Count)
        {
            slabs.Add(backend.Allocate(DType.U8, Math.Max(SlabBytes, bytes), owner));
        }

        nint address = slabs[slab].Address + (nint)used;
        used += bytes;
        taken += bytes;
        return new Slice(address, length, type);
    }

    /// <summary>Makes a range that <see cref="Allocate"/> returned available to later requests of its size.</summary>
    public void Release(Slice slice)
    {
        ref var free = ref CollectionsMarshal.GetValueRefOrAddDefault(released, Padded(slice.Bytes), out _);
        (free ??= []).Push(slice.Address);
    }

    /// <summary>
    /// Frees everything: the end of a step. If the step needed several slabs, one as large as what it took replaces them: ranges never cross from one slab to the
    /// next, so many slabs waste their ends, and steps of growing size would waste whole slabs.
    /// </summary>
    public void Reset()
    {
        foreach (var free in released.Values)
        {
            free.Clear();
        }

        if (slabs.Count > 1)
        {
            FreeSlabs();
            slabs.Add(backend.Allocate(DType.U8, (taken + SlabBytes - 1) / SlabBytes * SlabBytes, owner));
        }

        slab = 0;
        used = 0;
        taken = 0;
    }

    /// <inheritdoc />
    public void Dispose()
    {
        FreeSlabs();
        Reset();
    }

    void FreeSlabs()
    {
        slabs.ForEach(backend.Free);
        slabs.Clear();
    }

    static long Padded(long bytes) => (Math.Max(1, bytes) + Alignment - 1) / Alignment * Alignment;
}
