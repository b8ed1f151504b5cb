using ILGPU;
using ILGPU.Runtime.Cuda;
using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// A kernel that fails on a GPU is heard of later, by whatever is asked of the GPU next. An emulator on which a fault is planted answers as the GPU does from then on: it refuses
/// everything.
/// </summary>
public class DeviceFaultTests
{
    static void First(ArrayView<float> x, int at) => x[at] = 1;

    static void Second(ArrayView<float> x, int at) => x[at] = 2;

    static void OfANewerGpu(ArrayView<float> x, int at) => CudaAsm.Emit("cp.async.commit_group;");

    static readonly Dictionary<string, Action<Backend, Slice, PendingRead>> Uses = new()
    {
        ["a wait"] = (backend, _, _) => backend.Synchronize(),
        ["a copy to the host"] = (backend, x, _) => backend.Download(x, new byte[x.Bytes]),
        ["a copy to the device"] = (backend, x, _) => backend.Upload(new byte[x.Bytes], x),
        ["a wait for a copy to the host"] = (_, _, read) => read.Wait(),
        ["an allocation of 16 bytes"] = (backend, _, _) => backend.Allocate(DType.F32, 4, "test"),
    };

    public static TheoryData<string> Names => [.. Uses.Keys];

    [Theory, MemberData(nameof(Names))]
    public void Fault_thatSomethingElseHears_namesTheLastLaunches_andGivingBackDoesNotHideIt(string use)
    {
        KernelDevice? device = null;

        var error = Assert.Throws<KernelException>(() =>
        {
            using var backend = Rented();
            device = backend.Device;
            var (x, other) = Launched(backend);
            var read = backend.ReadLater(x);
            Plant(device);
            Uses[use](backend, other, read);
        });

        Assert.StartsWith($"work queued on emulator failed, as {use} was told: an illegal memory access. The last launches were ", error.Message, StringComparison.Ordinal);
        Assert.Contains("DeviceFaultTests.First, DeviceFaultTests.Second. The environment variable CUDA_LAUNCH_BLOCKING=1", error.Message, StringComparison.Ordinal);
        Assert.IsType<CudaException>(error.InnerException);
        IsNotRentedAgain(device!);
    }

    [Fact]
    public void Fault_thatALaunchHears_mayBeThatOfAnEarlierOne()
    {
        using var backend = Rented();
        var (x, _) = Launched(backend);
        Plant(backend.Device);

        var error = Assert.Throws<KernelException>(() => backend.Device.Launch(First, LaunchShape.Groups(1, 32), backend.Device.Buffers.View<float>(x), 0));

        Assert.Contains("DeviceFaultTests.First on emulator: the launch of 1 x 1 x 1 groups of 32 threads with ([4], 0) failed: an illegal memory access. The fault may be that of a kernel "
            + "before it", error.Message, StringComparison.Ordinal);
        Assert.EndsWith("DeviceFaultTests.First, DeviceFaultTests.Second.", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true, "a release of memory")]
    [InlineData(false, "a wait at the end")]
    public void Fault_thatNobodyHearsBefore_isThrownWhenAllIsGivenBack(bool holdsMemory, string what)
    {
        var backend = Rented();
        var (x, other) = Launched(backend);
        if (!holdsMemory)
        {
            backend.Free(x);
            backend.Free(other);
        }

        Plant(backend.Device);

        var error = Assert.Throws<KernelException>(backend.Dispose);

        Assert.StartsWith($"work queued on emulator failed, as {what} was told: ", error.Message, StringComparison.Ordinal);
        var emulator = (PtxEmulatorAccelerator)backend.Device.Accelerator;
        Assert.Equal(emulator.MemorySize, emulator.FreeMemory); // the second allocation came back, too
        IsNotRentedAgain(backend.Device);
    }

    [Fact]
    public void Kernel_thatTheDriverRefuses_isTheErrorToHear_alsoWhereTheDeviceIsClosed()
    {
        var device = KernelDevices.Open("emulator:sm_70");

        var error = Assert.Throws<KernelException>(() =>
        {
            try
            {
                device.Launch(OfANewerGpu, LaunchShape.Groups(1, 32), default(ArrayView<float>), 0);
            }
            finally
            {
                Plant(device); // a module that was never loaded cannot be released
                device.Return();
            }
        });

        Assert.Contains("DeviceFaultTests.OfANewerGpu on emulator:sm_70: PTX emulator (sm_70) refused the kernel: ", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Device_whoseContextIsRefused_isAnArgumentException_andNothingStaysOpen()
    {
        var context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1));

        var error = Assert.Throws<ArgumentException>(() => KernelDevices.Open("cuda:0", context, _ => throw new CudaException("exclusive-thread device already in use by a different thread")));

        Assert.Equal("device 'cuda:0': it does not open: exclusive-thread device already in use by a different thread. See in nvidia-smi whether another process has the GPU or its memory. "
            + "Or use cpu, which runs every command, or emulator, which runs the CUDA kernels slowly.", error.Message);
        Assert.True(context.IsDisposed);
    }

