using System.Reflection;
using ILGPU;
using ILGPU.Backends.PTX;
using ILGPU.Runtime;

namespace IlgpuPeft.PtxEmulator;

/// <summary>A kernel whose PTX has been parsed for the emulator.</summary>
public sealed class EmulatedKernel : Kernel
{
    readonly PtxEmulatorAccelerator accelerator;
    readonly PtxProgram program;
    readonly string method;

    internal EmulatedKernel(PtxEmulatorAccelerator accelerator, PTXCompiledKernel kernel, MethodInfo? launcher) : base(accelerator, kernel, launcher)
    {
        this.accelerator = accelerator;
        Ptx = kernel.PTXAssembly;
        program = PtxProgram.Parse(Ptx);
        var source = IlgpuInternals.EntryPoint(kernel).MethodInfo;
        method = $"{source.DeclaringType?.FullName}.{source.Name}";
    }

    /// <summary>The PTX text that is executed.</summary>
    public string Ptx { get; }

    /// <summary>Called by the launcher method: runs the kernel with arguments that lie at an address.</summary>
    internal static unsafe void Launch(Kernel kernel, object dimension, int groupSize, byte* arguments, int size)
    {
        var emulated = (EmulatedKernel)kernel;
        var (grid, block, shared) = dimension switch
        {
            KernelConfig config => (Triple(config.GridDim), Triple(config.GroupDim), config.SharedMemoryConfig),
            Index1D index => Grouped(index.X, 1, 1, groupSize),
            Index2D index => Grouped(index.X, index.Y, 1, groupSize),
            Index3D index => Grouped(index.X, index.Y, index.Z, groupSize),
            _ => throw new NotSupportedException($"PtxEmulator: launch dimension {dimension.GetType().Name} is not supported."),
        };
        emulated.Run(grid, block, shared, new ReadOnlySpan<byte>(arguments, size));
    }

    /// <inheritdoc/>
    protected override void DisposeAcceleratorObject(bool disposing)
    {
    }

    static (int X, int Y, int Z) Triple(Index3D index) => (index.X, index.Y, index.Z);

    /// <summary>ILGPU groups the first dimension only.</summary>
    static ((int X, int Y, int Z) Grid, (int X, int Y, int Z) Block, SharedMemoryConfig Shared) Grouped(int x, int y, int z, int groupSize)
    {
        int group = Math.Max(1, groupSize);
        return (((x + group - 1) / group, y, z), (group, 1, 1), default);
    }

    void Run((int X, int Y, int Z) grid, (int X, int Y, int Z) block, SharedMemoryConfig shared, ReadOnlySpan<byte> arguments)
    {
        accelerator.ThrowFault();
        RequireWithin("grid", grid, accelerator.MaxGridSize);
        RequireWithin("block", block, accelerator.MaxGroupSize);
        if ((long)block.X * block.Y * block.Z > accelerator.MaxNumThreadsPerGroup)
            throw new PtxEmulatorException(
                $"{program.Name} ({method}): blocks {block} have more than {accelerator.MaxNumThreadsPerGroup} threads. Use smaller blocks.");
        var launch = new Launch(program, accelerator.Memory, accelerator.Options)
        {
            GridDim = grid,
            BlockDim = block,
            DynamicSharedBytes = shared.NumElements * shared.ElementSize,
            Arguments = arguments.ToArray(),
            Method = method,
        };
        accelerator.LastLaunch = launch.Run();
    }

    void RequireWithin(string what, (int X, int Y, int Z) size, Index3D limit)
    {
        if (size.X < 1 || size.Y < 1 || size.Z < 1 || size.X > limit.X || size.Y > limit.Y || size.Z > limit.Z)
            throw new PtxEmulatorException($"{program.Name} ({method}): {what} size {size} is not within (1, 1, 1) and {limit}. Launch within it.");
    }
}
