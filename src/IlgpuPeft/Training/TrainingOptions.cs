using IlgpuPeft.Optim;

namespace IlgpuPeft.Training;

/// <summary>What every training method is told. Names in brackets are the keys of the configuration file.</summary>
public abstract record TrainingOptions
{
    /// <summary>Steps of the run; 0 lets <see cref="Epochs"/> decide (max_steps).</summary>
    public int MaxSteps { get; init; }

    /// <summary>Passes over the data; the last may be partial (num_epochs).</summary>
    public double Epochs { get; init; } = 1;

    /// <summary>Rows, or packed bins, of one forward and backward pass (micro_batch_size).</summary>
    public int MicroBatchSize { get; init; } = 1;

    /// <summary>Passes whose gradients add up to one optimizer step (gradient_accumulation_steps).</summary>
    public int GradientAccumulation { get; init; } = 1;

    /// <summary>Draws a new order for each epoch (shuffle_merged_datasets).</summary>
    public bool Shuffle { get; init; } = true;

    /// <summary>Peak learning rate (learning_rate).</summary>
    public virtual double LearningRate { get; init; }

    /// <summary>Shape of the learning rate after warm-up (lr_scheduler).</summary>
    public ScheduleKind Schedule { get; init; } = ScheduleKind.Cosine;

    /// <summary>Steps of warm-up (warmup_steps); takes precedence over <see cref="WarmupRatio"/>.</summary>
    public int? WarmupSteps { get; init; }

    /// <summary>Share of all steps that warm up (warmup_ratio).</summary>
    public double WarmupRatio { get; init; }

    /// <summary>Share of the peak at which a cosine ends (cosine_min_lr_ratio).</summary>
    public double MinimumLearningRateRatio { get; init; }

    /// <summary>Moments, weight decay and clipping.</summary>
    public AdamWOptions Optimizer { get; init; } = new();

    /// <summary>Of data order, initial adapter values, dropout and sampling (seed).</summary>
    public ulong Seed { get; init; } = 42;

    /// <summary>Where adapter, metrics and checkpoints go; null keeps everything in memory (output_dir).</summary>
    public string? OutputFolder { get; init; }

    /// <summary>Steps between checkpoints; 0 for none (save_steps).</summary>
    public int SaveEvery { get; init; }

    /// <summary>How many checkpoints are kept; 0 for all (save_total_limit).</summary>
    public int KeepCheckpoints { get; init; }

    /// <summary>Steps between evaluations; 0 evaluates at the end only (eval_steps).</summary>
    public int EvaluateEvery { get; init; }

    /// <summary>Checkpoints in an epoch (saves_per_epoch); <see cref="SaveEvery"/>, where it is not 0, takes precedence.</summary>
    public int SavesPerEpoch { get; init; }

    /// <summary>Evaluations in an epoch (evals_per_epoch); <see cref="EvaluateEvery"/>, where it is not 0, takes precedence.</summary>
    public int EvaluationsPerEpoch { get; init; }

    /// <summary>Stop with an error and a checkpoint after <see cref="LossWatchdogPatience"/> steps in a row whose loss exceeds this; 0 for never (loss_watchdog_threshold).</summary>
    public double LossWatchdogThreshold { get; init; }

    /// <summary>See <see cref="LossWatchdogThreshold"/> (loss_watchdog_patience).</summary>
    public int LossWatchdogPatience { get; init; } = 3;

    /// <summary>Items (rows, bins or prompts) of one step.</summary>
    internal virtual int ItemsPerStep => MicroBatchSize * GradientAccumulation;

    /// <summary>Steps of an epoch of that many items.</summary>
    internal int StepsPerEpoch(int items) => (items + ItemsPerStep - 1) / ItemsPerStep;

    /// <summary>Steps of the whole run over that many items.</summary>
    internal int TotalSteps(int items) => MaxSteps > 0 ? MaxSteps : Math.Max(1, (int)Math.Ceiling(Epochs * StepsPerEpoch(items) - 1e-9));

    internal Schedule ToSchedule(int totalSteps) =>
        new(Schedule, LearningRate, WarmupSteps ?? (int)Math.Ceiling(WarmupRatio * totalSteps), totalSteps, MinimumLearningRateRatio);

    /// <summary>Checks every option; a method adds its own.</summary>
    /// <exception cref="ArgumentException">One is out of range.</exception>
    internal virtual void Validate()
    {
        Require(MicroBatchSize >= 1, nameof(MicroBatchSize), MicroBatchSize, "at least 1");
        Require(GradientAccumulation >= 1, nameof(GradientAccumulation), GradientAccumulation, "at least 1");
        Require(MaxSteps >= 0, nameof(MaxSteps), MaxSteps, "0 or more");
        Require(Epochs > 0, nameof(Epochs), Epochs, "more than 0");
        Require(double.IsFinite(LearningRate) && LearningRate >= 0, nameof(LearningRate), LearningRate, "0 or more");
    }

    /// <exception cref="ArgumentException">The condition does not hold.</exception>
    protected void Require(bool holds, string name, object value, string expected)
    {
        if (!holds)
        {
            throw new ArgumentException(FormattableString.Invariant($"{GetType().Name}: {name} is {value}, expected {expected}."), name);
        }
    }
}
