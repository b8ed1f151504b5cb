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
        new("emulator", false, NotBuilt("emulator")),
    ];

    /// <summary>Opens a device. The caller disposes it, after everything that lives on it.</summary>
    /// <param name="name"><c>auto</c> (the best that opens) or <c>cpu</c>.</param>
    /// <exception cref="ArgumentException">The name is unknown, or names a device that this version lacks; the message says which would do.</exception>
    public static Backend Open(string name = "auto") => name switch
    {
        "auto" or "cpu" => new HostBackend<float>(),
        "emulator" or "simulator" => throw new ArgumentException(NotBuilt(name), nameof(name)),
        _ when name.StartsWith("cuda", StringComparison.Ordinal) || name.StartsWith("opencl", StringComparison.Ordinal) => throw new ArgumentException(NotBuilt(name), nameof(name)),
        _ => throw new ArgumentException($"device '{name}': expected auto or cpu. Run `ilgpu-peft devices` for the list.", nameof(name)),
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
