using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// The devices that this machine has, with what is stored on them: <c>cpu</c>, <c>cpu-f64</c>, then kernels on the PTX emulator and on a GPU if there is one. <c>portable</c> keeps kernels
/// off tensor cores. The environment variable <c>TEST_KERNELS</c> names the one device whose kernels are tested, for a GPU host where those of the emulator would take the time.
/// </summary>
static class TestDevices
{
    static readonly string[] Kernels = Environment.GetEnvironmentVariable("TEST_KERNELS") is { Length: > 0 } only ? [only] : CudaDriver.WhyNot(0) is null ? ["emulator", "cuda:0"] : ["emulator"];

    static readonly string[] Host = ["cpu", "cpu-f64"];

    /// <summary>What every operation is tested on.</summary>
    public static IEnumerable<string> All => [.. Host, .. Kernels.SelectMany(device => new[] { $"{device}-f32", $"{device}-bf16" })];

    /// <summary>What matrix products and attention are tested on: there bfloat16 has a second form, without tensor cores.</summary>
    public static IEnumerable<string> Matrix => [.. All, .. Kernels.Select(device => $"{device}-bf16-portable")];

    /// <summary>Those of <see cref="All"/> that run kernels.</summary>
    public static IEnumerable<string> WithKernels => All.Except(Host);

    /// <summary>Those that multiply on tensor cores.</summary>
    public static IReadOnlyList<string> WithTensorCores { get; } = [.. Kernels.Select(device => $"{device}-bf16").Where(UsesTensorCores)];

    /// <summary>Those of <see cref="Matrix"/> that run kernels.</summary>
    public static IEnumerable<string> MatrixWithKernels => Matrix.Except(Host);

    /// <summary>Opens one of them.</summary>
    public static Backend Open(string device)
    {
        string[] parts = device.Split('-');
        bool portable = parts[^1] == "portable";
        return device switch
        {
            "cpu" => new HostBackend<float>(),
            "cpu-f64" => new HostBackend<double>(),
            _ => parts[1] == "f32" ? new KernelBackend<F32>(KernelDevice.Rent(parts[0]), portable) : new KernelBackend<BF16>(KernelDevice.Rent(parts[0]), portable),
        };
    }

    /// <summary>The device under a backend that runs kernels; null for the host's.</summary>
    public static KernelDevice? DeviceOf(Backend backend) => backend switch { KernelBackend<F32> single => single.Device, KernelBackend<BF16> brain => brain.Device, _ => null };

    /// <summary>How near a whole model comes to numbers that were computed in double precision.</summary>
    public static double Tolerance(string device) => device.Contains("bf16", StringComparison.Ordinal) ? 3e-2 : 1e-4;

    /// <summary>Names as xunit takes them.</summary>
    public static TheoryData<string> Rows(this IEnumerable<string> devices) => [.. devices];

    static bool UsesTensorCores(string device)
    {
        using var backend = Open(device);
        return backend is KernelBackend<BF16> { UsesTensorCores: true };
    }
}
