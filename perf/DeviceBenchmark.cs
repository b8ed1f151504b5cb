using System.Diagnostics;
using System.Globalization;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Every operation of a device at the shapes of published models: microseconds, GB/s against its fewest bytes, TFLOP/s. Rows go to a CSV file.</summary>
static class DeviceBenchmark
{
    const int Samples = 25;
    const double SampleSeconds = 4e-3;
    const long ComputeBound = 100; // flops a byte; decoding has fewer and is bound by memory
    const long BeyondCaches = 200L << 20; // bytes that runs rotate over, so that no input is still in the L2 cache

    /// <param name="args">--device NAME --csv FILE [--shape MODEL, or tiny or even, which the emulator runs in a minute] [--operation PREFIX].</param>
    public static void Run(string[] args)
    {
        string device = DeviceArguments.Device(args), csv = DeviceArguments.Value(args, "--csv") ?? "device.csv";
        string? only = DeviceArguments.Value(args, "--shape"), prefix = DeviceArguments.Value(args, "--operation");
        using var backend = Device.Open(device);
        Console.WriteLine($"{device}: {DeviceArguments.Describe(device)}, {backend.Activation} activations");
        using var rows = DeviceArguments.Append(csv, "date,commit,device,who,operation,shape,dtype,bytes,flops,p20_us,p50_us,p80_us");
        IReadOnlyList<CaseShape> shapes = only is null ? CaseShape.Models : [.. CaseShape.Checked.Concat(CaseShape.Models).Where(shape => shape.Name == only)];
        if (shapes.Count == 0)
        {
            throw new ArgumentException($"--shape: expected one of {string.Join(", ", CaseShape.Checked.Concat(CaseShape.Models).Select(shape => shape.Name))}, got '{only}'.");
        }

        foreach (var shape in shapes)
        {
            Console.WriteLine($"{shape.Name}, {shape.Tokens} tokens");
            Console.WriteLine($"{"",-40} {"median",12} {"p20 ... p80",22}");
            foreach (var item in KernelCase.All(shape, backend.Activation).Where(item => prefix is null || item.Operation.StartsWith(prefix, StringComparison.Ordinal)))
            {
                double[] seconds = Time(backend, item);
                double p20 = seconds[Samples / 5], p50 = seconds[Samples / 2], p80 = seconds[Samples * 4 / 5];
                string rate = item.Flops > ComputeBound * item.Bytes ? $"{item.Flops / p50 / 1e12,8:F1} TFLOP/s" : $"{item.Bytes / p50 / 1e9,8:F0} GB/s";
                Console.WriteLine($"{item.Operation,-40} {p50 * 1e6,9:F1} us {p20 * 1e6,9:F1} ... {p80 * 1e6,-8:F1} {rate}");
                rows.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"{DeviceArguments.Origin(device)},ilgpu-peft,\"{item.Operation}\",{shape.Name},{backend.Activation},{item.Bytes},{item.Flops},{p20 * 1e6:F2},{p50 * 1e6:F2},{p80 * 1e6:F2}"));
            }
        }
    }

    /// <summary>Seconds of one run, sorted. Several copies of the case take turns.</summary>
    static double[] Time(Backend backend, KernelCase item)
    {
        int copies = (int)Math.Clamp(BeyondCaches / Math.Max(1, item.Bytes), 1, 16);
        List<CaseMemory> memories = [.. Enumerable.Range(0, copies).Select(_ => new CaseMemory(backend))];
        try
        {
            Action[] runs = [.. memories.Select(item.Prepare)];
            int next = 0;
            double once = Seconds(backend, () => runs[next++ % copies](), 3);
            once = Seconds(backend, () => runs[next++ % copies](), 3);
            int repeats = (int)Math.Clamp(SampleSeconds / once, 1, 2000);
            return [.. Enumerable.Range(0, Samples).Select(_ => Seconds(backend, () => runs[next++ % copies](), repeats)).Order()];
        }
        finally
        {
            memories.ForEach(memory => memory.Dispose());
        }
    }

    static double Seconds(Backend backend, Action run, int repeats)
    {
        backend.Synchronize();
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < repeats; i++)
        {
            run();
        }

        backend.Synchronize();
        return Stopwatch.GetElapsedTime(start).TotalSeconds / repeats;
    }
}
