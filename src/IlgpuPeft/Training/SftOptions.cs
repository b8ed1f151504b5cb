using IlgpuPeft.Optim;

namespace IlgpuPeft.Training;

/// <summary>How a supervised run goes through its data. Names in brackets are the keys of the configuration file.</summary>
public sealed record SftOptions
{
    /// <summary>Optimizer steps; 0 lets <see cref="Epochs"/> decide (max_steps).</summary>
    public int MaxSteps { get; init; }

    /// <summary>Passes over the data; the last may be partial (num_epochs).</summary>
    public double Epochs { get; init; } = 1;

    /// <summary>Rows, or packed bins, of one forward and backward pass (micro_batch_size).</summary>
    public int MicroBatchSize { get; init; } = 1;

    /// <summary>Passes whose gradients add up to one optimizer step (gradient_accumulation_steps).</summary>
    public int GradientAccumulation { get; init; } = 1;

    /// <summary>Tokens of a bin with packing; no row may be longer (sequence_len).</summary>
    public int SequenceLength { get; init; } = 512;

    /// <summary>Several rows share a pass up to the sequence length, without seeing each other (sample_packing).</summary>
    public bool Packing { get; init; }

    /// <summary>Draws a new order for each epoch (shuffle_merged_datasets).</summary>
    public bool Shuffle { get; init; } = true;

    /// <summary>Peak learning rate (learning_rate); 2e-4 is the QLoRA paper's for models up to 13B.</summary>
    public double LearningRate { get; init; } = 2e-4;

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

    /// <summary>Of data order, initial adapter values and dropout (seed).</summary>
    public ulong Seed { get; init; } = 42;

    /// <summary>Where adapter, metrics and checkpoints go; null keeps everything in memory (output_dir).</summary>
    public string? OutputFolder { get; init; }

    /// <summary>Optimizer steps between checkpoints; 0 for none (save_steps).</summary>
    public int SaveEvery { get; init; }

    /// <summary>How many checkpoints are kept; 0 for all (save_total_limit).</summary>
    public int KeepCheckpoints { get; init; }

    /// <summary>Optimizer steps between evaluations; 0 evaluates at the end only (eval_steps).</summary>
    public int EvaluateEvery { get; init; }

    /// <summary>Stop with an error after <see cref="LossWatchdogPatience"/> steps in a row whose loss exceeds this; 0 for never (loss_watchdog_threshold).</summary>
    public double LossWatchdogThreshold { get; init; }

    /// <summary>See <see cref="LossWatchdogThreshold"/> (loss_watchdog_patience).</summary>
    public int LossWatchdogPatience { get; init; } = 3;

    /// <summary>Optimizer steps of the whole run over that many items (rows or bins).</summary>
    internal int TotalSteps(int items)
    {
        int perStep = MicroBatchSize * GradientAccumulation;
        int perEpoch = (items + perStep - 1) / perStep;
        int byEpochs = Math.Max(1, (int)Math.Ceiling(Epochs * perEpoch - 1e-9));
        return MaxSteps > 0 ? MaxSteps : byEpochs;
    }

    internal Schedule ToSchedule(int totalSteps) =>
        new(Schedule, LearningRate, WarmupSteps ?? (int)Math.Ceiling(WarmupRatio * totalSteps), totalSteps, MinimumLearningRateRatio);

    internal void Validate()
    {
        Require(MicroBatchSize >= 1, nameof(MicroBatchSize), MicroBatchSize, "at least 1");
        Require(GradientAccumulation >= 1, nameof(GradientAccumulation), GradientAccumulation, "at least 1");
        Require(MaxSteps >= 0, nameof(MaxSteps), MaxSteps, "0 or more");
        Require(Epochs > 0, nameof(Epochs), Epochs, "more than 0");
        Require(SequenceLength >= 2, nameof(SequenceLength), SequenceLength, "at least 2");
        Require(double.IsFinite(LearningRate) && LearningRate >= 0, nameof(LearningRate), LearningRate, "0 or more");
    }

    static void Require(bool holds, string name, object value, string expected)
    {
        if (!holds)
        {
            throw new ArgumentException($"SftOptions: {name} is {value}, expected {expected}.", name);
        }
    }
}
