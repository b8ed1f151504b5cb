using System.Diagnostics;
using System.Globalization;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Training;

/// <summary>What a model is worth on rows that it was not trained on.</summary>
/// <param name="Loss">The method's loss.</param>
/// <param name="Measures">What else the method measures, by TRL's names without <c>eval_</c>.</param>
public sealed record Evaluation(double Loss, IReadOnlyDictionary<string, double>? Measures = null);

/// <summary>What a finished run was.</summary>
/// <param name="Steps">Steps taken, those before a resume included.</param>
/// <param name="Last">The last step.</param>
/// <param name="Initial">Evaluation before the first step; null without validation rows.</param>
/// <param name="Final">Evaluation at the end; null without validation rows.</param>
public sealed record TrainingResult(int Steps, StepMetrics? Last, Evaluation? Initial, Evaluation? Final)
{
    /// <summary>Why the run ended before its last step, or null.</summary>
    public string? StopReason { get; init; }
}

/// <summary>
/// The run of every training method: items in their order, steps, learning rates, metrics, evaluations, checkpoints, cancellation. A method says what one step is.
/// </summary>
public abstract class Trainer : IDisposable
{
    readonly TrainingOptions options;
    readonly List<TrainedPart> parts = [];
    DataOrder? order;
    RunFolder? folder;

    /// <param name="model">The base model; its adapters are the method's business.</param>
    /// <param name="options">How; checked here.</param>
    /// <exception cref="ArgumentException">An option is out of range.</exception>
    private protected Trainer(CausalLm model, TrainingOptions options)
    {
        options.Validate();
        (Model, this.options) = (model, options);
    }

    /// <summary>Steps of the whole run.</summary>
    public int TotalSteps { get; private set; }

    /// <summary>Items (rows, bins or prompts) of one epoch.</summary>
    public int ItemsPerEpoch => order!.Count;

    /// <summary>The base model.</summary>
    protected CausalLm Model { get; }

    /// <summary>Where it lives.</summary>
    protected Backend Backend => Model.Backend;

    /// <summary>Where the run writes, or null.</summary>
    protected RunFolder? Folder => folder;

    /// <summary>The settings and data of the method that decide which numbers the next step computes, in words.</summary>
    private protected abstract string Settings { get; }

    /// <summary>What the method carries from step to step beside its weights.</summary>
    private protected virtual Dictionary<string, double> State { get => []; set { } }

    /// <summary>Trains to the end. A run that is cancelled finishes its step, writes a checkpoint if it has an output folder, and throws.</summary>
    /// <param name="progress">Hears of every step, in order, on the training thread; on a GPU of each while the next one runs.</param>
    /// <param name="resumeFrom">A <c>checkpoint-N</c> folder to continue from, bit for bit; null starts anew.</param>
    /// <param name="cancel">Stops the run after the current step.</param>
    /// <exception cref="OperationCanceledException">The run was cancelled; after the first step there is a checkpoint.</exception>
    /// <exception cref="InvalidOperationException">The loss is not finite or stays above the watchdog's threshold, or a parameter gets no gradient.</exception>
    /// <exception cref="RewardException">A reward failed; there is a checkpoint of the step before.</exception>
    /// <exception cref="CheckpointException">The checkpoint to resume from is damaged, or of a run with other settings.</exception>
    public Task<TrainingResult> RunAsync(IProgress<StepMetrics>? progress = null, string? resumeFrom = null, CancellationToken cancel = default) =>
        Task.Run(() => Run(progress, resumeFrom, cancel), CancellationToken.None);

    /// <inheritdoc />
    public virtual void Dispose()
    {
        parts.ForEach(part => part.Optimizer.Dispose());
        parts.Clear();
        GC.SuppressFinalize(this);
    }

    /// <summary>Computes what every step and evaluation of a run need and none of them changes, such as what a reference says of the data. Called once a run, anew or resumed.</summary>
    /// <exception cref="OperationCanceledException">The run was cancelled; nothing is trained or written yet.</exception>
    private protected virtual void Prepare(CancellationToken cancel) { }

    /// <summary>Computes one step: zeroes gradients, adds to them, and calls <see cref="Update"/>.</summary>
    /// <param name="step">Steps taken before this one: keys its random draws.</param>
    /// <param name="items">What it is about: at most <see cref="TrainingOptions.ItemsPerStep"/>.</param>
    /// <param name="rate">The learning rate.</param>
    private protected abstract StepOutcome Step(int step, int[] items, double rate);

