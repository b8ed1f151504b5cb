using System.Runtime.InteropServices;
using ILGPU;
using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What goes wrong between a backend and its device: each error names operation, device and shapes, and leaves other backends as they were.</summary>
public class KernelDeviceTests
{
    static void Write(ArrayView<float> x, int at) => x[at] = 1;

    static void Unsupported(ArrayView<float> x, int at) => x[at] = Environment.GetEnvironmentVariable("HOME")!.Length;

    [Fact]
    public void Kernel_thatIlgpuCannotCompile_namesOperationDeviceAndCause()
    {
        using var oracle = new Oracle("emulator-f32", 1);
        var device = oracle.Device!;
        var view = device.Buffers.View<float>(oracle.Put([1.0]));

        var error = Assert.Throws<KernelException>(() => device.Launch(Unsupported, LaunchShape.Groups(1, 32), view, 0));

        Assert.Contains("KernelDeviceTests.Unsupported on emulator: ILGPU could not compile the kernel for PTX emulator (sm_80) in groups of 32 threads", error.Message, StringComparison.Ordinal);
        Assert.NotNull(error.InnerException);
    }

    [Fact]
    public void Launch_thatFails_namesShapesAndCause_andTheDeviceIsNotUsedAgain()
    {
        KernelDevice failed;
        using (var oracle = new Oracle("emulator-f32", 1))
        {
            failed = oracle.Device!;
            var view = failed.Buffers.View<float>(oracle.Put(new double[8]));
            var error = Assert.Throws<KernelException>(() => failed.Launch(Write, LaunchShape.Groups(2, 32), view, 8));
            Assert.Contains("KernelDeviceTests.Write on emulator: the launch of 2 x 1 x 1 groups of 32 threads with ([8], 8) failed:", error.Message, StringComparison.Ordinal);
            Assert.Contains("out of bounds", error.Message, StringComparison.Ordinal);
        }

        using var next = new Oracle("emulator-f32", 1);
        Assert.NotSame(failed, next.Device);
        next.Backend.Fill(next.Output(3), 1);
    }

    [Fact]
    public void Rounding_onAGpuWithoutTheInstruction_isTheSame()
    {
        uint[] bits = [0, 0x8000_0000, 1, 0x7FFF, 0x8000, 0x8001, 0x3F80_7FFF, 0x3F80_8000, 0x3F80_8001, 0x3F81_8000, 0xBF81_7FFF, 0xBF81_8000, 0x7F7F_FFFF, 0xFF7F_8000, 0x7F80_0000, 0xFF80_0000, 0x7F80_0001, 0x7FFF_FFFF, 0xFFFF_FFFF];
        float[] values = Array.ConvertAll(bits, BitConverter.UInt32BitsToSingle);
        ushort[] expected = Array.ConvertAll(values, Intrinsics.NarrowToBf16);
        foreach (string name in (string[])["emulator:sm_75", "emulator"])
        {
            using var backend = new KernelBackend<BF16>(KernelDevices.Open(name));
            Assert.Equal(name == "emulator", backend.UsesTensorCores);
            Slice from = backend.Allocate(DType.F32, values.Length, "test"), to = backend.Allocate(DType.BF16, values.Length, "test");
            backend.Upload(MemoryMarshal.AsBytes<float>(values), from);
            backend.Copy(from, to);
            var actual = new ushort[values.Length];
            backend.Download(to, MemoryMarshal.AsBytes(actual.AsSpan()));
            Assert.Equal(expected, actual);
            backend.Free(from);
            backend.Free(to);
        }
    }

