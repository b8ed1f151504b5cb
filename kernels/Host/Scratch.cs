using System.Runtime.InteropServices;

namespace IlgpuPeft.Kernels;

/// <summary>What a piece of scratch memory holds. One thread may use all of them at once, each once.</summary>
enum ScratchSlot
{
    PackedA,
    PackedB,
    DecodedRows,
    PermutedInput,
    BlockScales,
    RowSums,
    LoraGradient,
    Attention,
    AttentionParts,
    HeadGradients,
    Logits,
    Hidden,
    TrainedRows,
    Candidates,
    ScaledLogits,
}

/// <summary>
/// Working memory of host kernels: per thread and slot, grow-only, aligned to a cache line, never cleared. After the first calls of a
/// shape nothing is allocated.
/// </summary>
sealed unsafe class Scratch
{
    [ThreadStatic]
    static Scratch? mine;

    static long held;

    readonly nint[] memory = new nint[Enum.GetValues<ScratchSlot>().Length];
    readonly nuint[] sizes = new nuint[Enum.GetValues<ScratchSlot>().Length];

    ~Scratch()
    {
        for (int slot = 0; slot < memory.Length; slot++)
        {
            NativeMemory.AlignedFree((void*)memory[slot]);
            Interlocked.Add(ref held, -(long)sizes[slot]);
        }
    }

    /// <summary>Bytes that all threads hold now.</summary>
    public static long Held => Interlocked.Read(ref held);

    /// <summary>At least <paramref name="count"/> elements with any content, valid until this thread asks for the same slot again.</summary>
    public static T* Get<T>(ScratchSlot slot, long count) where T : unmanaged
    {
        var scratch = mine ??= new Scratch();
        nuint bytes = (nuint)(count * sizeof(T));
        ref nint block = ref scratch.memory[(int)slot];
        ref nuint size = ref scratch.sizes[(int)slot];
        if (size < bytes)
        {
            NativeMemory.AlignedFree((void*)block);
            Interlocked.Add(ref held, -(long)size);
            (block, size) = (0, 0); // so that a failed allocation leaves nothing to free twice
            block = (nint)NativeMemory.AlignedAlloc(bytes, 64);
            size = bytes;
            Interlocked.Add(ref held, (long)size);
        }

        return (T*)block;
    }
}
