using System.Diagnostics;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;

namespace IlgpuPeft.Perf;

/// <summary>A whole LoRA training step, over NF4 and over dense weights, against OpenBLAS' time for its dense products.</summary>
static class StepBenchmark
{
    const int Rank = 16;

    /// <param name="args">[SHAPE [TOKENS [ROUNDS]]].</param>
    public static void Run(string[] args)
    {
        string shape = args.ElementAtOrDefault(0) ?? "smollm2-135m";
        int tokens = int.Parse(args.ElementAtOrDefault(1) ?? "256"), rounds = int.Parse(args.ElementAtOrDefault(2) ?? "9");
        string folder = RandomModels.Folder(shape);
        Console.WriteLine($"{shape}, {tokens} tokens, LoRA rank {Rank} on all linear layers, {Workers.Count} threads, {Simd.Path}; OpenBLAS: {OpenBlas.Describe()}");

        // NF4 first and alone, so that the process' peak is its own.
        using var quantised = new Candidate(folder, WeightStorage.Nf4Double, tokens);
        quantised.Step();
        quantised.Step();
        Console.WriteLine($"NF4 after two steps: peak resident {PeakResidentMegabytes():F0} MB; device {quantised.Memory}");
        long collections = GC.CollectionCount(0), before = GC.GetTotalAllocatedBytes(), allocations = quantised.Allocations;
        quantised.Step();
        Console.WriteLine($"a step allocates {(GC.GetTotalAllocatedBytes() - before) / 1024} KiB managed, {quantised.Allocations - allocations} device ranges, {GC.CollectionCount(0) - collections} collections");
        using var dense = new Candidate(folder, WeightStorage.AsStored, tokens);
        dense.Step();
        dense.Step();
        using var floor = OpenBlas.IsPresent ? new TrainingFloor(dense.Model, tokens) : null;
        floor?.Seconds(2);

        List<(double Nf4, double Dense, double Floor)> samples = [];
        for (int round = 0; round < rounds; round++)
        {
            samples.Add((quantised.Step(), dense.Step(), floor?.Seconds(5) ?? double.NaN));
        }

        double floorSeconds = Median(samples.Select(sample => sample.Floor));
        Report("OpenBLAS floor", samples.Select(sample => sample.Floor), tokens, double.NaN);
        Report("NF4 step", samples.Select(sample => sample.Nf4), tokens, Median(samples.Select(sample => sample.Nf4 / sample.Floor)));
        Report("dense bf16 step", samples.Select(sample => sample.Dense), tokens, Median(samples.Select(sample => sample.Dense / sample.Floor)));
        if (floor is not null)
        {
            Console.WriteLine($"floor: {floor.Flops / 1e9:F1} GFLOP at {floor.Flops / floorSeconds / 1e9:F0} GFLOP/s");
        }
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

    sealed class Candidate : IDisposable
    {
        readonly HostBackend<float> backend = new();
        readonly AdapterSet adapter;
        readonly AdamWOptimizer optimizer;
        readonly LanguageModelPass pass;
        readonly PackedBatch batch;
        readonly Slice lossOfStep;
        uint step;

        public Candidate(string folder, WeightStorage storage, int tokens)
        {
            Model = PretrainedModel.Load(folder, backend, storage);
            adapter = new AdapterSet(Model, new LoraConfig { Rank = Rank, Alpha = 32 });
            optimizer = new AdamWOptimizer(backend, adapter.Parameters, new AdamWOptions());
            pass = new LanguageModelPass(Model);
            lossOfStep = backend.Allocate(backend.Parameter, 1, "optimizer");
            var random = new Random(1);
            int[] ids = [.. Enumerable.Range(0, tokens).Select(_ => random.Next(Model.Config.Vocabulary))];
            batch = PackedBatch.From([new Example(ids, ids, "random", 1)]);
        }

        public CausalLm Model { get; }

        public MemoryAccount Memory => backend.Memory;

        public long Allocations => backend.Memory.Allocations;

        public double Step()
        {
            long start = Stopwatch.GetTimestamp();
            adapter.Parameters.ZeroGradients();
            backend.Fill(lossOfStep, 0);
            pass.Train(batch, batch.TrainedTokens, (1, step++), lossOfStep);
            optimizer.Step(1e-4);
            double loss = backend.ReadDoubles(lossOfStep)[0];
            double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
            return double.IsFinite(loss) ? seconds : throw new InvalidOperationException($"StepBenchmark: the loss is {loss}; a wrong step is not timed.");
        }

        public void Dispose()
        {
            pass.Dispose();
            optimizer.Dispose();
            adapter.Dispose();
            Model.Dispose();
            backend.Dispose();
        }
    }
}
