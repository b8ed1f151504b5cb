using IlgpuPeft.Kernels;

namespace IlgpuPeft.Config;

/// <summary>Opens the device that <c>device</c> and <c>dtype</c> ask for.</summary>
public static class RunDevice
{
    /// <summary>Opens a device.</summary>
    /// <param name="device">As <see cref="Device.Open"/> takes it.</param>
    /// <param name="dtype"><c>auto</c>, <c>f32</c> or <c>bf16</c>: the type of activations.</param>
    /// <param name="notice">Hears why <c>auto</c> is the CPU on a machine that has a GPU.</param>
    /// <exception cref="ArgumentException">The device is not there, or lacks the type.</exception>
    public static Backend Open(string device, string dtype, Action<string>? notice = null) => Device.Open(device, dtype switch
    {
        "auto" => null,
        "f32" => DType.F32,
        "bf16" => DType.BF16,
        _ => throw new ArgumentException($"dtype: {dtype}, expected auto, f32 or bf16.", nameof(dtype)),
    }, notice);
}
