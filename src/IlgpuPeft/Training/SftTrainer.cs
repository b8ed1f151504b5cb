using System.Diagnostics;
using System.Globalization;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Training;

/// <summary>What a finished run was.</summary>
/// <param name="Steps">Optimizer steps taken, those before a resume included.</param>
/// <param name="Last">The last step.</param>
/// <param name="InitialEvaluationLoss">Validation loss before the first step; null without validation rows.</param>
/// <param name="FinalEvaluationLoss">Validation loss at the end; null without validation rows.</param>
public sealed record SftResult(int Steps, StepMetrics? Last, double? InitialEvaluationLoss, double? FinalEvaluationLoss);

/// <summary>
/// Supervised fine-tuning. The loss of an optimizer step is the negative log-likelihood summed over all its trained tokens and divided by their number, however
/// they are split into rows, bins and accumulated passes.
/// </summary>
public sealed class SftTrainer : IDisposable
{
    // Tokens that an evaluation pass holds at most, unless a row is longer.
    const int EvaluationTokens = 2048;

    readonly CausalLm model;
    readonly TrainedWeights weights;
    readonly SftOptions options;
    readonly IReadOnlyList<Example> train;
    readonly IReadOnlyList<Example> validation;
    readonly int[][] items;
    readonly DataOrder order;
    readonly AdamWOptimizer optimizer;
    readonly LanguageModelPass pass;
    readonly Slice loss; // of the step that is queued, one element
    bool disposed;
    readonly RunFolder? folder;

    /// <summary>Prepares a run; nothing is trained or written yet.</summary>
    /// <param name="model">The model with its adapter enabled.</param>
    /// <param name="weights">What of it is trained.</param>
    /// <param name="train">Rows to train on; each must have a trained token and fit the sequence length.</param>
    /// <param name="options">How.</param>
    /// <param name="validation">Rows to evaluate on, or none.</param>
    /// <exception cref="ArgumentException">An option is out of range, there is no row, or a row is longer than the sequence length or holds a token that the model lacks.</exception>
    public SftTrainer(CausalLm model, TrainedWeights weights, IReadOnlyList<Example> train, SftOptions options, IReadOnlyList<Example>? validation = null)
    {
        options.Validate();
        this.model = model;
        this.weights = weights;
        this.options = options;
        this.train = train;
        this.validation = validation ?? [];
        if (train.Count == 0)
        {
            throw new ArgumentException("SftTrainer: there are no rows to train on.", nameof(train));
        }

        foreach (var example in train.Concat(this.validation))
        {
            Check(example);
        }

        items = options.Packing
            ? Packer.Pack([.. train.Select(example => example.Length)], options.SequenceLength)
            : [.. Enumerable.Range(0, train.Count).Select(i => new[] { i })];
        order = new DataOrder(items.Length, options.Seed, options.Shuffle);
        optimizer = new AdamWOptimizer(model.Backend, weights.Parameters, options.Optimizer);
        pass = new LanguageModelPass(model);
        loss = model.Backend.Allocate(model.Backend.Parameter, 1, "optimizer");
        folder = options.OutputFolder is { } path ? new RunFolder(path, options.KeepCheckpoints) : null;
        TotalSteps = options.TotalSteps(items.Length);
    }

    /// <summary>Optimizer steps of the whole run.</summary>
    public int TotalSteps { get; }

    /// <summary>Rows, or bins with packing, of one epoch.</summary>
    public int ItemsPerEpoch => items.Length;

    /// <summary>Trains to the end. A run that is cancelled finishes its step, writes a checkpoint if it has an output folder, and throws.</summary>
    /// <param name="progress">Hears of every step, in order, on the training thread; on a GPU of each while the next one runs.</param>
    /// <param name="resumeFrom">A <c>checkpoint-N</c> folder to continue from, bit for bit; null starts anew.</param>
    /// <param name="cancel">Stops the run after the current step.</param>
    /// <exception cref="OperationCanceledException">The run was cancelled; after the first step there is a checkpoint.</exception>
    /// <exception cref="InvalidOperationException">The loss is not finite or stays above the watchdog's threshold, or a parameter gets no gradient.</exception>
    /// <exception cref="CheckpointException">The checkpoint to resume from is damaged, or of a run with other settings.</exception>
    public Task<SftResult> RunAsync(IProgress<StepMetrics>? progress = null, string? resumeFrom = null, CancellationToken cancel = default) =>
        Task.Run(() => Run(progress, resumeFrom, cancel), CancellationToken.None);

