using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Config;

/// <summary>The data of a run in numbers, for plans and reports.</summary>
/// <param name="Train">Rows that are trained on.</param>
/// <param name="Validation">Rows set aside.</param>
/// <param name="Tokens">Tokens of an epoch.</param>
/// <param name="TrainedTokens">Tokens of an epoch that the loss covers; of a policy's prompts none.</param>
/// <param name="Longest">Tokens of the longest row, of a policy's with its longest answer.</param>
/// <param name="Reports">What became of the rows of each of <c>datasets</c>, before a part was set aside.</param>
/// <param name="ValidationReports">The same of <c>test_datasets</c>.</param>
public sealed record RunRows(int Train, int Validation, long Tokens, long TrainedTokens, int Longest, IReadOnlyList<DatasetReport> Reports, IReadOnlyList<DatasetReport> ValidationReports);

/// <summary>A run put together from its configuration: device, data, model, what is trained, and the trainer over them.</summary>
/// <example><code>
/// using var run = TrainingRun.Open(ConfigReader.Read("run.yaml", []).Config);
/// var result = await run.RunAsync();
/// </code></example>
public abstract class TrainingRun : IDisposable
{
    readonly RunModel opened;

    private protected TrainingRun(RunModel opened)
    {
        this.opened = opened;
        Folder = new RunFolder(Config.OutputDir, Config.SaveTotalLimit ?? 0);
    }

    /// <summary>What the run was told.</summary>
    public RunConfig Config => opened.Config;

    /// <summary>The base model.</summary>
    public CausalLm Model => opened.Model;

    /// <summary>What the method is called, as a heading says it.</summary>
    public abstract string Title { get; }

    /// <summary>Trains it.</summary>
    public abstract Trainer Trainer { get; }

    /// <summary>What is trained.</summary>
    public abstract TrainedWeights Weights { get; }

    /// <summary>The adapter that is trained; null where every weight is.</summary>
    public abstract AdapterSet? Adapter { get; }

    /// <summary>The model's, or null where its folder has none.</summary>
    public abstract Tokenizer? Tokenizer { get; }

    /// <summary>Its rows.</summary>
    public abstract RunRows Rows { get; }

    /// <summary>The measures that say best how it goes.</summary>
    public virtual IReadOnlyList<string> Headline => [];

    /// <summary>What the method's report plots beside loss and speed: headings, units, and the measures in each.</summary>
    private protected abstract IReadOnlyList<(string Heading, string Unit, string[] Measures)> Plots { get; }

    /// <summary>Its files.</summary>
    public RunFolder Folder { get; }

    /// <summary>Reads data and model. Nothing is written.</summary>
    /// <param name="config">From <see cref="ConfigReader"/>, or made in code.</param>
    /// <param name="notice">Hears what was read and ignored.</param>
    /// <param name="cancel">Stops between two rows of the data.</param>
    /// <exception cref="ArgumentException">The configuration asks for what the device, the model or the data cannot give.</exception>
    /// <exception cref="IOException">A file or folder is absent.</exception>
    /// <exception cref="InvalidDataException">A row or <c>config.json</c> is wrong.</exception>
    /// <exception cref="CheckpointException">The model or the adapter is damaged, or they do not belong together.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancel"/> asked for it.</exception>
    public static TrainingRun Open(RunConfig config, Action<string>? notice = null, CancellationToken cancel = default) => config.Rl switch
    {
        "ppo" => PpoRun.Open(config, notice, cancel),
        "grpo" => GrpoRun.Open(config, notice, cancel),
        not null => PreferenceRun.Open(config, notice, cancel),
        null when config.RewardModel => RewardRun.Open(config, notice, cancel),
        null => SftRun.Open(config, notice, cancel),
    };

    /// <summary>
    /// Trains to the end, and leaves in <c>output_dir</c> the trained weights, <c>metrics.jsonl</c>, <c>config.yaml</c>, <c>report.html</c> and the checkpoints
    /// asked for. Parameters and errors are those of <see cref="Trainer.RunAsync(IProgress{StepMetrics}, string, CancellationToken)"/>.
    /// </summary>
    /// <exception cref="IOException"><c>output_dir</c> cannot be written to; found out before training.</exception>
    public async Task<TrainingResult> RunAsync(IProgress<StepMetrics>? progress = null, string? resumeFrom = null, CancellationToken cancel = default)
    {
        var result = await Trainer.RunAsync(WriteConfig, progress, resumeFrom, cancel).ConfigureAwait(false);
        RunReport.Write(this, result, Plots);
        return result;

        void WriteConfig() => AtomicFile.WriteText(Path.Combine(Config.OutputDir, "config.yaml"), ConfigWriter.ToYaml(Config));
    }

    /// <inheritdoc />
    public void Dispose()
    {
        opened.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <summary>What every method is told by the same keys.</summary>
    private protected static T Common<T>(RunConfig config, T options) where T : TrainingOptions
    {
        bool warms = config.LrScheduler != "constant";
        return options with
        {
            MaxSteps = config.MaxSteps ?? 0,
            Epochs = config.NumEpochs,
            MicroBatchSize = config.MicroBatchSize,
            GradientAccumulation = config.GradientAccumulationSteps,
            Shuffle = config.ShuffleMergedDatasets,
            LearningRate = config.LearningRate,
            Schedule = config.LrScheduler switch { "linear" => ScheduleKind.Linear, "cosine" => ScheduleKind.Cosine, _ => ScheduleKind.Constant },
            WarmupSteps = warms ? config.WarmupSteps : 0,
            WarmupRatio = warms ? config.WarmupRatio ?? 0 : 0,
            MinimumLearningRateRatio = config.CosineMinLrRatio ?? 0,
            Optimizer = new AdamWOptions
            {
                Beta1 = config.AdamBeta1,
                Beta2 = config.AdamBeta2,
                Epsilon = config.AdamEpsilon,
                WeightDecay = config.WeightDecay,
                MaxGradientNorm = config.MaxGradNorm,
                EightBit = config.Optimizer == RunConfig.AdamW8Bit,
            },
            Seed = (ulong)config.Seed,
            OutputFolder = config.OutputDir,
            SaveEvery = config.SaveSteps ?? (config.SavesPerEpoch > 0 ? 0 : int.MaxValue), // if nothing is said, one checkpoint at the end
            SavesPerEpoch = config.SavesPerEpoch ?? 0,
            KeepCheckpoints = config.SaveTotalLimit ?? 0,
            EvaluateEvery = config.EvalSteps ?? 0,
            EvaluationsPerEpoch = config.EvalsPerEpoch ?? 0,
            LossWatchdogThreshold = config.LossWatchdogThreshold ?? 0,
            LossWatchdogPatience = config.LossWatchdogPatience,
        };
    }
}
