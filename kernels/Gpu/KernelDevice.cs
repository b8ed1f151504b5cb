using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using IlgpuPeft.PtxEmulator;

namespace IlgpuPeft.Kernels;

/// <summary>
/// One ILGPU accelerator with the kernels that were compiled for it. Compiling takes tens of milliseconds a kernel, so a device that a backend gives back serves
/// the next backend of the same name in this process. Used by one thread at a time.
/// </summary>
sealed partial class KernelDevice
{
    static readonly ConcurrentDictionary<string, ConcurrentBag<KernelDevice>> Idle = [];

    readonly Dictionary<(Delegate Kernel, int Group), Delegate> launchers = [];
    readonly List<(string Name, Kernel Kernel)> compiled = [];

    KernelDevice(string name, Accelerator accelerator)
    {
        Name = name;
        Accelerator = accelerator;
        Stream = accelerator.DefaultStream;
        Buffers = new DeviceBuffers(accelerator, Stream);
        bool ptx = accelerator.AcceleratorType == AcceleratorType.Cuda;
        HasTensorCores = ptx && accelerator.Capabilities is ILGPU.Runtime.Cuda.CudaCapabilityContext;
    }

    /// <summary>The name that <see cref="Device.Open(string, DType?)"/> took.</summary>
    public string Name { get; }

    public Accelerator Accelerator { get; }

    public AcceleratorStream Stream { get; }

    public DeviceBuffers Buffers { get; }

    /// <summary>Whether the device runs PTX of sm_80: bfloat16 matrix multiplies, <c>ldmatrix</c> and <c>cp.async</c>.</summary>
    public bool HasTensorCores { get; }

    /// <summary>Shared memory that a group may ask for at launch, in bytes.</summary>
    public int MaxSharedBytes { get; private init; }

    /// <summary>Kernels launched so far.</summary>
    public long Launches { get; private set; }

    /// <summary>Where launches are noted, or null.</summary>
    public List<KernelLaunch>? Log { get; set; }

    /// <summary>The kernels compiled so far, by class and method.</summary>
    public IReadOnlyList<(string Name, Kernel Kernel)> Compiled => compiled;

    /// <summary>An idle device of that name, or a new one.</summary>
    public static KernelDevice Rent(string name)
    {
        if (Idle.TryGetValue(name, out var idle) && idle.TryTake(out var device))
        {
            return device;
        }

        return name switch
        {
            "emulator" => OpenEmulator(),
            "simulator" => OpenSimulator(),
            _ => throw new ArgumentException($"device '{name}' has no kernels.", nameof(name)),
        };
    }

    /// <summary>Leaves the device to the next backend. All its memory must be freed.</summary>
    public void Return()
    {
        Log = null;
        Idle.GetOrAdd(Name, _ => []).Add(this);
    }

    static KernelDevice OpenEmulator()
    {
        var context = NewContext(builder => builder.Optimize(OptimizationLevel.O1));
        return new KernelDevice("emulator", context.CreatePtxEmulator()) { MaxSharedBytes = new PtxEmulatorOptions().MaxSharedBytes };
    }

    // One warp at a time: a barrier of more threads costs milliseconds there.
    static KernelDevice OpenSimulator()
    {
        var device = new CPUDevice(numThreadsPerWarp: 32, numWarpsPerMultiprocessor: 8, numMultiprocessors: 1);
        var context = NewContext(builder => builder.Optimize(OptimizationLevel.O1).CPU(device));
        return new KernelDevice("simulator", context.CreateCPUAccelerator(0)) { MaxSharedBytes = 48 << 10 };
    }

    static Context NewContext(Action<Context.Builder> configure) => Context.Create(builder =>
    {
        configure(builder);
        builder.EnableAlgorithms();
        PtxIntrinsics.Register(builder, typeof(Intrinsics), typeof(PtxIntrinsics));
        PtxIntrinsics.Register(builder, typeof(AttentionTile), typeof(PtxAttentionTile));
    });

    /// <summary>The launcher of a kernel, compiled at its first use.</summary>
    TLauncher Prepare<TLauncher>(Delegate kernel, LaunchShape shape) where TLauncher : Delegate
    {
        if (launchers.TryGetValue((kernel, shape.Group), out var found))
        {
            return (TLauncher)found;
        }

        try
        {
            var loaded = Accelerator.LoadKernel(kernel.Method, new KernelSpecialization(shape.Group, null));
            var launcher = loaded.CreateLauncherDelegate<TLauncher>();
            launchers.Add((kernel, shape.Group), launcher);
            compiled.Add((Operation(kernel), loaded));
            return launcher;
        }
        catch (Exception cause)
        {
            throw new KernelException($"{Operation(kernel)} on {Name}: the kernel could not be compiled for {Accelerator.Name}: {cause.GetBaseException().Message}", cause);
        }
    }

    void Note(Delegate kernel, LaunchShape shape)
    {
        Launches++;
        Log?.Add(new KernelLaunch(Operation(kernel), shape, (Accelerator as PtxEmulatorAccelerator)?.LastLaunch));
    }

    KernelException Failed(Delegate kernel, LaunchShape shape, ITuple arguments, Exception cause)
    {
        var shown = Enumerable.Range(0, arguments.Length).Select(i => arguments[i] is IArrayView view ? $"[{view.Length}]" : $"{arguments[i]}");
        return new($"{Operation(kernel)} on {Name}: the launch of {shape} with ({string.Join(", ", shown)}) failed: {cause.GetBaseException().Message}", cause);
    }

    static string Operation(Delegate kernel) => $"{kernel.Method.DeclaringType!.Name}.{kernel.Method.Name}";
}

/// <summary>One launch, as <see cref="KernelDevice.Log"/> notes it.</summary>
/// <param name="Kernel">Class and method.</param>
/// <param name="Shape">Groups and threads.</param>
/// <param name="Counters">What the emulator counted; null on other devices.</param>
sealed record KernelLaunch(string Kernel, LaunchShape Shape, LaunchCounters? Counters);