    /// <inheritdoc />
    public void Dispose()
    {
        pass.Dispose();
        optimizer.Dispose();
        if (!disposed)
        {
            model.Backend.Free(loss);
            disposed = true;
        }
    }

    SftResult Run(IProgress<StepMetrics>? progress, string? resumeFrom, CancellationToken cancel)
    {
        var position = default(DataPosition);
        int done = 0;
        if (resumeFrom is not null)
        {
            var state = RunFolder.LoadCheckpoint(resumeFrom, Fingerprint(), weights, optimizer, model.Backend);
            (done, position) = (state.Step, new DataPosition(state.Epoch, state.Index));
        }

        folder?.StartMetrics(done);
        var schedule = options.ToSchedule(TotalSteps);
        double? initial = done == 0 ? EvaluationLoss(cancel) : null, latest = initial;
        StepMetrics? last = null;
        PendingStep? pending = null;
        long mark = Stopwatch.GetTimestamp();
        int alarms = 0;
        while (done < TotalSteps)
        {
            var queued = Queue(done, position, schedule);
            Report(Finish(pending)); // the device has the next step to work on while these numbers are read
            (pending, position) = (queued.Step, queued.Next);
            done++;
            bool finished = done == TotalSteps, evaluates = finished || (options.EvaluateEvery > 0 && done % options.EvaluateEvery == 0);
            bool saves = options.SaveEvery > 0 && (finished || done % options.SaveEvery == 0);
            if (evaluates || saves || done == 1 || pending.HasArrived)
            {
                var metrics = Finish(pending)!;
                pending = null;
                if (evaluates)
                {
                    latest = EvaluationLoss(CancellationToken.None);
                    metrics = metrics with { EvaluationLoss = latest };
                }

                Report(metrics);
            }

            bool cancelled = !finished && cancel.IsCancellationRequested; // read once: what is decided here is also what is saved
            if (cancelled || saves)
            {
                Report(Finish(pending));
                pending = null;
                folder?.SaveCheckpoint(new ResumeState { Step = done, Epoch = position.Epoch, Index = position.Index, Fingerprint = Fingerprint() }, weights, optimizer, model.Backend);
            }

            mark = pending is null ? Stopwatch.GetTimestamp() : mark; // evaluations and checkpoints are no part of the next step's time
            if (alarms >= options.LossWatchdogPatience && alarms > 0)
            {
                throw new InvalidOperationException($"SftTrainer: the loss was above {options.LossWatchdogThreshold} for {alarms} steps in a row, {last!.Loss:0.###} at step {last.Step}. Lower learning_rate, or check the data.");
            }

            if (cancelled)
            {
                throw new OperationCanceledException($"SftTrainer: cancelled after step {done} of {TotalSteps}.", cancel);
            }
        }

        if (folder is not null)
        {
            weights.Save(folder.Root);
        }

        return new SftResult(done, last, initial, latest ?? EvaluationLoss(CancellationToken.None));

        // A step's time is that since the numbers of the step before were there.
        StepMetrics? Finish(PendingStep? step)
        {
            if (step is null)
            {
                return null;
            }

            var metrics = step.Finish(Stopwatch.GetElapsedTime(mark).TotalSeconds);
            mark = Stopwatch.GetTimestamp();
            return metrics;
        }

        void Report(StepMetrics? metrics)
        {
            if (metrics is not null)
            {
                last = metrics;
                folder?.Append(metrics);
                progress?.Report(metrics);
                alarms = options.LossWatchdogThreshold > 0 && metrics.Loss > options.LossWatchdogThreshold ? alarms + 1 : 0;
            }
        }
    }

