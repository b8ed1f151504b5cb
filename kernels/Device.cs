using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>Opens devices by name.</summary>
public static class Device
{
    /// <summary>One line per device name: what it is, and whether it opens here.</summary>
    public static IReadOnlyList<DeviceReport> Probe() =>
    [
        new("cpu", true, $"{Environment.ProcessorCount} threads, {Simd()}"),
        new("cuda:0", false, NotBuilt("cuda:0")),
        new("emulator", true, "executes the CUDA kernels' PTX on the CPU; checks and counts every access"),
        new("simulator", true, "runs the portable kernels as C# on the CPU, for a debugger; slow"),
    ];

    /// <summary>Opens a device. The caller disposes it, after everything that lives on it.</summary>
    /// <param name="name">
    /// <c>auto</c> (the best that opens); <c>cpu</c>; <c>emulator</c>, which executes the kernels' PTX on the CPU; or <c>simulator</c>, which runs the portable kernels as C#, thread by
    /// thread, for a debugger.
    /// </param>
    /// <param name="activation">Element type of activations, F32 or BF16; null for the device's own choice: F32 on <c>cpu</c>, BF16 elsewhere.</param>
    /// <exception cref="ArgumentException">The name is unknown, or names a device that this version lacks, or the device has no such activations; the message says which would do.</exception>
    public static Backend Open(string name = "auto", DType? activation = null) => name switch
    {
        "auto" or "cpu" => activation is null or DType.F32
            ? new HostBackend<float>()
            : throw new ArgumentException($"device '{name}': {activation} activations, expected F32. Leave dtype out, or set it to f32.", nameof(activation)),
        "emulator" or "simulator" => OpenKernels(name, activation ?? DType.BF16),
        _ when name.StartsWith("cuda", StringComparison.Ordinal) || name.StartsWith("opencl", StringComparison.Ordinal) => throw new ArgumentException(NotBuilt(name), nameof(name)),
        _ => throw new ArgumentException($"device '{name}': expected auto, cpu, emulator or simulator. Run `ilgpu-peft devices` for the list.", nameof(name)),
    };

    static Backend OpenKernels(string name, DType activation) => activation switch
    {
        DType.F32 => new KernelBackend<F32>(KernelDevice.Rent(name)),
        DType.BF16 => new KernelBackend<BF16>(KernelDevice.Rent(name)),
        _ => throw new ArgumentException($"device '{name}': {activation} activations, expected F32 or BF16.", nameof(activation)),
    };

    static string Simd() =>
        Vector512.IsHardwareAccelerated ? "512-bit vectors" : Vector256.IsHardwareAccelerated ? "256-bit vectors" : Vector128.IsHardwareAccelerated ? "128-bit vectors" : "no vectors";

    static string NotBuilt(string name) =>
        $"device '{name}': the GPU kernels are not part of this version. Use cpu, which runs every command.";
}

/// <summary>What <see cref="Device.Probe"/> found under one name.</summary>
/// <param name="Name">What <see cref="Device.Open"/> takes.</param>
/// <param name="Opens">Whether it would open.</param>
/// <param name="Detail">What it is, or why it does not open.</param>
public sealed record DeviceReport(string Name, bool Opens, string Detail);
