using System.Diagnostics;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Generation with a KV cache: of one sequence, against the time that reading every weight once takes, and of a batch of them.</summary>
static class DecodeBenchmark
{
    const int Prompt = 32, Tokens = 64;

    /// <param name="args">[SHAPE [ROUNDS [SEQUENCES]]].</param>
    public static void Run(string[] args)
    {
        string shape = args.ElementAtOrDefault(0) ?? "smollm2-135m";
        int rounds = int.Parse(args.ElementAtOrDefault(1) ?? "7"), sequences = int.Parse(args.ElementAtOrDefault(2) ?? "16");
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(RandomModels.Folder(shape), backend, WeightStorage.Nf4Double);
        using var generator = new Generator(model);
        using var batch = new BatchGenerator(model) { MaxSequences = sequences };
        using var buffers = new Buffers();
        long bytes = model.Linears.Sum(layer => layer.Weight.Bytes) + model.Head.Bytes;
        var memory = buffers.Random(1 << 26); // 256 MB: past any cache
        int[] prompt = [.. Enumerable.Range(3, Prompt)];
        var options = new GenerationOptions { MaxTokens = Tokens, StopIds = [] };
        generator.Complete(prompt, options);

        List<(double Decode, double Batch, double Read)> samples = [];
        for (int round = 0; round < rounds; round++)
        {
            double decode = SecondsPerToken(generator, prompt, options);
            double pass = SecondsPerPass(batch, prompt, sequences, options);
            long start = Stopwatch.GetTimestamp();
            MemoryRead.All(memory);
            samples.Add((decode, pass, Stopwatch.GetElapsedTime(start).TotalSeconds / memory.Bytes));
        }

        double perToken = samples.Select(sample => sample.Decode).Order().ElementAt(rounds / 2);
        double perPass = samples.Select(sample => sample.Batch).Order().ElementAt(rounds / 2), bestPass = samples.Min(sample => sample.Batch);
        double perByte = samples.Select(sample => sample.Read).Order().ElementAt(rounds / 2);
        Console.WriteLine($"{shape}, NF4, {Workers.Count} threads, {Simd.Path}: {1 / perToken:F1} tokens/s ({perToken * 1e3:F2} ms a token, best {samples.Min(sample => sample.Decode) * 1e3:F2})");
        Console.WriteLine($"a token reads {bytes / 1e6:F1} MB of weights; memory is read at {1e-9 / perByte:F1} GB/s: floor {bytes * perByte * 1e3:F2} ms, {bytes * perByte / perToken:F2} of the floor's rate");
        Console.WriteLine($"{sequences} sequences at once: {sequences / perPass:F1} tokens/s ({perPass * 1e3:F2} ms a pass, best {bestPass * 1e3:F2}), {sequences * perToken / perPass:F2} of one at a time");
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

    /// <summary>Seconds from one token of every sequence to the next, once the prompts are read.</summary>
    static double SecondsPerPass(BatchGenerator generator, IReadOnlyList<int> prompt, int sequences, GenerationOptions options)
    {
        IReadOnlyList<int>[] prompts = [.. Enumerable.Repeat(prompt, sequences)];
        return (Seconds(options.MaxTokens) - Seconds(1)) / (options.MaxTokens - 1);

        double Seconds(int tokens)
        {
            long start = Stopwatch.GetTimestamp();
            generator.Complete(prompts, options with { MaxTokens = tokens });
            return Stopwatch.GetElapsedTime(start).TotalSeconds;
        }
    }
}
