using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>Opens devices by name.</summary>
public static class Device
{
    /// <summary>One line per device name: what it is, and whether it should open here; a GPU is not opened for it.</summary>
    public static IReadOnlyList<DeviceReport> Probe() =>
    [
        new("cpu", true, $"{Environment.ProcessorCount} threads, {Simd()}"),
        .. CudaDriver.WhyNone() is { } reason ? [new("cuda:0", false, reason)] : Reports(CudaDriver.Describe()),
        new("emulator", true, "executes the CUDA kernels' PTX on the CPU; checks and counts every access"),
        new("simulator", true, "runs the portable kernels as C# on the CPU, for a debugger; slow"),
    ];

    /// <summary>Opens a device. The caller disposes it, after everything that lives on it.</summary>
    /// <param name="name">
    /// <c>auto</c> (the first GPU that opens, else <c>cpu</c>); <c>cpu</c>; <c>cuda:N</c>; <c>emulator</c>, which executes the kernels' PTX on the CPU
    /// (<c>emulator:sm_75</c> and <c>emulator:sm_70</c>: the PTX for GPUs before Ampere); or <c>simulator</c>, which runs the portable kernels as C#, thread by thread, for a debugger.
    /// </param>
    /// <param name="activation">Element type of activations, F32 or BF16; null for the device's own choice: F32 on <c>cpu</c>, BF16 elsewhere.</param>
    /// <param name="notice">Hears why <c>auto</c> is the CPU on a machine that has a GPU.</param>
    /// <exception cref="ArgumentException">The name is unknown, the device is not there or does not open, or it has no such activations; the message says what was looked for and what would do.</exception>
    public static Backend Open(string name = "auto", DType? activation = null, Action<string>? notice = null) => (name, activation) switch
    {
        ("auto", _) => OpenFirst(CudaDriver.WhyNone() is null ? Reports(CudaDriver.Describe()) : [], device => Open(device, activation), notice),
        ("cpu", null or DType.F32) => new HostBackend<float>(),
        ("cpu", _) => throw new ArgumentException($"device 'cpu': {activation} activations, expected F32. Leave dtype out, or set it to f32.", nameof(activation)),
        (_, DType.F32) => new KernelBackend<F32>(KernelDevice.Rent(name)),
        (_, null or DType.BF16) => new KernelBackend<BF16>(KernelDevice.Rent(name)),
        _ => throw new ArgumentException($"device '{name}': {activation} activations, expected F32 or BF16.", nameof(activation)),
    };

    /// <summary>The first GPU that opens, or the CPU; then the reasons are noticed.</summary>
    internal static Backend OpenFirst(IEnumerable<DeviceReport> gpus, Func<string, Backend> open, Action<string>? notice)
    {
        List<string> reasons = [];
        foreach (var gpu in gpus)
        {
            try
            {
                if (gpu.Opens)
                {
                    return open(gpu.Name);
                }

                reasons.Add($"{gpu.Name}: {gpu.Detail}");
            }
            catch (ArgumentException cause)
            {
                reasons.Add(cause.Message);
            }
        }

        if (reasons.Count > 0)
        {
            notice?.Invoke($"device 'auto' is cpu, since no GPU opens: {string.Join(" ", reasons)}");
        }

        return open("cpu");
    }

    /// <summary>What to say of each GPU, the usable and the others.</summary>
    internal static IEnumerable<DeviceReport> Reports(IEnumerable<(string Description, string? WhyNot)> gpus) =>
        gpus.Index().Select(gpu => new DeviceReport($"cuda:{gpu.Index}", gpu.Item.WhyNot is null, gpu.Item.Description + (gpu.Item.WhyNot is { } reason ? $": {reason}" : "")));

    static string Simd() =>
        Vector512.IsHardwareAccelerated ? "512-bit vectors" : Vector256.IsHardwareAccelerated ? "256-bit vectors" : Vector128.IsHardwareAccelerated ? "128-bit vectors" : "no vectors";
}

/// <summary>What <see cref="Device.Probe"/> found under one name.</summary>
/// <param name="Name">What <see cref="Device.Open"/> takes.</param>
/// <param name="Opens">Whether it would open.</param>
/// <param name="Detail">What it is, or why it does not open.</param>
public sealed record DeviceReport(string Name, bool Opens, string Detail);
