using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Training;

namespace IlgpuPeft.Config;

/// <summary>A supervised run put together from its configuration: device, data, model, what is trained, and the trainer over them.</summary>
/// <example><code>
/// using var run = SftRun.Open(ConfigReader.Read("run.yaml", []).Config);
/// var result = await run.RunAsync();
/// </code></example>
public sealed class SftRun : IDisposable
{
    readonly SftTrainer trainer;

    SftRun(RunConfig config, RunData data, CausalLm model, AdapterSet? adapter)
    {
        (Config, Data, Model, Adapter) = (config, data, model, adapter);
        Weights = adapter is null ? TrainedWeights.Of(model, config.BaseModel) : TrainedWeights.Of(adapter, config.BaseModel);
        Options = ToOptions(config);
        trainer = new SftTrainer(model, Weights, data.Train, Options, data.Validation);
        Folder = new RunFolder(config.OutputDir, Options.KeepCheckpoints);
    }

    /// <summary>What the run was told.</summary>
    public RunConfig Config { get; }

    /// <summary>Its rows.</summary>
    public RunData Data { get; }

    /// <summary>The model, with the adapter enabled.</summary>
    public CausalLm Model { get; }

    /// <summary>The adapter that is trained; null where every weight is.</summary>
    public AdapterSet? Adapter { get; }

    /// <summary>What is trained.</summary>
    public TrainedWeights Weights { get; }

    /// <summary>How.</summary>
    public SftOptions Options { get; }

    /// <summary>Its files.</summary>
    public RunFolder Folder { get; }

    /// <summary>Optimizer steps of the whole run.</summary>
    public int TotalSteps => trainer.TotalSteps;

    /// <summary>Rows, or bins with packing, of one epoch.</summary>
    public int ItemsPerEpoch => trainer.ItemsPerEpoch;

    /// <summary>Reads data and model. Nothing is written.</summary>
    /// <param name="config">From <see cref="ConfigReader"/>, or made in code.</param>
    /// <param name="notice">Hears what was read and ignored.</param>
    /// <exception cref="ArgumentException">The configuration asks for what the device, the model or the data cannot give.</exception>
    /// <exception cref="IOException">A file or folder is absent.</exception>
    /// <exception cref="InvalidDataException">A row or <c>config.json</c> is wrong.</exception>
    /// <exception cref="CheckpointException">The model or the adapter is damaged, or they do not belong together.</exception>
    public static SftRun Open(RunConfig config, Action<string>? notice = null)
    {
        var data = RunData.Load(config);
        var owned = new Stack<IDisposable>();
        try
        {
            var backend = Own(RunDevice.Open(config.Device, config.Dtype));
            var model = Own(PretrainedModel.Load(config.BaseModel, backend, Storage(config)));
            model.GradientCheckpointing = config.GradientCheckpointing;
            if (config.Adapter is null)
            {
                model.MakeTrainable();
                return new SftRun(config, data, model, adapter: null);
            }

            var adapter = Own(config.LoraModelDir is { } folder
                ? PretrainedAdapter.Load(model, folder, notice)
                : new AdapterSet(model, ToLora(config), (ulong)config.Seed));
            return new SftRun(config, data, model, adapter);
        }
        catch
        {
            foreach (var item in owned)
            {
                item.Dispose();
            }

            throw;
        }

        T Own<T>(T item) where T : IDisposable
        {
            owned.Push(item);
            return item;
        }
    }

    /// <summary>
    /// Trains to the end, and leaves in <c>output_dir</c> the trained weights, <c>metrics.jsonl</c>, <c>config.yaml</c>, <c>report.html</c> and the checkpoints
    /// asked for. Parameters and errors are those of <see cref="Trainer.RunAsync"/>.
    /// </summary>
    /// <exception cref="IOException"><c>output_dir</c> cannot be written to; found out before training.</exception>
    public async Task<TrainingResult> RunAsync(IProgress<StepMetrics>? progress = null, string? resumeFrom = null, CancellationToken cancel = default)
    {
        if (resumeFrom is not null)
        {
            trainer.RequireResumable(resumeFrom); // before anything of the earlier run is replaced
        }

        AtomicFile.WriteText(Path.Combine(Config.OutputDir, "config.yaml"), ConfigWriter.ToYaml(Config));
        var result = await trainer.RunAsync(progress, resumeFrom, cancel).ConfigureAwait(false);
        SftReport.Write(this, result);
        return result;
    }

    /// <inheritdoc />
    public void Dispose()
    {
        trainer.Dispose();
        Adapter?.Dispose();
        Model.Dispose();
        Model.Backend.Dispose();
    }

    static WeightStorage Storage(RunConfig config) =>
        !config.LoadIn4Bit ? WeightStorage.AsStored : config.BnbConfigKwargs.UseDoubleQuant ? WeightStorage.Nf4Double : WeightStorage.Nf4;

    static LoraConfig ToLora(RunConfig config) => new()
    {
        Rank = config.LoraR,
        Alpha = config.LoraAlpha,
        Dropout = config.LoraDropout,
        RankStabilised = config.PeftUseRslora,
        Targets = config.LoraTargetLinear ? [LoraConfig.AllLinear] : config.LoraTargetModules,
    };

    static SftOptions ToOptions(RunConfig config)
    {
        bool warms = config.LrScheduler != "constant";
        return new SftOptions
        {
            MaxSteps = config.MaxSteps ?? 0,
            Epochs = config.NumEpochs,
            MicroBatchSize = config.MicroBatchSize,
            GradientAccumulation = config.GradientAccumulationSteps,
            SequenceLength = config.SequenceLen,
            Packing = config.SamplePacking,
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
