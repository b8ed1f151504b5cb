using System.Reflection;
using ILGPU;
using ILGPU.Backends.PTX;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// An ILGPU accelerator that compiles kernels to PTX exactly as for a GPU and executes that PTX on the CPU, checking every
/// access and counting what a GPU would have to do. Launches are synchronous: an error is thrown by the launch that made it.
/// </summary>
public sealed class PtxEmulatorAccelerator : KernelAccelerator<PTXCompiledKernel, EmulatedKernel>
{
    readonly PTXBackend backend;

    internal PtxEmulatorAccelerator(Context context, PtxEmulatorDevice device, PtxEmulatorOptions options) : base(context, device)
    {
        IlgpuInternals.CheckVersion();
        if (!options.StockPipeline && context.Properties.OptimizationLevel > OptimizationLevel.O1)
            throw new ArgumentException(
                "PtxEmulator: the context optimises at O2, which in ILGPU 1.5.3 moves loads across stores and barriers. "
                + "Build it with Optimize(OptimizationLevel.O1).",
                nameof(context));
        Options = options;
        Memory = new AllocationTable(options.MemoryBytes);
        backend = new PTXBackend(context, options.Architecture, CudaInstructionSet.ISA_80, null!);
        if (!options.StockPipeline)
            IlgpuInternals.UseSafePipeline(backend);
        Init(backend);
        DefaultStream = CreateStreamInternal();
    }

    /// <summary>How strictly kernels are run.</summary>
    public PtxEmulatorOptions Options { get; }

    /// <summary>Counters of the last launch that ended well, or null before the first.</summary>
    public LaunchCounters? LastLaunch { get; internal set; }

    /// <summary>Bytes of device memory that are not allocated.</summary>
    public long FreeMemory => Memory.FreeBytes;

    internal AllocationTable Memory { get; }

    /// <summary>For tests: what every use of the device throws from now on, as a GPU does once a kernel has failed.</summary>
    internal AcceleratorException? Fault { get; set; }

    /// <summary>Not offered: extensions are written against real CUDA devices.</summary>
    public override TExtension CreateExtension<TExtension, TExtensionProvider>(TExtensionProvider provider) =>
        throw new NotSupportedException("PtxEmulator: accelerator extensions are not supported.");

    /// <inheritdoc/>
    protected override MethodInfo GenerateKernelLauncherMethod(PTXCompiledKernel kernel, int customGroupSize) =>
        KernelLauncher.Generate(backend, kernel, customGroupSize);

    /// <inheritdoc/>
    protected override EmulatedKernel CreateKernel(PTXCompiledKernel compiledKernel) => new(this, compiledKernel, null);

    /// <inheritdoc/>
    protected override EmulatedKernel CreateKernel(PTXCompiledKernel compiledKernel, MethodInfo launcher) => new(this, compiledKernel, launcher);

    /// <inheritdoc/>
    protected override MemoryBuffer AllocateRawInternal(long length, int elementSize)
    {
        ThrowFault();
        return new EmulatedBuffer(this, Memory.Allocate(length * elementSize), length, elementSize);
    }

    /// <inheritdoc/>
    protected override AcceleratorStream CreateStreamInternal() => new EmulatedStream(this);

    /// <inheritdoc/>
    protected override void SynchronizeInternal() => ThrowFault();

    /// <inheritdoc/>
    protected override void OnBind()
    {
    }

    /// <inheritdoc/>
    protected override void OnUnbind()
    {
    }

    /// <inheritdoc/>
    protected override bool CanAccessPeerInternal(Accelerator otherAccelerator) => false;

    /// <inheritdoc/>
    protected override void EnablePeerAccessInternal(Accelerator otherAccelerator) =>
        throw new NotSupportedException("PtxEmulator: there is no peer access.");

    /// <inheritdoc/>
    protected override void DisablePeerAccessInternal(Accelerator otherAccelerator) =>
        throw new NotSupportedException("PtxEmulator: there is no peer access.");

    /// <inheritdoc/>
    protected override int EstimateMaxActiveGroupsPerMultiprocessorInternal(Kernel kernel, int groupSize, int dynamicSharedMemorySizeInBytes) =>
        Math.Max(1, MaxNumThreadsPerMultiprocessor / groupSize);

    /// <inheritdoc/>
    protected override int EstimateGroupSizeInternal(
        Kernel kernel, Func<int, int> computeSharedMemorySize, int maxGroupSize, out int minGridSize) =>
        EstimateGroupSizeInternal(kernel, 0, maxGroupSize, out minGridSize);

    /// <inheritdoc/>
    protected override int EstimateGroupSizeInternal(Kernel kernel, int dynamicSharedMemorySizeInBytes, int maxGroupSize, out int minGridSize)
    {
        minGridSize = NumMultiprocessors;
        return maxGroupSize > 0 ? Math.Min(256, maxGroupSize) : 256;
    }

    /// <inheritdoc/>
    protected override PageLockScope<T> CreatePageLockFromPinnedInternal<T>(IntPtr pinned, long numElements)
    {
        ThrowFault();
        return new EmulatedPageLock<T>(this, pinned, numElements);
    }

    /// <inheritdoc/>
    protected override void DisposeAccelerator_SyncRoot(bool disposing)
    {
        if (!disposing)
            return;
        Memory.Dispose();
        ThrowFault();
    }

    internal void ThrowFault()
    {
        if (Fault is { } fault)
            throw fault;
    }
}
