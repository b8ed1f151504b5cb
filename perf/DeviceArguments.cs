using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>What the commands that run on a device have in common.</summary>
static class DeviceArguments
{
    public static string Device(Arguments args) => args["--device"] ?? "cuda:0";

    /// <summary>The device under a backend.</summary>
    /// <exception cref="ArgumentException">It is the host's.</exception>
    public static KernelDevice KernelsOf(Backend backend) => backend switch
    {
        KernelBackend<F32> single => single.Device,
        KernelBackend<BF16> brain => brain.Device,
        _ => throw new ArgumentException($"device '{backend.Name}' runs no kernels, expected cuda:N or emulator."),
    };

    /// <summary>What the device is, in words without quotation marks.</summary>
    public static string Describe(string device) => Kernels.Device.Probe().FirstOrDefault(report => report.Name == device)?.Detail ?? device;

    /// <summary>Appends rows to a CSV file that begins with <paramref name="header"/>.</summary>
    public static StreamWriter Append(string file, string header)
    {
        bool begun = File.Exists(file);
        var rows = new StreamWriter(file, append: true) { AutoFlush = true };
        if (!begun)
        {
            rows.WriteLine(header);
        }

        return rows;
    }

    /// <summary>Date, commit and device of a row. The commit is what the bundle for GPU hosts was made from; elsewhere it is empty.</summary>
    public static string Origin(string device)
    {
        string file = Path.Combine(AppContext.BaseDirectory, "commit");
        return $"{DateTime.UtcNow:yyyy-MM-dd},{(File.Exists(file) ? File.ReadAllText(file).Trim() : "")},\"{Describe(device)}\"";
    }
}
