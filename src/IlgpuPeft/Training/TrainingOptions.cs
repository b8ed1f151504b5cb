using IlgpuPeft.Optim;

namespace IlgpuPeft.Training;

/// <summary>What every training method is told. Names in brackets are the keys of the configuration file.</summary>
public abstract record TrainingOptions
{
    /// <summary>Optimizer steps of the run (max_steps). Default 0: <see cref="Epochs"/> decides.</summary>
    public int MaxSteps { get; init; }

    /// <summary>Passes over the data; the last may be partial (num_epochs). Default 1, Axolotl's.</summary>
    public double Epochs { get; init; } = 1;

    /// <summary>Rows, or packed bins, of one forward and backward pass (micro_batch_size). Default 1, Axolotl's.</summary>
    public int MicroBatchSize { get; init; } = 1;

    /// <summary>Passes whose gradients add up to one optimizer step (gradient_accumulation_steps). Default 1, Axolotl's.</summary>
    public int GradientAccumulation { get; init; } = 1;

    /// <summary>Draws a new order for each epoch (shuffle_merged_datasets). Default true, Axolotl's.</summary>
    public bool Shuffle { get; init; } = true;

    /// <summary>Peak learning rate, from 0, which learns nothing, to 10 (learning_rate). Each method has a default of its own.</summary>
    public virtual double LearningRate { get; init; }

    /// <summary>Shape of the learning rate after warm-up (lr_scheduler). Default cosine, Axolotl's.</summary>
    public ScheduleKind Schedule { get; init; } = ScheduleKind.Cosine;

    /// <summary>Optimizer steps of warm-up (warmup_steps); takes precedence over <see cref="WarmupRatio"/>. Default null.</summary>
    public int? WarmupSteps { get; init; }

    /// <summary>Share of all steps that warm up, from 0 to 1 (warmup_ratio). Default 0.</summary>
    public double WarmupRatio { get; init; }

    /// <summary>Share of the peak at which a cosine ends, from 0 to 1 (cosine_min_lr_ratio). Default 0.</summary>
    public double MinimumLearningRateRatio { get; init; }

    /// <summary>Moments, weight decay and clipping (adam_beta1, adam_beta2, adam_epsilon, weight_decay, max_grad_norm). Default a new <see cref="AdamWOptions"/>.</summary>
    public AdamWOptions Optimizer { get; init; } = new();

    /// <summary>Of data order, initial adapter values, dropout and sampling (seed). Default 42, Hugging Face's.</summary>
    public ulong Seed { get; init; } = 42;

    /// <summary>Where adapter, metrics and checkpoints go (output_dir). Default null, which keeps everything in memory.</summary>
    public string? OutputFolder { get; init; }

    /// <summary>Optimizer steps between checkpoints (save_steps). Default 0: none, unless <see cref="SavesPerEpoch"/> asks for some.</summary>
    public int SaveEvery { get; init; }

    /// <summary>How many checkpoints are kept (save_total_limit). Default 0: all.</summary>
    public int KeepCheckpoints { get; init; }

    /// <summary>Optimizer steps between evaluations (eval_steps). Default 0: at the end only, unless <see cref="EvaluationsPerEpoch"/> asks for more.</summary>
    public int EvaluateEvery { get; init; }

    /// <summary>Checkpoints in an epoch (saves_per_epoch); <see cref="SaveEvery"/>, where it is not 0, takes precedence. Default 0.</summary>
    public int SavesPerEpoch { get; init; }

    /// <summary>Evaluations in an epoch (evals_per_epoch); <see cref="EvaluateEvery"/>, where it is not 0, takes precedence. Default 0.</summary>
    public int EvaluationsPerEpoch { get; init; }

    /// <summary>Stop with an error and a checkpoint after <see cref="LossWatchdogPatience"/> steps in a row whose loss, in the method's unit, exceeds this (loss_watchdog_threshold). Default 0: never.</summary>
    public double LossWatchdogThreshold { get; init; }

    /// <summary>Steps in a row above <see cref="LossWatchdogThreshold"/> that end the run (loss_watchdog_patience). Default 3.</summary>
    public int LossWatchdogPatience { get; init; } = 3;

