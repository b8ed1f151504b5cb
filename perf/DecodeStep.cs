using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Perf;

/// <summary>One step of several sequences at once, from token ids to sampled ids.</summary>
sealed class DecodeStep : IDisposable
{
    readonly CausalLm model;
    readonly Arena arena;
    readonly KvCache cache;
    readonly int earlier;

    /// <param name="model">The model.</param>
    /// <param name="sequences">The most sequences.</param>
    /// <param name="earlier">Tokens that every sequence holds before the step; the same ones, so that the next can be compared.</param>
    public DecodeStep(CausalLm model, int sequences, int earlier)
    {
        (this.model, this.earlier) = (model, earlier);
        arena = new Arena(model.Backend);
        cache = new KvCache(model.Backend, model.Config, sequences, earlier + 1);
        for (int slot = 0; slot < sequences; slot++)
        {
            Forward([slot], [.. Enumerable.Range(3, earlier)], [earlier]);
        }
    }

    /// <summary>Decodes one token of each of the first sequences, and forgets that it did.</summary>
    /// <returns>The tokens that follow.</returns>
    public int[] Run(int sequences)
    {
        int[] ids = Forward([.. Enumerable.Range(0, sequences)], [.. Enumerable.Repeat(earlier + 3, sequences)], [.. Enumerable.Repeat(1, sequences)]);
        for (int slot = 0; slot < sequences; slot++)
        {
            cache.Rewind(slot, earlier);
        }

        return ids;
    }

    public void Dispose()
    {
        cache.Dispose();
        arena.Dispose();
    }

    int[] Forward(int[] slots, int[] ids, int[] counts)
    {
        arena.Reset();
        var backend = model.Backend;
        var tape = Tape.ForInference(backend, arena);
        var logits = model.Logits(tape, model.Forward(tape, TokenBatch.Continue(tape, cache, slots, tape.Upload(ids), counts)));
        var next = tape.Take(DType.I32, logits.Rows);
        backend.Sample(logits.Data, logits.Rows, new Sampling(0, 0, 1), new RandomKey(0, 0, 0), next, default);
        return backend.ReadInts(next);
    }
}
