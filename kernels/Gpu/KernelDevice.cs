using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using ILGPU;
using ILGPU.Backends.EntryPoints;
using ILGPU.Backends.PTX;
using ILGPU.Runtime;
using ILGPU.Runtime.Cuda;
using IlgpuPeft.PtxEmulator;

namespace IlgpuPeft.Kernels;

/// <summary>
/// One ILGPU accelerator with the kernels that were compiled for it. Compiling takes tens of milliseconds a kernel, so a device that a backend gives back serves
/// the next backend of the same name in this process. Used by one thread at a time.
/// </summary>
sealed partial class KernelDevice
{
    static readonly ConcurrentDictionary<string, ConcurrentBag<KernelDevice>> Idle = [];

    // Devices that could not be closed: kept, since ILGPU's finalizers would call a driver that refuses every call, and the GPU may still write to their page-locked memory.
    static readonly ConcurrentBag<KernelDevice> Broken = [];

    readonly Dictionary<(Delegate Kernel, int Group), (Delegate Launcher, Kernel Loaded)> launchers = [];
    readonly List<(string Name, Kernel Kernel)> compiled = [];
    readonly DeviceFaults faults;
    bool rented;

    internal KernelDevice(string name, Accelerator accelerator, int maxSharedBytes)
    {
        Name = name;
        faults = new DeviceFaults(name);
        Accelerator = accelerator;
        MaxSharedBytes = maxSharedBytes;
        Stream = accelerator is CudaAccelerator cuda ? cuda.CreateStream(StreamFlags.CU_STREAM_NON_BLOCKING) : accelerator.DefaultStream;
        Buffers = new DeviceBuffers(accelerator, Stream, faults);
        Transfers = new HostTransfers(accelerator, Stream, Buffers, faults);
        HasTensorCores = accelerator switch
        {
            CudaAccelerator gpu => gpu.Architecture >= CudaArchitecture.SM_80,
            PtxEmulatorAccelerator emulator => emulator.Options.Architecture >= CudaArchitecture.SM_80,
            _ => false,
        };
    }

    /// <summary>The name that <see cref="Device.Open"/> took.</summary>
    public string Name { get; }

    public Accelerator Accelerator { get; }

    public AcceleratorStream Stream { get; }

    public DeviceBuffers Buffers { get; }

    public HostTransfers Transfers { get; }

    /// <summary>Whether the device runs PTX of sm_80: bfloat16 matrix multiplies, <c>ldmatrix</c> and <c>cp.async</c>.</summary>
    public bool HasTensorCores { get; }

    /// <summary>Shared memory that a group may ask for at launch, in bytes.</summary>
    public int MaxSharedBytes { get; }

    /// <summary>Kernels launched so far.</summary>
    public long Launches { get; private set; }

    /// <summary>Where launches are noted, or null.</summary>
    public List<KernelLaunch>? Log { get; set; }

    /// <summary>The kernels compiled so far, by class and method.</summary>
    public IReadOnlyList<(string Name, Kernel Kernel)> Compiled => compiled;

    /// <summary>An idle device of that name, or a new one.</summary>
    /// <exception cref="ArgumentException">There is no such device here; the message says what was looked for.</exception>
    public static KernelDevice Rent(string name)
    {
        var device = Idle.TryGetValue(name, out var idle) && idle.TryTake(out var found) ? found : KernelDevices.Open(name);
        device.rented = true;
        return device;
    }

    /// <summary>Waits until all queued work is done.</summary>
    /// <exception cref="KernelException">The device failed.</exception>
    public void Synchronize() => Transfers.Synchronize();

    /// <summary>
    /// Leaves the device to the next who asks for its name, unless it was opened with options of its own, or a compilation or a launch failed: a GPU refuses all work after that. All
    /// its memory must be freed.
    /// </summary>
    /// <exception cref="KernelException">The device failed, and this is the first to hear of it.</exception>
    public void Return()
    {
        Log = null;
        try
        {
            Stream.Synchronize(); // what is still under way would be the next user's error, and it uses page-locked memory
        }
        catch (AcceleratorException cause)
        {
            faults.Keep("a wait at the end", cause);
        }

        if (rented && !faults.HasFailed)
        {
            Idle.GetOrAdd(Name, _ => []).Add(this);
            return;
        }

        try
        {
            Transfers.Dispose();
            Accelerator.Dispose();
            Accelerator.Context.Dispose();
        }
        catch (AcceleratorException cause)
        {
            faults.Keep("a release of the device", cause);
            Broken.Add(this);
        }

        faults.Tell();
    }

