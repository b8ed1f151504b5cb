namespace IlgpuPeft.PtxEmulator;

/// <summary>Zeroed bytes that stay where they are, aligned for vectors. The garbage collector frees them together with their owner.</summary>
sealed unsafe class AlignedMemory
{
    const int Alignment = 64;

    readonly byte[] array;

    public AlignedMemory(long size)
    {
        array = GC.AllocateArray<byte>(checked((int)size + Alignment), pinned: true);
        fixed (byte* start = array)
            Pointer = (byte*)(((nint)start + Alignment - 1) / Alignment * Alignment);
    }

    public byte* Pointer { get; }
}