    [Fact]
    public void Device_whosePageLockedMemoryIsRefused_isAnArgumentException_andNothingStaysOpen()
    {
        var context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1).Profiling());
        var emulator = context.CreatePtxEmulator();

        var error = Assert.Throws<ArgumentException>(() => KernelDevices.Open("cuda:0", context, _ =>
        {
            emulator.Fault = new CudaException("out of memory");
            return (emulator, 0);
        }));

        Assert.Contains("device 'cuda:0': it does not open: out of memory.", error.Message, StringComparison.Ordinal);
        Assert.True(emulator.DefaultStream.IsDisposed); // though its accelerator refused to be
        Assert.True(context.IsDisposed);
    }

    [Fact]
    public void Auto_isTheFirstGpuThatOpens()
    {
        using var expected = new HostBackend<float>();
        List<string> tried = [];
        var gpus = Device.Reports([("old", "too old."), ("busy", null), ("free", null), ("another", null)]);
        Assert.Equal([new("cuda:0", false, "old: too old."), new("cuda:1", true, "busy"), new("cuda:2", true, "free"), new("cuda:3", true, "another")], gpus);

        var opened = Device.OpenFirst(gpus, Open, notice: text => Assert.Fail(text));

        Assert.Same(expected, opened);
        Assert.Equal(["cuda:1", "cuda:2"], tried);

        Backend Open(string name)
        {
            tried.Add(name);
            return name == "cuda:1" ? throw new ArgumentException("device 'cuda:1': busy.") : expected;
        }
    }

    [Fact]
    public void Auto_withoutAGpuThatOpens_isTheCpu_andSaysWhy()
    {
        List<string> notices = [];
        using var opened = Device.OpenFirst(Device.Reports([("old", "too old."), ("busy", null)]),
            name => name == "cpu" ? new HostBackend<float>() : throw new ArgumentException($"device '{name}': busy."), notices.Add);

        Assert.Equal("cpu", opened.Name);
        Assert.Equal(["device 'auto' is cpu, since no GPU opens: cuda:0: old: too old. device 'cuda:1': busy."], notices);
        Device.OpenFirst([], _ => opened, notices.Add);
        Assert.Single(notices); // a machine without a GPU is no surprise
    }

    [Fact]
    public void Reads_thatNobodyWaitsFor_keepTheirPlaces_andShareLockedMemory()
    {
        using var backend = new KernelBackend<F32>(KernelDevices.OpenEmulator("emulator"));
        var x = backend.Allocate(DType.I32, 1, "test");
        backend.ReadLater(x);
        int before = backend.Device.Accelerator.NumberChildObjects;
        List<PendingRead> reads = [];
        for (int i = 0; i < 63; i++)
        {
            Read(i);
        }

        Assert.Equal(before + 63, backend.Device.Accelerator.NumberChildObjects); // a marker each, and no memory
        for (int i = 63; i < 70; i++)
        {
            Read(i);
        }

        Assert.Equal(Enumerable.Range(0, 70), reads.Select(read => BitConverter.ToInt32(read.Wait())));

        void Read(int value)
        {
            backend.Upload(BitConverter.GetBytes(value), x);
            reads.Add(backend.ReadLater(x));
        }
    }

    static KernelBackend<F32> Rented() => new(KernelDevice.Rent("emulator"));

    static void Plant(KernelDevice device) => ((PtxEmulatorAccelerator)device.Accelerator).Fault = new CudaException("an illegal memory access");

    /// <summary>What both kernels were launched on, and another allocation.</summary>
    static (Slice X, Slice Other) Launched(KernelBackend<F32> backend)
    {
        var x = backend.Allocate(DType.F32, 4, "test");
        backend.Device.Launch(First, LaunchShape.Groups(1, 32), backend.Device.Buffers.View<float>(x), 0);
        backend.Device.Launch(Second, LaunchShape.Groups(1, 32), backend.Device.Buffers.View<float>(x), 0);
        return (x, backend.Allocate(DType.F32, 4, "test"));
    }

    static void IsNotRentedAgain(KernelDevice device)
    {
        using var next = Rented();
        Assert.NotSame(device, next.Device);
        next.Synchronize();
    }
}
