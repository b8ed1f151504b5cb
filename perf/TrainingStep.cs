using System.Diagnostics;
using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;

namespace IlgpuPeft.Perf;

/// <summary>Whole training steps of LoRA on all linear layers, over one batch of random tokens.</summary>
sealed class TrainingStep : IDisposable
{
    public const int Rank = 16;

    readonly Backend backend;
    readonly AdapterSet adapter;
    readonly AdamWOptimizer optimizer;
    readonly LanguageModelPass pass;
    readonly PackedBatch batch;
    readonly Slice lossOfStep;
    uint step;

    /// <summary>Adds an adapter to the model, which must outlive it.</summary>
    /// <param name="model">The model.</param>
    /// <param name="tokens">Tokens of a step.</param>
    /// <param name="sequences">Sequences that they are packed from, of equal length.</param>
    public TrainingStep(CausalLm model, int tokens, int sequences = 1)
    {
        backend = model.Backend;
        adapter = new AdapterSet(model, new LoraConfig { Rank = Rank, Alpha = 32 });
        optimizer = new AdamWOptimizer(backend, adapter.Parameters, new AdamWOptions());
        pass = new LanguageModelPass(model);
        lossOfStep = backend.Allocate(backend.Parameter, 1, "optimizer");
        var random = new Random(1);
        batch = PackedBatch.From([.. Enumerable.Range(0, sequences).Select(sequence =>
        {
            int[] ids = [.. Enumerable.Range(0, tokens / sequences).Select(_ => random.Next(model.Config.Vocabulary))];
            return new Example(ids, ids, "random", sequence + 1);
        })]);
    }

    /// <summary>Runs a step, waits for its loss, and returns the seconds that took.</summary>
    /// <exception cref="InvalidOperationException">The loss is not finite.</exception>
    public double Run()
    {
        long start = Stopwatch.GetTimestamp();
        adapter.Parameters.ZeroGradients();
        backend.Fill(lossOfStep, 0);
        pass.Train(batch, batch.TrainedTokens, (1, step++), lossOfStep);
        optimizer.Step(1e-4);
        double loss = backend.ReadDoubles(lossOfStep)[0];
        double seconds = Stopwatch.GetElapsedTime(start).TotalSeconds;
        return double.IsFinite(loss) ? seconds : throw new InvalidOperationException($"the loss of step {step} is {loss}; a wrong step is not timed.");
    }

    public void Dispose()
    {
        backend.Free(lossOfStep);
        pass.Dispose();
        optimizer.Dispose();
        adapter.Dispose();
    }
}