    /// <summary>Evaluates on rows set aside; null without any.</summary>
    private protected virtual Evaluation? Evaluate(CancellationToken cancel) => null;

    /// <summary>Declares how many items there are to go through. Called once, by the constructor.</summary>
    private protected void GoThrough(int items)
    {
        order = new DataOrder(items, options.Seed, options.Shuffle);
        TotalSteps = options.TotalSteps(items);
        folder = options.OutputFolder is { } path ? new RunFolder(path, options.KeepCheckpoints) : null;
    }

    /// <summary>Declares weights that are trained: gives them an optimizer and a place in checkpoints. Called by the constructor.</summary>
    private protected TrainedPart Train(TrainedWeights weights, string name = "")
    {
        parts.Add(new TrainedPart(name, weights, new AdamWOptimizer(Backend, weights.Parameters, options.Optimizer)));
        return parts[^1];
    }

    /// <summary>Takes an optimizer step with the gradients that are there. Nothing waits for the device, except in the first step.</summary>
    private protected void Update(TrainedPart part, double rate)
    {
        if (part.Optimizer.Steps == 0)
        {
            RequireGradients(part.Weights);
        }

        part.Optimizer.Step(rate);
    }

    /// <summary>Checks the tokens of a row.</summary>
    /// <exception cref="ArgumentException">One is outside the vocabulary.</exception>
    private protected void RequireInVocabulary(string where, IEnumerable<int> ids)
    {
        foreach (int id in ids)
        {
            if ((uint)id >= Model.Config.Vocabulary)
            {
                throw new ArgumentException($"{where}: token id {id} is out of range, expected 0 to {Model.Config.Vocabulary - 1}. The data was tokenised for another model.");
            }
        }
    }

    /// <summary>Refuses a checkpoint of a run with other settings or data.</summary>
    /// <exception cref="CheckpointException">The settings or the data differ, or the checkpoint is damaged.</exception>
    internal void RequireResumable(string checkpoint) => RunFolder.LoadState(checkpoint, Fingerprint());

