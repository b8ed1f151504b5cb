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
public abstract partial class Trainer : IDisposable
{
    readonly TrainingOptions options;
    readonly List<TrainedPart> parts = [];
    DataOrder? order;
    RunFolder? folder;
    int runs;
    bool disposed;

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

    /// <summary>The checkpoint that this run saved last or, before the first, the one that it goes on from; null where there is neither.</summary>
    public string? LastCheckpoint { get; private set; }

    /// <summary>The base model.</summary>
    private protected CausalLm Model { get; }

    /// <summary>Where it lives.</summary>
    private protected Backend Backend => Model.Backend;

    /// <summary>Where the run writes, or null.</summary>
    private protected RunFolder? Folder => folder;

    /// <summary>The settings and data of the method that decide which numbers the next step computes, in words.</summary>
    private protected abstract string Settings { get; }

    /// <summary>What the method carries from step to step beside its weights.</summary>
    private protected virtual Dictionary<string, double> State { get => []; set { } }

    /// <summary>Trains to the end, once. A run that is cancelled finishes its step, writes a checkpoint if it has an output folder, and throws.</summary>
    /// <param name="progress">Hears of every step, in order, on the training thread; on a GPU of each while the next one runs.</param>
    /// <param name="resumeFrom">A <c>checkpoint-N</c> folder to continue from, bit for bit; null starts anew.</param>
    /// <param name="cancel">Stops the run after the current step.</param>
    /// <exception cref="OperationCanceledException">The run was cancelled. After its first step there is a checkpoint; before, nothing is written.</exception>
    /// <exception cref="InvalidOperationException">
    /// The loss or the gradient norm is not finite, or the loss stays above the watchdog's threshold, which saves a checkpoint where the weights are still good, or a parameter gets no gradient; or the trainer has run before.
    /// </exception>
    /// <exception cref="ObjectDisposedException">The trainer was disposed.</exception>
    /// <exception cref="RewardException">A reward failed; there is a checkpoint of the steps before.</exception>
    /// <exception cref="CheckpointException">The checkpoint to resume from is absent, damaged, or of a run with other settings.</exception>
    public Task<TrainingResult> RunAsync(IProgress<StepMetrics>? progress = null, string? resumeFrom = null, CancellationToken cancel = default) =>
        RunAsync(null, progress, resumeFrom, cancel);

    /// <param name="starting">Called when all is ready for the first step, before anything of an earlier run is replaced.</param>
    /// <param name="progress">As above.</param>
    /// <param name="resumeFrom">As above.</param>
    /// <param name="cancel">As above.</param>
    internal Task<TrainingResult> RunAsync(Action? starting, IProgress<StepMetrics>? progress, string? resumeFrom, CancellationToken cancel)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        return Interlocked.Increment(ref runs) == 1
            ? Task.Run(() => Run(starting, progress, resumeFrom, cancel), CancellationToken.None)
            : throw new InvalidOperationException($"{GetType().Name}: it has run already, and its weights, moments and place in the data are those of that run. Make a new trainer; give it a checkpoint to go on from.");
    }

    /// <summary>Refuses a checkpoint that this run cannot continue. Its weights are not read.</summary>
    /// <param name="checkpoint">A <c>checkpoint-N</c> folder.</param>
    /// <exception cref="CheckpointException">The settings or the data differ, or the checkpoint is absent or damaged.</exception>
    public void RequireResumable(string checkpoint) => RunFolder.LoadState(checkpoint, Fingerprint());

    /// <inheritdoc />
    public virtual void Dispose()
    {
        disposed = true;
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

    TrainingResult Run(Action? starting, IProgress<StepMetrics>? progress, string? resumeFrom, CancellationToken cancel)
    {
        var position = default(DataPosition);
        int done = 0;
        if (resumeFrom is not null)
        {
            var state = RunFolder.LoadCheckpoint(resumeFrom, Fingerprint(), parts, Backend);
            (done, position, State, LastCheckpoint) = (state.Step, new DataPosition(state.Epoch, state.Index), state.Method, resumeFrom);
        }

        Prepare(cancel);
        var initial = done == 0 ? Evaluate(cancel) : null;
        cancel.ThrowIfCancellationRequested(); // from here on files of an earlier run are replaced
        starting?.Invoke();
        folder?.Start(done);
        return new Loop(this, done, position, progress).Run(initial, cancel);
    }

    void Save(int done, DataPosition position, Dictionary<string, double> state, bool keepAll)
    {
        if (folder is not null)
        {
            LastCheckpoint = folder.SaveCheckpoint(
                new ResumeState
                {
                    Step = done,
                    Epoch = position.Epoch,
                    Index = position.Index,
                    Fingerprint = Fingerprint(),
                    OptimizerSteps = [.. parts.Select(part => part.Optimizer.Steps)],
                    Method = state,
                }, parts, Backend, keepAll);
        }
    }

    // Whether weights and moments are worth saving: a single number that is not finite shows in their norm.
    bool AreFinite()
    {
        var norm = Backend.Allocate(Backend.Parameter, 1, "optimizer");
        try
        {
            return parts.SelectMany(part => part.Optimizer.State.Select(x => x.Values).Prepend(part.Weights.Parameters.Values)).Where(values => values.Type == norm.Type).All(values =>
            {
                Backend.Norm(values, norm);
                return double.IsFinite(Backend.ReadDoubles(norm)[0]);
            });
        }
        finally
        {
            Backend.Free(norm);
        }
    }

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

    int Every(int steps, int timesPerEpoch) => steps > 0 || timesPerEpoch <= 0 ? steps : (int)(((long)options.StepsPerEpoch(ItemsPerEpoch) + timesPerEpoch - 1) / timesPerEpoch);

    // What a checkpoint must agree with: everything that decides which numbers the next step computes.
    string Fingerprint() => string.Create(CultureInfo.InvariantCulture,
        $"{GetType().Name}, steps {TotalSteps}, items {ItemsPerEpoch}, micro batch {options.MicroBatchSize}, accumulation {options.GradientAccumulation}, shuffle {options.Shuffle}, " +
        $"seed {options.Seed}, {options.ToSchedule(TotalSteps)}, {options.Optimizer}, {string.Join(", ", parts.Select(part => part.Weights.Description))}, {Settings}");
}
