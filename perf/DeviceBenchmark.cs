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

    /// <param name="args">[--device NAME] [--csv FILE] [--shape MODEL, or tiny or even, which the emulator runs in a minute] [--operation PREFIX] [--progress FILE].</param>
    public static int Run(Arguments args)
    {
        string device = DeviceArguments.Device(args), csv = args["--csv"] ?? "device.csv";
        IReadOnlyList<CaseShape> shapes = Shapes(args);
        Selected(KernelCase.All(shapes[0], DType.BF16), args["--operation"]); // names are the same for every shape and type: a wrong one is told before anything is opened
        var run = new ResumableRun(args["--progress"]);
        var backend = Device.Open(device); // given back only whole: after a fault the process ends
        Console.WriteLine($"{device}: {DeviceArguments.Describe(device)}, {backend.Activation} activations");
        using var rows = DeviceArguments.Append(csv, "date,commit,device,who,operation,shape,dtype,bytes,flops,p20_us,p50_us,p80_us");
        foreach (var shape in shapes)
        {
            string Name(KernelCase item) => $"{shape.Name} {item.Operation}";
            Console.WriteLine($"{shape.Name}, {shape.Tokens} tokens");
            Console.WriteLine($"{"",-40} {"median",12} {"p20 ... p80",22}");
            foreach (var item in run.Left(Selected(KernelCase.All(shape, backend.Activation), args["--operation"]), Name))
            {
                double[] seconds = [];
                if (!run.Try(Name(item), () => seconds = Time(backend, item)))
                {
                    return ResumableRun.Stopped;
                }

                double p20 = seconds[Samples / 5], p50 = seconds[Samples / 2], p80 = seconds[Samples * 4 / 5];
                string rate = item.Flops > ComputeBound * item.Bytes ? $"{item.Flops / p50 / 1e12,8:F1} TFLOP/s" : $"{item.Bytes / p50 / 1e9,8:F0} GB/s";
                Console.WriteLine($"{item.Operation,-40} {p50 * 1e6,9:F1} us {p20 * 1e6,9:F1} ... {p80 * 1e6,-8:F1} {rate}");
                rows.WriteLine(string.Create(CultureInfo.InvariantCulture,
                    $"{DeviceArguments.Origin(device)},ilgpu-peft,\"{item.Operation}\",{shape.Name},{backend.Activation},{item.Bytes},{item.Flops},{p20 * 1e6:F2},{p50 * 1e6:F2},{p80 * 1e6:F2}"));
            }
        }

        backend.Dispose();
        return 0;
    }

    static IReadOnlyList<CaseShape> Shapes(Arguments args)
    {
        IEnumerable<CaseShape> known = [.. CaseShape.Checked, .. CaseShape.Models];
        return args["--shape"] is null ? CaseShape.Models : [known.First(shape => shape.Name == args.OneOf("--shape", known.Select(shape => shape.Name), ""))];
    }

    static List<KernelCase> Selected(IEnumerable<KernelCase> cases, string? prefix)
    {
        List<KernelCase> all = [.. cases], selected = [.. all.Where(item => prefix is null || item.Operation.StartsWith(prefix, StringComparison.Ordinal))];
        return selected.Count > 0 ? selected
            : throw new ArgumentException($"--operation: expected the beginning of one of {string.Join("; ", all.Select(item => item.Operation))}, got '{prefix}'.");
    }

    /// <summary>Seconds of one run, sorted. Several copies of the case take turns.</summary>
    static double[] Time(Backend backend, KernelCase item)
    {
        int copies = (int)Math.Clamp(BeyondCaches / Math.Max(1, item.Bytes), 1, 16);
        List<CaseMemory> memories = [.. Enumerable.Range(0, copies).Select(_ => new CaseMemory(backend))];
        Action[] runs = [.. memories.Select(item.Prepare)];
        int next = 0;
        double once = Seconds(backend, () => runs[next++ % copies](), 3);
        once = Seconds(backend, () => runs[next++ % copies](), 3);
        int repeats = (int)Math.Clamp(SampleSeconds / once, 1, 2000);
        double[] seconds = [.. Enumerable.Range(0, Samples).Select(_ => Seconds(backend, () => runs[next++ % copies](), repeats)).Order()];
        memories.ForEach(memory => memory.Dispose()); // not after a fault: memory cannot be freed either, and the first error is the one to print
        return seconds;
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