    TrainingResult Run(IProgress<StepMetrics>? progress, string? resumeFrom, CancellationToken cancel)
    {
        var position = default(DataPosition);
        int done = 0;
        if (resumeFrom is not null)
        {
            var state = RunFolder.LoadCheckpoint(resumeFrom, Fingerprint(), parts, Backend);
            (done, position, State) = (state.Step, new DataPosition(state.Epoch, state.Index), state.Method);
        }

        Prepare(cancel);
        folder?.StartMetrics(done);
        var schedule = options.ToSchedule(TotalSteps);
        var initial = done == 0 ? Evaluate(cancel) : null;
        var (saveEvery, evaluateEvery) = (Every(options.SaveEvery, options.SavesPerEpoch), Every(options.EvaluateEvery, options.EvaluationsPerEpoch));
        var latest = initial;
        StepMetrics? last = null;
        PendingStep? pending = null;
        string? stopReason = null;
        long mark = Stopwatch.GetTimestamp();
        int alarms = 0;
        while (done < TotalSteps && stopReason is null)
        {
            var (queued, next) = Queue(done, position, schedule);
            Report(Finish(pending)); // the device has the next step to work on while these numbers are read
            (pending, position) = (queued.Step, next);
            stopReason = queued.StopReason;
            done++;
            bool finished = done == TotalSteps || stopReason is not null, evaluates = finished || (evaluateEvery > 0 && done % evaluateEvery == 0);
            bool saves = saveEvery > 0 && (finished || done % saveEvery == 0);
            if (evaluates || saves || done == 1 || pending.HasArrived)
            {
                var metrics = Finish(pending)!;
                pending = null;
                if (evaluates && Evaluate(CancellationToken.None) is { } evaluation)
                {
                    latest = evaluation;
                    metrics = metrics with { EvaluationLoss = evaluation.Loss, Measures = Together(metrics.Measures, evaluation.Measures) };
                }

                Report(metrics);
            }

            bool cancelled = !finished && cancel.IsCancellationRequested; // read once: what is decided here is also what is saved
            if (cancelled || saves)
            {
                Report(Finish(pending));
                pending = null;
                Save(done, position);
            }

            mark = pending is null ? Stopwatch.GetTimestamp() : mark; // evaluations and checkpoints are no part of the next step's time
            if (alarms >= options.LossWatchdogPatience && alarms > 0)
            {
                throw new InvalidOperationException($"Trainer: the loss was above {options.LossWatchdogThreshold} for {alarms} steps in a row, {last!.Loss:0.###} at step {last.Step}. Lower learning_rate, or check the data.");
            }

            if (cancelled)
            {
                throw new OperationCanceledException($"Trainer: cancelled after step {done} of {TotalSteps}.", cancel);
            }
        }

        if (folder is not null)
        {
            parts.ForEach(part => part.Weights.Save(Path.Combine(folder.Root, part.Folder)));
        }

        return new TrainingResult(done, last, initial, latest ?? Evaluate(CancellationToken.None)) { StopReason = stopReason };

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

    ((PendingStep Step, string? StopReason) Queued, DataPosition Next) Queue(int done, DataPosition position, Schedule schedule)
    {
        var (items, next) = order!.Take(position, options.ItemsPerStep);
        double rate = schedule.At(done);
        StepOutcome outcome;
        try
        {
            outcome = Step(done, items, rate);
        }
        catch (RewardException) // rewards come before the weights change, so what the steps before have learned can be kept
        {
            Save(done, position);
            throw;
        }

        var planned = new StepMetrics
        {
            Step = done + 1,
            TotalSteps = TotalSteps,
            Epoch = Math.Round(next.Epoch + (double)next.Index / order.Count, 4),
            Loss = outcome.Loss,
            GradientNorm = double.NaN, // until it is read
            LearningRate = rate,
            Tokens = outcome.Tokens,
            TrainedTokens = outcome.TrainedTokens,
            TokensPerSecond = double.NaN,
            Measures = outcome.Measures?.ToDictionary(pair => pair.Key, pair => (object)pair.Value),
        };
        return ((new PendingStep(planned, outcome.PendingLoss, Backend.ReadLater(parts[0].Optimizer.GradientNorm), Backend.Parameter), outcome.StopReason), next);
    }

    void Save(int done, DataPosition position) => folder?.SaveCheckpoint(
        new ResumeState
        {
            Step = done,
            Epoch = position.Epoch,
            Index = position.Index,
            Fingerprint = Fingerprint(),
            OptimizerSteps = [.. parts.Select(part => part.Optimizer.Steps)],
            Method = State,
        }, parts, Backend);

    // A layer that is wired up wrongly trains in silence for hours; its gradient shows it at once.
    void RequireGradients(TrainedWeights weights)
    {
        foreach (var parameter in weights.MustLearn)
        {
            if (Backend.ReadFloats(parameter.Gradient).All(value => value == 0))
            {
                throw new InvalidOperationException($"{GetType().Name}: {parameter.Name} got no gradient in the first step, so it would never learn. Check that the adapter is enabled and that the rows have trained tokens.");
            }
        }
    }

    int Every(int steps, int timesPerEpoch) => steps > 0 || timesPerEpoch <= 0 ? steps : (options.StepsPerEpoch(ItemsPerEpoch) + timesPerEpoch - 1) / timesPerEpoch;

    static Dictionary<string, object>? Together(IDictionary<string, object>? measures, IReadOnlyDictionary<string, double>? evaluation)
    {
        var all = measures is null ? [] : new Dictionary<string, object>(measures);
        foreach (var (name, value) in evaluation ?? new Dictionary<string, double>())
        {
            all["eval_" + name] = value;
        }

        return all.Count > 0 ? all : null;
    }

    // What a checkpoint must agree with: everything that decides which numbers the next step computes.
    string Fingerprint() => string.Create(CultureInfo.InvariantCulture,
        $"{GetType().Name}, steps {TotalSteps}, items {ItemsPerEpoch}, micro batch {options.MicroBatchSize}, accumulation {options.GradientAccumulation}, shuffle {options.Shuffle}, " +
        $"seed {options.Seed}, {options.ToSchedule(TotalSteps)}, {options.Optimizer}, {string.Join(", ", parts.Select(part => part.Weights.Description))}, {Settings}");
}
