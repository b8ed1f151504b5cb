using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Perf;

/// <summary>One step of several sequences at once, from token ids to sampled ids, against a step of one: what a batch of samples costs.</summary>
static class BatchDecodeBenchmark
{
    const int Prompt = 64; // tokens that every sequence holds before the step

    static readonly int[] Batches = [1, 2, 4, 8, 16, 32];

    /// <param name="args">[SHAPE [ROUNDS [STORAGE]]]; STORAGE is Nf4Double by default.</param>
    public static void Run(string[] args)
    {
        string shape = args.ElementAtOrDefault(0) ?? "smollm2-135m";
        int rounds = int.Parse(args.ElementAtOrDefault(1) ?? "15");
        var storage = Enum.Parse<WeightStorage>(args.ElementAtOrDefault(2) ?? nameof(WeightStorage.Nf4Double), ignoreCase: true);
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(RandomModels.Folder(shape), backend, storage);
        using var arena = new Arena(backend);
        using var cache = new KvCache(backend, model.Config, Batches[^1], Prompt + 1);
        for (int slot = 0; slot < Batches[^1]; slot++)
        {
            // Sequences alike, so that their next tokens can be compared.
            Forward([slot], [.. Enumerable.Range(3, Prompt)], [Prompt]);
        }

        var steps = Batches.Select(batch => (Action)(() => Step(batch))).ToArray();
        int expected = Step(1)[0];
        foreach (int batch in Batches)
        {
            if (Step(batch).Any(id => id != expected))
            {
                throw new InvalidOperationException($"perf decode-batch: a batch of {batch} does not continue like a single sequence. No times are printed for a wrong result.");
            }
        }

        var samples = Timing.Interleaved(rounds, 0.02, steps);
        Console.WriteLine($"{shape}, {storage}, {Workers.Count} threads, {Simd.Path}, {Prompt} tokens before the step; median (best) of {rounds} interleaved rounds");
        for (int i = 0; i < Batches.Length; i++)
        {
            var (median, best) = samples[i];
            Console.WriteLine($"{Batches[i],3} sequences: {median * 1e3,6:F2} ms a step ({best * 1e3:F2}), {Batches[i] / median,6:F1} tokens/s, {median / samples[0].Median:F2} ({best / samples[0].Best:F2}) x the time of one");
        }

        int[] Step(int batch)
        {
            int[] ids = Forward([.. Enumerable.Range(0, batch)], [.. Enumerable.Repeat(Prompt + 3, batch)], [.. Enumerable.Repeat(1, batch)]);
            for (int slot = 0; slot < batch; slot++)
            {
                cache.Rewind(slot, Prompt);
            }

            return ids;
        }

        int[] Forward(int[] slots, int[] ids, int[] counts)
        {
            arena.Reset();
            var tape = Tape.ForInference(backend, arena);
            var logits = model.Logits(tape, model.Forward(tape, TokenBatch.Continue(tape, cache, slots, tape.Upload(ids), counts)));
            var next = tape.Take(DType.I32, logits.Rows);
            backend.Sample(logits.Data, logits.Rows, new Sampling(0, 0, 1), new RandomKey(0, 0, 0), next, default);
            return backend.ReadInts(next);
        }
    }
}
