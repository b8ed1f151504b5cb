using System.Diagnostics;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;

namespace IlgpuPeft.Perf;

/// <summary>
/// Generation with a KV cache: of one sequence, against the time that reading every weight once takes; of a batch of them; and single steps of 1 to 32 sequences, against a step of one.
/// </summary>
static class DecodeBenchmark
{
    const int Prompt = 32, Tokens = 64, Sequences = 16;
    const int Earlier = 64; // tokens that every sequence holds before a single step

    static readonly int[] Batches = [1, 2, 4, 8, 16, 32];

    /// <param name="args">[SHAPE [ROUNDS [STORAGE]]]; STORAGE is Nf4Double by default.</param>
    public static int Run(Arguments args)
    {
        string shape = args.OneOf("SHAPE", ModelShapes.All.Keys, "smollm2-135m");
        int rounds = args.Number("ROUNDS", 7);
        var storage = Enum.Parse<WeightStorage>(args.OneOf("STORAGE", Enum.GetNames<WeightStorage>(), nameof(WeightStorage.Nf4Double)));
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(RandomModels.Folder(shape), backend, storage);
        Console.WriteLine($"{shape}, {storage}, {Workers.Count} threads, {Simd.Path}");
        Generate(model, rounds);
        Steps(model, rounds);
        return 0;
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

    static void Generate(CausalLm model, int rounds)
    {
        using var generator = new Generator(model);
        using var batch = new BatchGenerator(model) { MaxSequences = Sequences };
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
            double pass = SecondsPerPass(batch, prompt, options);
            long start = Stopwatch.GetTimestamp();
            MemoryRead.All(memory);
            samples.Add((decode, pass, Stopwatch.GetElapsedTime(start).TotalSeconds / memory.Bytes));
        }

        double perToken = samples.Select(sample => sample.Decode).Order().ElementAt(rounds / 2);
        double perPass = samples.Select(sample => sample.Batch).Order().ElementAt(rounds / 2);
        double perByte = samples.Select(sample => sample.Read).Order().ElementAt(rounds / 2);
        Console.WriteLine($"generator: {1 / perToken:F1} tokens/s ({perToken * 1e3:F2} ms a token, best {samples.Min(sample => sample.Decode) * 1e3:F2})");
        Console.WriteLine($"a token reads {bytes / 1e6:F1} MB of weights; memory is read at {1e-9 / perByte:F1} GB/s: floor {bytes * perByte * 1e3:F2} ms, {bytes * perByte / perToken:F2} of the floor's rate");
        Console.WriteLine($"{Sequences} sequences at once: {Sequences / perPass:F1} tokens/s ({perPass * 1e3:F2} ms a pass, best {samples.Min(sample => sample.Batch) * 1e3:F2}), {Sequences * perToken / perPass:F2} of one at a time");
    }

    /// <summary>Seconds from one token of every sequence to the next, once the prompts are read.</summary>
    static double SecondsPerPass(BatchGenerator generator, IReadOnlyList<int> prompt, GenerationOptions options)
    {
        IReadOnlyList<int>[] prompts = [.. Enumerable.Repeat(prompt, Sequences)];
        return (Seconds(options.MaxTokens) - Seconds(1)) / (options.MaxTokens - 1);

        double Seconds(int tokens)
        {
            long start = Stopwatch.GetTimestamp();
            generator.Complete(prompts, options with { MaxTokens = tokens });
            return Stopwatch.GetElapsedTime(start).TotalSeconds;
        }
    }

    static void Steps(CausalLm model, int rounds)
    {
        using var step = new DecodeStep(model, Batches[^1], Earlier);
        int expected = step.Run(1)[0];
        foreach (int batch in Batches)
        {
            if (step.Run(batch).Any(id => id != expected))
            {
                throw new InvalidOperationException($"perf decode: a batch of {batch} does not continue like a single sequence. No times are printed for a wrong result.");
            }
        }

        var samples = Timing.Interleaved(rounds, 0.02, [.. Batches.Select(batch => (Action)(() => step.Run(batch)))]);
        Console.WriteLine($"single steps over {Earlier} earlier tokens; median (best) of {rounds} interleaved rounds");
        for (int i = 0; i < Batches.Length; i++)
        {
            var (median, best) = samples[i];
            Console.WriteLine($"{Batches[i],3} sequences: {median * 1e3,6:F2} ms a step ({best * 1e3:F2}), {Batches[i] / median,6:F1} tokens/s, {median / samples[0].Median:F2} ({best / samples[0].Best:F2}) x the time of one");
        }
    }
}
