using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>Opens devices by name.</summary>
public static class Device
{
    /// <summary>One line per device name: what it is, and whether it opens here.</summary>
    public static IReadOnlyList<DeviceReport> Probe() =>
    [
        new("cpu", true, $"{Environment.ProcessorCount} threads, {Simd()}"),
        .. ProbeCuda(),
        new("emulator", true, "executes the CUDA kernels' PTX on the CPU; checks and counts every access"),
        new("simulator", true, "runs the portable kernels as C# on the CPU, for a debugger; slow"),
    ];

    /// <summary>Opens a device. The caller disposes it, after everything that lives on it.</summary>
    /// <param name="name">
    /// <c>auto</c> (<c>cuda:0</c> if it opens, else <c>cpu</c>); <c>cpu</c>; <c>cuda:N</c>; <c>emulator</c>, which executes the kernels' PTX on the CPU
    /// (<c>emulator:sm_75</c> and <c>emulator:sm_70</c>: the PTX for GPUs before Ampere); or <c>simulator</c>, which runs the portable kernels as C#, thread by thread, for a debugger.
    /// </param>
    /// <param name="activation">Element type of activations, F32 or BF16; null for the device's own choice: F32 on <c>cpu</c>, BF16 elsewhere.</param>
    /// <exception cref="ArgumentException">The name is unknown, the device is not there, or it has no such activations; the message says what was looked for and what would do.</exception>
    public static Backend Open(string name = "auto", DType? activation = null)
    {
        if (name == "auto")
        {
            name = CudaDriver.WhyNot(0) is null ? "cuda:0" : "cpu";
        }

        return (name, activation) switch
        {
            ("cpu", null or DType.F32) => new HostBackend<float>(),
            ("cpu", _) => throw new ArgumentException($"device 'cpu': {activation} activations, expected F32. Leave dtype out, or set it to f32.", nameof(activation)),
            (_, DType.F32) => new KernelBackend<F32>(KernelDevice.Rent(name)),
            (_, null or DType.BF16) => new KernelBackend<BF16>(KernelDevice.Rent(name)),
            _ => throw new ArgumentException($"device '{name}': {activation} activations, expected F32 or BF16.", nameof(activation)),
        };
    }

    static IEnumerable<DeviceReport> ProbeCuda()
    {
        if (CudaDriver.WhyNot(0) is { } reason)
        {
            return [new("cuda:0", false, reason)];
        }

        return CudaDriver.Describe().Index().Select(device => new DeviceReport($"cuda:{device.Index}", CudaDriver.WhyNot(device.Index) is null, device.Item));
    }

    static string Simd() =>
        Vector512.IsHardwareAccelerated ? "512-bit vectors" : Vector256.IsHardwareAccelerated ? "256-bit vectors" : Vector128.IsHardwareAccelerated ? "128-bit vectors" : "no vectors";
}

/// <summary>What <see cref="Device.Probe"/> found under one name.</summary>
/// <param name="Name">What <see cref="Device.Open"/> takes.</param>
/// <param name="Opens">Whether it would open.</param>
/// <param name="Detail">What it is, or why it does not open.</param>
public sealed record DeviceReport(string Name, bool Opens, string Detail);
