using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;

namespace IlgpuPeft.PtxEmulator;

/// <summary>A device that looks to ILGPU like a CUDA GPU, by default of compute capability 8.0, and is this machine's CPU.</summary>
[DeviceType(AcceleratorType.Cuda)]
public sealed class PtxEmulatorDevice : Device
{
    /// <summary>As many as an A100 has.</summary>
    internal const int Multiprocessors = 108;

    readonly PtxEmulatorOptions options;

    /// <summary>Describes the device; nothing is allocated.</summary>
    public PtxEmulatorDevice(PtxEmulatorOptions? options = null)
    {
        this.options = options ?? new PtxEmulatorOptions();
        Name = $"PTX emulator (sm_{this.options.Architecture.Major}{this.options.Architecture.Minor})";
        WarpSize = EmulatedWarp.Size;
        MaxNumThreadsPerGroup = 1024;
        MaxGridSize = new Index3D(int.MaxValue, ushort.MaxValue, ushort.MaxValue);
        MaxGroupSize = new Index3D(1024, 1024, 64);
        MaxSharedMemoryPerGroup = 48 * 1024;
        MaxConstantMemory = 64 * 1024;
        NumMultiprocessors = Multiprocessors;
        MaxNumThreadsPerMultiprocessor = 2048;
        MemorySize = this.options.MemoryBytes;
        Capabilities = new CudaCapabilityContext(this.options.Architecture);
    }

    /// <summary>Opens the device. ILGPU programs see the same methods as on a GPU.</summary>
    /// <exception cref="NotSupportedException">Another version of ILGPU is loaded.</exception>
    /// <exception cref="ArgumentException">The context optimises at O2, which compiles wrong code.</exception>
    public override Accelerator CreateAccelerator(Context context) => new PtxEmulatorAccelerator(context, this, options);
}

/// <summary>Opens the emulator the way ILGPU opens its own devices.</summary>
public static class PtxEmulatorContextExtensions
{
    /// <summary>Opens a PTX emulator in this context.</summary>
    /// <exception cref="NotSupportedException">Another version of ILGPU is loaded.</exception>
    /// <exception cref="ArgumentException">The context optimises at O2, which compiles wrong code.</exception>
    public static PtxEmulatorAccelerator CreatePtxEmulator(this Context context, PtxEmulatorOptions? options = null) =>
        (PtxEmulatorAccelerator)new PtxEmulatorDevice(options).CreateAccelerator(context);
}