    /// <summary>The launcher of a kernel, compiled at its first use, and what was compiled.</summary>
    (TLauncher Launcher, Kernel Loaded) Prepare<TLauncher>(Delegate kernel, LaunchShape shape) where TLauncher : Delegate
    {
        if (launchers.TryGetValue((kernel, shape.Group), out var found))
        {
            return ((TLauncher)found.Launcher, found.Loaded);
        }

        var loaded = Load(kernel, shape.Group);
        var launcher = loaded.CreateLauncherDelegate<TLauncher>();
        launchers.Add((kernel, shape.Group), (launcher, loaded));
        compiled.Add((DeviceFaults.NameOf(kernel), loaded));
        return (launcher, loaded);
    }

    Kernel Load(Delegate kernel, int group)
    {
        string what = $"{DeviceFaults.NameOf(kernel)} on {Name}";
        ILGPU.Backends.CompiledKernel code;
        try
        {
            code = Accelerator.CompileKernel(EntryPointDescription.FromExplicitlyGroupedKernel(kernel.Method), new KernelSpecialization(group, null));
        }
        catch (Exception cause)
        {
            faults.Fail(); // ILGPU keeps the half of the kernel that it understood, and later compilations may stumble over it
            throw new KernelException($"{what}: ILGPU could not compile the kernel for {Accelerator.Name} in groups of {group} threads: {cause.GetBaseException().Message}", cause);
        }

        try
        {
            var loaded = Accelerator.LoadKernel(code);
            if (loaded is CudaKernel cuda)
            {
                CudaDriver.AllowAllShared(cuda, MaxSharedBytes);
            }

            return loaded;
        }
        catch (Exception cause)
        {
            faults.Fail(); // ILGPU keeps a kernel without a module, which cannot be released
            string log = Accelerator is CudaAccelerator cuda && code is PTXCompiledKernel ptx ? CudaDriver.LoadLog(cuda, ptx.PTXAssembly) : "";
            string detail = log.Length > 0 ? $" The driver's log:\n{log}" : faults.Doubt(cause);
            throw new KernelException($"{what}: {Accelerator.Name} refused the kernel: {cause.GetBaseException().Message.TrimEnd('.')}.{detail}", cause);
        }
    }

    void Note(Delegate kernel, LaunchShape shape, Kernel loaded)
    {
        Launches++;
        faults.Launched(kernel);
        Log?.Add(new KernelLaunch(DeviceFaults.NameOf(kernel), shape, loaded, (Accelerator as PtxEmulatorAccelerator)?.LastLaunch));
    }

    KernelException Failed(Delegate kernel, LaunchShape shape, ITuple arguments, Exception cause)
    {
        faults.Fail();
        var shown = Enumerable.Range(0, arguments.Length).Select(i => arguments[i] is IArrayView view ? $"[{view.Length}]" : $"{arguments[i]}");
        string message = $"{DeviceFaults.NameOf(kernel)} on {Name}: the launch of {shape} with ({string.Join(", ", shown)}) failed: {cause.GetBaseException().Message.TrimEnd('.')}.";
        return new(message + faults.Doubt(cause), cause);
    }
}

/// <summary>One launch, as <see cref="KernelDevice.Log"/> notes it.</summary>
/// <param name="Kernel">Class and method.</param>
/// <param name="Shape">Groups and threads.</param>
/// <param name="Compiled">The kernel for the types and the size of the group that this launch has.</param>
/// <param name="Counters">What the emulator counted; null on other devices.</param>
sealed record KernelLaunch(string Kernel, LaunchShape Shape, Kernel Compiled, LaunchCounters? Counters);
