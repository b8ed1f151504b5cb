using System.Diagnostics;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>A whole LoRA training step, over NF4 and over dense weights, against OpenBLAS' time for its dense products.</summary>
static class StepBenchmark
{
    /// <param name="args">[SHAPE [TOKENS [ROUNDS]]].</param>
    public static int Run(Arguments args)
    {
        string shape = args.OneOf("SHAPE", ModelShapes.All.Keys, "smollm2-135m");
        int tokens = args.Number("TOKENS", 256), rounds = args.Number("ROUNDS", 9);
        string folder = RandomModels.Folder(shape);
        Console.WriteLine($"{shape}, {tokens} tokens, LoRA rank {TrainingStep.Rank} on all linear layers, {Workers.Count} threads, {Simd.Path}; OpenBLAS: {OpenBlas.Describe()}");

        // NF4 first and alone, so that the process' peak is its own.
        using var backend = new HostBackend<float>();
        using var quantisedModel = PretrainedModel.Load(folder, backend, WeightStorage.Nf4Double);
        using var quantised = new TrainingStep(quantisedModel, tokens);
        quantised.Run();
        quantised.Run();
        Console.WriteLine($"NF4 after two steps: peak resident {PeakResidentMegabytes():F0} MB; device {backend.Memory}");
        long collections = GC.CollectionCount(0), before = GC.GetTotalAllocatedBytes(), allocations = backend.Memory.Allocations;
        quantised.Run();
        Console.WriteLine($"a step allocates {(GC.GetTotalAllocatedBytes() - before) / 1024} KiB managed, {backend.Memory.Allocations - allocations} device ranges, {GC.CollectionCount(0) - collections} collections");
        using var denseBackend = new HostBackend<float>();
        using var denseModel = PretrainedModel.Load(folder, denseBackend);
        using var dense = new TrainingStep(denseModel, tokens);
        dense.Run();
        dense.Run();
        using var floor = OpenBlas.IsPresent ? new TrainingFloor(denseModel, tokens) : null;
        floor?.Seconds(2);

        List<(double Nf4, double Dense, double Floor)> samples = [];
        for (int round = 0; round < rounds; round++)
        {
            samples.Add((quantised.Run(), dense.Run(), floor?.Seconds(5) ?? double.NaN));
        }

        double floorSeconds = Median(samples.Select(sample => sample.Floor));
        Report("OpenBLAS floor", samples.Select(sample => sample.Floor), tokens, double.NaN);
        Report("NF4 step", samples.Select(sample => sample.Nf4), tokens, Median(samples.Select(sample => sample.Nf4 / sample.Floor)));
        Report("dense bf16 step", samples.Select(sample => sample.Dense), tokens, Median(samples.Select(sample => sample.Dense / sample.Floor)));
        if (floor is not null)
        {
            Console.WriteLine($"floor: {floor.Flops / 1e9:F1} GFLOP at {floor.Flops / floorSeconds / 1e9:F0} GFLOP/s");
        }

        return 0;
    }

    static void Report(string what, IEnumerable<double> seconds, int tokens, double ratio)
    {
        double median = Median(seconds), best = seconds.Min();
        Console.WriteLine($"{what,-16} median {median:F3} s, best {best:F3} s, {tokens / median,7:F0} tokens/s" + (double.IsNaN(ratio) ? "" : $", {ratio:F2} x the floor (median of rounds)"));
    }

    static double Median(IEnumerable<double> values)
    {
        double[] sorted = [.. values.Order()];
        return sorted[sorted.Length / 2];
    }

    // The kernel's own high-water mark; elsewhere than on Linux, the process' peak working set.
    static double PeakResidentMegabytes()
    {
        string? line = File.Exists("/proc/self/status") ? File.ReadLines("/proc/self/status").FirstOrDefault(x => x.StartsWith("VmHWM:", StringComparison.Ordinal)) : null;
        return line is null ? Process.GetCurrentProcess().PeakWorkingSet64 / 1e6 : double.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1]) * 1024 / 1e6;
    }
}