    [Fact]
    public void Launch_ofTooManyThreads_isAKernelException()
    {
        using var oracle = new Oracle("emulator-f32", 1);
        var device = oracle.Device!;
        var view = device.Buffers.View<float>(oracle.Put([1.0]));
        Assert.Contains("KernelDeviceTests.Write on emulator", Assert.Throws<KernelException>(() => device.Launch(Write, LaunchShape.Groups(1, 4096), view, 0)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Allocation_thatDoesNotFit_saysWhatIsFreeWhoHoldsMostAndWhatToSet()
    {
        using var backend = new KernelBackend<F32>(KernelDevices.OpenEmulator("emulator", new PtxEmulatorOptions { MemoryBytes = 1 << 20 }));
        backend.Allocate(DType.F32, 150_000, "weights");

        var error = Assert.Throws<DeviceMemoryException>(() => backend.Allocate(DType.F32, 200_000, "activations"));

        Assert.Contains("emulator: no room for 781.3 KiB of activations, 438.1 KiB of 1 MiB are free.", error.Message, StringComparison.Ordinal);
        Assert.Contains("Held now: 585.9 KiB (weights 585.9 KiB). Weights: turn on load_in_4bit. Activations: lower micro_batch_size", error.Message, StringComparison.Ordinal);
        Assert.False(backend.Allocate(DType.F32, 100_000, "activations").IsEmpty); // what failed took nothing
    }

    [Fact]
    public void WorkingMemory_thatDoesNotFit_isTheSameError_andWhatItHeldIsFree()
    {
        var device = KernelDevices.OpenEmulator("emulator", new PtxEmulatorOptions { MemoryBytes = 1 << 20 });
        using var backend = new KernelBackend<F32>(device);
        using var scratch = new ScratchBuffers(device, backend.Memory);
        backend.Allocate(DType.F32, 100_000, "weights");
        scratch.Get("logits", DType.F32, 1000);

        var error = Assert.Throws<DeviceMemoryException>(() => scratch.Get("logits", DType.F32, 200_000));

        Assert.Contains("emulator: no room for 781.3 KiB of kernels' working memory (logits), 633.4 KiB of 1 MiB are free. Held now: 390.6 KiB (weights 390.6 KiB). Weights: turn on", error.Message, StringComparison.Ordinal);
        Assert.Equal(0, scratch.Bytes);
    }

    [Fact]
    public void Slice_ofAnotherDevice_isRefused()
    {
        using var host = new HostBackend<float>();
        using var oracle = new Oracle("emulator-f32", 1);
        var foreign = host.Allocate(DType.F32, 4, "test");
        Assert.Contains("is not allocated on this device", Assert.Throws<ArgumentException>(() => oracle.Backend.Fill(foreign, 1)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("cuda:99")]
    [InlineData("cuda:x")]
    [InlineData("opencl:0")]
    [InlineData("tpu")]
    public void Device_thatIsNotThere_saysWhichWouldDo(string name) => Assert.Contains("cpu", Assert.Throws<ArgumentException>(() => Device.Open(name)).Message, StringComparison.Ordinal);

    [Theory, MemberData(nameof(Devices))]
    public void ReadLater_ofSeveralValues_keepsWhatWasThereWhenItWasQueued(string device)
    {
        using var oracle = new Oracle(device, 1);
        var slice = oracle.Put([1.0, 2.0], DType.F32);
        var first = oracle.Backend.ReadLater(slice);
        oracle.Backend.Fill(slice, 7);
        var second = oracle.Backend.ReadLater(slice);

        Assert.Equal([7f, 7f], Floats(second));
        Assert.Equal([1f, 2f], Floats(first));
        Assert.Equal([1f, 2f], Floats(first));

        static float[] Floats(PendingRead read) => MemoryMarshal.Cast<byte, float>(read.Wait()).ToArray();
    }

    [Fact]
    public void Upload_ofMoreThanTheStagingMemory_arrivesWhole()
    {
        using var oracle = new Oracle("emulator-f32", 1);
        var values = new float[3_000_000];
        new Random(1).NextBytes(MemoryMarshal.AsBytes(values.AsSpan()));
        var slice = oracle.Backend.Allocate(DType.F32, values.Length, "test");
        oracle.Backend.Upload(MemoryMarshal.AsBytes<float>(values), slice);
        var back = new float[values.Length];
        oracle.Backend.Download(slice, MemoryMarshal.AsBytes(back.AsSpan()));
        Assert.True(MemoryMarshal.AsBytes<float>(values).SequenceEqual(MemoryMarshal.AsBytes<float>(back)));
    }

    public static TheoryData<string> Devices => TestDevices.All.Rows();
}
