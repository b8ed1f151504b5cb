namespace IlgpuPeft.PtxEmulator;

/// <summary>`.global` and `.const` variables of a module, with their initial values, in memory that lasts as long as the module.</summary>
sealed unsafe class ModuleVariables
{
    const int Alignment = 256;

    readonly List<byte[]> memory = [];
    readonly List<(ulong Address, int Length)> places = [];

    /// <summary>Where the variables lie.</summary>
    public IReadOnlyList<(ulong Address, int Length)> Places => places;

    /// <summary>Lays out a variable of which the first bytes are given and the rest zero; returns its address.</summary>
    public ulong Add(int size, ReadOnlySpan<byte> initial)
    {
        byte[] bytes = GC.AllocateArray<byte>(size + Alignment, pinned: true);
        ulong start = (ulong)System.Runtime.InteropServices.Marshal.UnsafeAddrOfPinnedArrayElement(bytes, 0);
        ulong address = (start + Alignment - 1) / Alignment * Alignment;
        initial.CopyTo(new Span<byte>((void*)address, size));
        memory.Add(bytes);
        places.Add((address, size));
        return address;
    }
}
