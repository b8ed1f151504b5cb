using ILGPU.Runtime.Cuda;

namespace IlgpuPeft.PtxEmulator;

/// <summary>How strictly and how long the emulator runs a kernel.</summary>
public sealed record PtxEmulatorOptions
{
    /// <summary>Report two threads that touch the same shared memory, one of them writing, without a barrier between them. Default: true.
    /// Switch it off for kernels that order such accesses with a spin lock, which the emulator does not see through.</summary>
    public bool CheckSharedRaces { get; init; } = true;

    /// <summary>Warp instructions that one block may run before it counts as an endless loop. Default: 2^31.</summary>
    public long InstructionBudgetPerBlock { get; init; } = 1L << 31;

    /// <summary>The GPU that the emulator passes for: sm_70, sm_75 or sm_80. Default: sm_80. Kernels are compiled for it, and an instruction that came later is an error.</summary>
    public CudaArchitecture Architecture { get; init; } = CudaArchitecture.SM_80;

    /// <summary>Bytes of shared memory that a block may have. Default: as many as the architecture has, 163 KB for sm_80.</summary>
    public int MaxSharedBytes { get => field > 0 ? field : DefaultSharedBytes; init; }

    /// <summary>Bytes of device memory. Default: 8 GiB. They are the host's, and taken when they are allocated.</summary>
    public long MemoryBytes { get; init; } = 8L << 30;

    /// <summary>Threads of this machine that run blocks. Default: one per core. Results do not depend on it.</summary>
    public int Workers { get; init; } = Environment.ProcessorCount;

    /// <summary>Where kernels print to (`Interop.WriteLine`). Default: the console.</summary>
    public TextWriter Output { get; init; } = Console.Out;

    /// <summary>Compile with ILGPU's own pipeline instead of the safe one. Default: false; its O2 moves loads across stores and barriers.</summary>
    public bool StockPipeline { get; init; }

    int DefaultSharedBytes => 1024 * (Architecture == CudaArchitecture.SM_80 ? 163 : Architecture == CudaArchitecture.SM_75 ? 64 : 96);
}
