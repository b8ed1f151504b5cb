using ILGPU.Runtime.Cuda;

namespace IlgpuPeft.PtxEmulator;

/// <summary>How strictly and how long the emulator runs a kernel.</summary>
public sealed record PtxEmulatorOptions
{
    /// <summary>What kernels are compiled for. Default: sm_80, whose instructions the emulator knows; for an older one the compiler keeps to fewer.</summary>
    public CudaArchitecture Architecture { get; init; } = CudaArchitecture.SM_80;

    /// <summary>Report two threads that touch the same shared memory, one of them writing, without a barrier between them. Default: true.
    /// Switch it off for kernels that order such accesses with a spin lock, which the emulator does not see through.</summary>
    public bool CheckSharedRaces { get; init; } = true;

    /// <summary>Warp instructions that one block may run before it counts as an endless loop. Default: 2^31.</summary>
    public long InstructionBudgetPerBlock { get; init; } = 1L << 31;

    /// <summary>Bytes of shared memory that a block may have. Default: 163 KB, as sm_80 has.</summary>
    public int MaxSharedBytes { get; init; } = 163 * 1024;

    /// <summary>Bytes of device memory. Default: 8 GiB. They are the host's, and taken when they are allocated.</summary>
    public long MemoryBytes { get; init; } = 8L << 30;

    /// <summary>Threads of this machine that run blocks. Default: one per core. Results do not depend on it.</summary>
    public int Workers { get; init; } = Environment.ProcessorCount;

    /// <summary>Where kernels print to (`Interop.WriteLine`). Default: the console.</summary>
    public TextWriter Output { get; init; } = Console.Out;

    /// <summary>Compile with ILGPU's own pipeline instead of the safe one. Default: false; its O2 moves loads across stores and barriers.</summary>
    public bool StockPipeline { get; init; }
}
