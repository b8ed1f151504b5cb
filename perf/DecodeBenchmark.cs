using System.Diagnostics;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Generation of one sequence with a KV cache, against the time that reading every weight once takes.</summary>
static class DecodeBenchmark
{
    const int Prompt = 32, Tokens = 64;

    /// <param name="args">[SHAPE [ROUNDS]].</param>
    public static void Run(string[] args)
    {
        string shape = args.ElementAtOrDefault(0) ?? "smollm2-135m";
        int rounds = int.Parse(args.ElementAtOrDefault(1) ?? "7");
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(RandomModels.Folder(shape), backend, WeightStorage.Nf4Double);
        using var generator = new Generator(model);
        using var buffers = new Buffers();
        long bytes = model.Linears.Sum(layer => layer.Weight.Bytes) + model.Head.Bytes;
        var memory = buffers.Random(1 << 26); // 256 MB: past any cache
        int[] prompt = [.. Enumerable.Range(3, Prompt)];
        var options = new GenerationOptions { MaxTokens = Tokens, StopIds = [] };
        generator.Complete(prompt, options);

        List<(double Decode, double Read)> samples = [];
        for (int round = 0; round < rounds; round++)
        {
            double decode = SecondsPerToken(generator, prompt, options);
            long start = Stopwatch.GetTimestamp();
            MemoryRead.All(memory);
            samples.Add((decode, Stopwatch.GetElapsedTime(start).TotalSeconds / memory.Bytes));
        }

        double perToken = samples.Select(sample => sample.Decode).Order().ElementAt(rounds / 2);
        double perByte = samples.Select(sample => sample.Read).Order().ElementAt(rounds / 2);
        Console.WriteLine($"{shape}, NF4, {Workers.Count} threads, {Simd.Path}: {1 / perToken:F1} tokens/s ({perToken * 1e3:F2} ms a token, best {samples.Min(sample => sample.Decode) * 1e3:F2})");
        Console.WriteLine($"a token reads {bytes / 1e6:F1} MB of weights; memory is read at {1e-9 / perByte:F1} GB/s: floor {bytes * perByte * 1e3:F2} ms, {bytes * perByte / perToken:F2} of the floor's rate");
    }

    /// <summary>Seconds from one token to the next, once the prompt is read.</summary>
    public static double SecondsPerToken(Generator generator, IReadOnlyList<int> prompt, GenerationOptions options)
    {
        using var stream = generator.Stream(prompt, options).GetEnumerator();
        stream.MoveNext(); // reads the prompt
        long start = Stopwatch.GetTimestamp();
        while (stream.MoveNext())
        {
        }

        return Stopwatch.GetElapsedTime(start).TotalSeconds / (options.MaxTokens - 1);
    }
}