    (PendingStep Step, DataPosition Next) Queue(int done, DataPosition position, Schedule schedule)
    {
        var (taken, next) = order.Take(position, options.MicroBatchSize * options.GradientAccumulation);
        List<PackedBatch> batches = [.. taken.Chunk(options.MicroBatchSize).Select(rows => PackedBatch.From([.. rows.SelectMany(item => items[item]).Select(i => train[i])]))];
        long trained = batches.Sum(batch => (long)batch.TrainedTokens);

        weights.Parameters.ZeroGradients();
        model.Backend.Fill(loss, 0);
        for (int i = 0; i < batches.Count; i++)
        {
            pass.Train(batches[i], trained, (options.Seed, (uint)(done * options.GradientAccumulation + i)), loss);
        }

        if (done == 0)
        {
            RequireGradients();
        }

        var backend = model.Backend;
        var lossRead = backend.ReadLater(loss);
        if (lossRead.HasArrived)
        {
            PendingStep.FiniteLoss(lossRead, backend.Parameter, done + 1); // before the weights change, where that costs no wait
        }

        double rate = schedule.At(done);
        optimizer.Step(rate);
        var planned = new StepMetrics
        {
            Step = done + 1,
            TotalSteps = TotalSteps,
            Epoch = Math.Round(next.Epoch + (double)next.Index / items.Length, 4),
            Loss = double.NaN, // until it is read
            GradientNorm = double.NaN,
            LearningRate = rate,
            Tokens = batches.Sum(batch => (long)batch.Length),
            TrainedTokens = trained,
            TokensPerSecond = double.NaN,
        };
        return (new PendingStep(planned, lossRead, backend.ReadLater(optimizer.GradientNorm), backend.Parameter), next);
    }

    // A layer that is wired up wrongly trains in silence for hours; its gradient shows it at once.
    void RequireGradients()
    {
        foreach (var parameter in weights.MustLearn)
        {
            if (model.Backend.ReadFloats(parameter.Gradient).All(value => value == 0))
            {
                throw new InvalidOperationException($"SftTrainer: {parameter.Name} got no gradient in the first step, so it would never learn. Check that the adapter is enabled and that the rows have trained tokens.");
            }
        }
    }

    double? EvaluationLoss(CancellationToken cancel) => validation.Count == 0 ? null : pass.Evaluate(validation, EvaluationTokens, cancel).Loss;

    void Check(Example example)
    {
        string where = $"{example.File}:{example.Line}";
        if (example.Length > options.SequenceLength)
        {
            throw new ArgumentException($"{where}: the row has {example.Length} tokens, expected at most sequence_len = {options.SequenceLength}. Raise sequence_len, or set excess_length_strategy to truncate or drop.");
        }

        if (example.Labels.Length != example.Length || example.TrainedTokens == 0)
        {
            throw new ArgumentException($"{where}: the row has {example.Length} tokens, {example.Labels.Length} labels and {example.TrainedTokens} trained tokens, expected a label for each token and at least one that is trained.");
        }

        foreach (int id in example.InputIds.Concat(example.Labels.Where(label => label != Example.Untrained)))
        {
            if ((uint)id >= model.Config.Vocabulary)
            {
                throw new ArgumentException($"{where}: token id {id} is out of range, expected 0 to {model.Config.Vocabulary - 1}. The data was tokenised for another model.");
            }
        }
    }

    // What a checkpoint must agree with: everything that decides which numbers the next step computes.
    string Fingerprint() => string.Create(CultureInfo.InvariantCulture,
        $"steps {TotalSteps}, items {items.Length}, micro batch {options.MicroBatchSize}, accumulation {options.GradientAccumulation}, packing {options.Packing}, " +
        $"shuffle {options.Shuffle}, sequence {options.SequenceLength}, seed {options.Seed}, {options.ToSchedule(TotalSteps)}, {options.Optimizer}, {weights.Description}, data {DataDigest()}");

    /// <summary>Refuses a checkpoint of a run with other settings or data.</summary>
    /// <exception cref="CheckpointException">The settings or the data differ, or the checkpoint is damaged.</exception>
    internal void RequireResumable(string checkpoint) => RunFolder.LoadState(checkpoint, Fingerprint());

    string DataDigest()
    {
        ulong hash = 14695981039346656037; // FNV-1a over ids and labels
        foreach (var example in train)
        {
            hash = (hash ^ (uint)example.Length) * 1099511628211;
            for (int i = 0; i < example.Length; i++)
            {
                hash = (hash ^ (uint)example.InputIds[i]) * 1099511628211;
                hash = (hash ^ (uint)example.Labels[i]) * 1099511628211;
            }
        }

        return hash.ToString("x16");
    }
}
