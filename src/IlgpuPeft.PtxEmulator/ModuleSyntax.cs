namespace IlgpuPeft.PtxEmulator;

/// <summary>A parsed module: its functions, and the sizes of the memories that its variables need.</summary>
sealed class ModuleSyntax
{
    public Scope Scope { get; } = new(null);

    public Dictionary<string, Function> Functions { get; } = [];

    public RegisterFile Registers { get; } = new();

    public ModuleVariables Variables { get; } = new();

    /// <summary>The architecture that the module is for: 75 for sm_75.</summary>
    public int Target { get; set; } = Architectures.Newest;

    /// <summary>Bytes of shared memory per block, without the part whose size the launch chooses.</summary>
    public int SharedBytes { get; private set; }

    /// <summary>Bytes per lane: `.local` arrays, and parameters and results of functions.</summary>
    public int LaneBytes { get; private set; }

    public int AddShared(int size, int alignment)
    {
        int offset = Align(SharedBytes, alignment);
        SharedBytes = offset + size;
        return offset;
    }

    public int AddLaneMemory(int size, int alignment)
    {
        int offset = Align(LaneBytes, alignment);
        LaneBytes = offset + size;
        return offset;
    }

    static int Align(int value, int alignment) => (value + alignment - 1) / alignment * alignment;
}
