using IlgpuPeft.Kernels;

namespace IlgpuPeft.Config;

/// <summary>Opens the device that <c>device</c> and <c>dtype</c> ask for.</summary>
public static class RunDevice
{
    /// <summary>Opens a device, and checks that its activations have the type that is asked for.</summary>
    /// <param name="device">As <see cref="Device.Open"/> takes it.</param>
    /// <param name="dtype"><c>auto</c>, <c>f32</c> or <c>bf16</c>.</param>
    /// <exception cref="ArgumentException">This version lacks the device, or the device the type.</exception>
    public static Backend Open(string device, string dtype)
    {
        var backend = Device.Open(device);
        if (dtype == "auto" || string.Equals(dtype, backend.Activation.ToString(), StringComparison.OrdinalIgnoreCase))
        {
            return backend;
        }

        string name = backend.Name, only = backend.Activation.ToString().ToLowerInvariant();
        backend.Dispose();
        throw new ArgumentException($"dtype: {dtype} activations are not available on {name}, expected {only}. Leave dtype out, or set it to {only}.", nameof(dtype));
    }
}