    /// <summary>Items (rows, bins or prompts) of one step.</summary>
    internal virtual int ItemsPerStep => MicroBatchSize * GradientAccumulation;

    /// <summary>Steps of an epoch of that many items.</summary>
    internal int StepsPerEpoch(int items) => (int)(((long)items + ItemsPerStep - 1) / ItemsPerStep);

    /// <summary>Steps of the whole run over that many items.</summary>
    internal int TotalSteps(int items) => MaxSteps > 0 ? MaxSteps : Math.Max(1, (int)Math.Ceiling(Epochs * StepsPerEpoch(items) - 1e-9));

    internal Schedule ToSchedule(int totalSteps) =>
        new(Schedule, LearningRate, WarmupSteps ?? (int)Math.Ceiling(WarmupRatio * totalSteps), totalSteps, MinimumLearningRateRatio);

    /// <summary>Checks every option; a method adds its own.</summary>
    /// <exception cref="ArgumentException">One is out of range.</exception>
    internal virtual void Validate()
    {
        RequireAtLeast(0, MaxSteps, nameof(MaxSteps));
        RequirePositive(Epochs, nameof(Epochs));
        RequireAtLeast(1, MicroBatchSize, nameof(MicroBatchSize));
        RequireAtLeast(1, GradientAccumulation, nameof(GradientAccumulation));
        Require((long)MicroBatchSize * GradientAccumulation <= int.MaxValue, nameof(GradientAccumulation), GradientAccumulation,
            FormattableString.Invariant($"at most {int.MaxValue / MicroBatchSize} with a MicroBatchSize of {MicroBatchSize} (gradient_accumulation_steps and micro_batch_size): a step takes no more than {int.MaxValue} rows"));
        Require(LearningRate is >= 0 and <= 10, nameof(LearningRate), LearningRate, "from 0 to 10");
        RequireDefined(Schedule, nameof(Schedule));
        RequireAtLeast(0, WarmupSteps ?? 0, nameof(WarmupSteps));
        Require(WarmupRatio is >= 0 and <= 1, nameof(WarmupRatio), WarmupRatio, "from 0 to 1");
        Require(MinimumLearningRateRatio is >= 0 and <= 1, nameof(MinimumLearningRateRatio), MinimumLearningRateRatio, "from 0 to 1");
        Optimizer.Validate();
        Require(OutputFolder is null || OutputFolder.Trim().Length > 0, nameof(OutputFolder), "blank", "the path of a folder, or null");
        RequireAtLeast(0, SaveEvery, nameof(SaveEvery));
        RequireAtLeast(0, KeepCheckpoints, nameof(KeepCheckpoints));
        RequireAtLeast(0, EvaluateEvery, nameof(EvaluateEvery));
        RequireAtLeast(0, SavesPerEpoch, nameof(SavesPerEpoch));
        RequireAtLeast(0, EvaluationsPerEpoch, nameof(EvaluationsPerEpoch));
        RequireNotNegative(LossWatchdogThreshold, nameof(LossWatchdogThreshold));
        RequireAtLeast(1, LossWatchdogPatience, nameof(LossWatchdogPatience));
    }

    /// <exception cref="ArgumentException">The condition does not hold.</exception>
    protected void Require(bool holds, string name, object value, string expected)
    {
        if (!holds)
        {
            throw new ArgumentException(FormattableString.Invariant($"{GetType().Name}: {name} is {value}, expected {expected}."), name);
        }
    }

    private protected void RequireAtLeast(int least, int value, string name) => Require(value >= least, name, value, least == 0 ? "0 or more" : $"at least {least}");

    private protected void RequirePositive(double value, string name) => Require(value is > 0 and < double.PositiveInfinity, name, value, "more than 0 and finite");

    private protected void RequireNotNegative(double value, string name) => Require(value is >= 0 and < double.PositiveInfinity, name, value, "0 or more and finite");

    private protected void RequireDefined<T>(T value, string name) where T : struct, Enum => Require(Enum.IsDefined(value), name, value, $"one of {string.Join(", ", Enum.GetNames<T>())}");
}
