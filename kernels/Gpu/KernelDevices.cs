using System.Globalization;
using ILGPU;
using ILGPU.Runtime;
using ILGPU.Runtime.CPU;
using ILGPU.Runtime.Cuda;
using IlgpuPeft.PtxEmulator;

namespace IlgpuPeft.Kernels;

/// <summary>Opens the accelerators that run kernels, all with the same compiler pipeline and the same intrinsics.</summary>
static class KernelDevices
{
    /// <summary>A new device.</summary>
    /// <param name="name"><c>emulator</c>, <c>emulator:sm_75</c>, <c>emulator:sm_70</c>, <c>simulator</c> or <c>cuda:N</c>.</param>
    /// <exception cref="ArgumentException">The name is unknown, or there is no such device here; the message says what was looked for.</exception>
    public static KernelDevice Open(string name) => name switch
    {
        "emulator" => OpenEmulator(name),
        "emulator:sm_75" => OpenEmulator(name, new PtxEmulatorOptions { Architecture = CudaArchitecture.SM_75 }),
        "emulator:sm_70" => OpenEmulator(name, new PtxEmulatorOptions { Architecture = CudaArchitecture.SM_70 }),
        "simulator" => OpenSimulator(),
        _ when CudaIndex(name) is { } index => OpenCuda(name, index),
        _ when name.StartsWith("opencl", StringComparison.Ordinal) => throw new ArgumentException(
            $"device '{name}': OpenCL is not supported: kernels pass values between the 32 lanes of a warp, which not every OpenCL device can. Use cpu, or cuda:N with an NVIDIA GPU.", nameof(name)),
        _ => throw new ArgumentException($"device '{name}': expected auto, cpu, cuda:N, emulator or simulator. Run `ilgpu-peft devices` for the list.", nameof(name)),
    };

    /// <summary>The number behind <c>cuda:</c>; 0 for <c>cuda</c> alone, null for other names.</summary>
    public static int? CudaIndex(string name) =>
        name == "cuda" ? 0 : name.StartsWith("cuda:", StringComparison.Ordinal) && int.TryParse(name.AsSpan(5), NumberStyles.None, CultureInfo.InvariantCulture, out int index) ? index : null;

    static KernelDevice OpenCuda(string name, int index)
    {
        if (CudaDriver.WhyNot(index) is { } reason)
        {
            throw NotHere(name, reason);
        }

        return Open(name, NewContext(builder => builder.Cuda()), context =>
        {
            var accelerator = Find(context, name, index).CreateCudaAccelerator(context);
            IlgpuInternals.UseSafePipeline(accelerator.Backend);
            return (accelerator, CudaDriver.MaxSharedBytes(accelerator));
        });
    }

    // By the driver's number: ILGPU leaves out devices that it cannot compile for, and counts the rest.
    static CudaDevice Find(Context context, string name, int index)
    {
        foreach (var device in context.GetCudaDevices())
        {
            if (device.DeviceId == index)
            {
                return device;
            }
        }

        throw NotHere(name, "ILGPU 1.5.3 cannot compile for this GPU and driver. Check that nvidia-smi lists the GPU, and that the driver is as new as the GPU needs.");
    }

    /// <summary>A device over an accelerator that a GPU may refuse; then nothing stays open.</summary>
    /// <param name="name">As <see cref="Open(string)"/> takes it.</param>
    /// <param name="context">The accelerator's.</param>
    /// <param name="create">Creates the accelerator, and says how much shared memory a group may ask for.</param>
    /// <exception cref="ArgumentException">The GPU or its driver refused something; the message says what.</exception>
    internal static KernelDevice Open(string name, Context context, Func<Context, (Accelerator Accelerator, int MaxSharedBytes)> create)
    {
        Accelerator? accelerator = null;
        try
        {
            (accelerator, int maxSharedBytes) = create(context);
            return new KernelDevice(name, accelerator, maxSharedBytes);
        }
        catch (Exception cause)
        {
            Close(context, accelerator);
            if (cause is AcceleratorException or NotSupportedException)
            {
                throw NotHere(name, $"it does not open: {cause.Message.TrimEnd('.')}. See in nvidia-smi whether another process has the GPU or its memory.", cause);
            }

            throw;
        }
    }

    static void Close(Context context, Accelerator? accelerator)
    {
        try
        {
            accelerator?.Dispose();
        }
        catch (AcceleratorException)
        {
            // The error to hear is the one that it did not open for.
        }

        context.Dispose();
    }

    static ArgumentException NotHere(string name, string reason, Exception? cause = null) =>
        new($"device '{name}': {reason} Or use cpu, which runs every command, or emulator, which runs the CUDA kernels slowly.", cause);

    /// <summary>A new emulator.</summary>
    public static KernelDevice OpenEmulator(string name, PtxEmulatorOptions? options = null)
    {
        options ??= new PtxEmulatorOptions();
        return new KernelDevice(name, NewContext(_ => { }).CreatePtxEmulator(options), options.MaxSharedBytes);
    }

    // The largest groups of the portable kernels, and one group at a time: a barrier of more threads costs milliseconds there.
    static KernelDevice OpenSimulator()
    {
        var device = new CPUDevice(numThreadsPerWarp: 32, numWarpsPerMultiprocessor: LaunchShape.Threads / 32, numMultiprocessors: 1);
        return new KernelDevice("simulator", NewContext(builder => builder.CPU(device)).CreateCPUAccelerator(0), maxSharedBytes: 48 << 10);
    }

    // Never O2: in ILGPU 1.5.3 it moves loads across stores and barriers.
    static Context NewContext(Action<Context.Builder> configure) => Context.Create(builder =>
    {
        builder.Optimize(OptimizationLevel.O1).EnableAlgorithms().Profiling();
        configure(builder);
        PtxIntrinsics.Register(builder, typeof(Intrinsics), typeof(PtxIntrinsics), typeof(PortableIntrinsics));
        PtxIntrinsics.Register(builder, typeof(WarpTileIntrinsics), typeof(PtxWarpTile));
        PtxIntrinsics.Register(builder, typeof(AttentionTile), typeof(PtxAttentionTile));
    });
}
