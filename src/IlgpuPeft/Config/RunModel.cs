using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Models;

namespace IlgpuPeft.Config;

/// <summary>The device, the base model and the adapters of a run, as its configuration has them, given back together.</summary>
sealed class RunModel : IDisposable
{
    readonly Stack<IDisposable> owned = new();

    RunModel(RunConfig config, Action<string>? notice)
    {
        Config = config;
        try
        {
            var backend = Own(RunDevice.Open(config.Device, config.Dtype, notice));
            Model = Own(PretrainedModel.Load(config.BaseModel, backend, Storage(config)));
        }
        catch
        {
            Dispose();
            throw;
        }

        Model.GradientCheckpointing = config.GradientCheckpointing;
    }

    /// <summary>What the run was told.</summary>
    public RunConfig Config { get; }

    /// <summary>The base model.</summary>
    public CausalLm Model { get; }

    /// <summary>Rank, scale and layers of new adapters.</summary>
    public LoraConfig Lora => new()
    {
        Rank = Config.LoraR,
        Alpha = Config.LoraAlpha,
        Dropout = Config.LoraDropout,
        RankStabilised = Config.PeftUseRslora,
        Targets = Config.LoraTargetLinear ? [LoraConfig.AllLinear] : Config.LoraTargetModules,
    };

    /// <summary>Loads the base model and puts a run together over it; if that fails, everything is given back.</summary>
    public static TRun Open<TRun>(RunConfig config, Action<string>? notice, Func<RunModel, TRun> assemble)
    {
        var model = new RunModel(config, notice);
        try
        {
            return assemble(model);
        }
        catch
        {
            model.Dispose();
            throw;
        }
    }

    /// <summary>The adapter that is trained: that of <c>lora_model_dir</c>, or a new one.</summary>
    /// <param name="notice">Hears what was read and ignored.</param>
    /// <param name="scalarHead">Whether it judges texts.</param>
    public AdapterSet TrainedAdapter(Action<string>? notice, bool scalarHead = false) =>
        Config.LoraModelDir is { } folder ? LoadAdapter(folder, notice, scalarHead) : NewAdapter(scalarHead);

    /// <summary>
    /// What divergence is measured from: the adapter of <c>reference_model_dir</c>, or that of <c>lora_model_dir</c> as it was. Null for the base model, and where the run measures none.
    /// </summary>
    public AdapterSet? ReferenceAdapter(Action<string>? notice) =>
        UnreadKeys.Reason(Config, "reference_model_dir") is null && (Config.ReferenceModelDir ?? Config.LoraModelDir) is { } folder ? LoadAdapter(folder, notice) : null;

    /// <summary>A new adapter of the configured rank and layers.</summary>
    public AdapterSet NewAdapter(bool scalarHead = false) => Own(new AdapterSet(Model, Lora, (ulong)Config.Seed, scalarHead));

    /// <summary>An adapter from a folder.</summary>
    public AdapterSet LoadAdapter(string folder, Action<string>? notice, bool scalarHead = false) => Own(PretrainedAdapter.Load(Model, folder, notice, scalarHead));

    /// <summary>Gives something back with the rest, before what it was made from.</summary>
    public T Own<T>(T item) where T : IDisposable
    {
        owned.Push(item);
        return item;
    }

    /// <inheritdoc />
    public void Dispose()
    {
        while (owned.TryPop(out var item))
        {
            item.Dispose();
        }
    }

    static WeightStorage Storage(RunConfig config) =>
        !config.LoadIn4Bit ? WeightStorage.AsStored : config.BnbConfigKwargs.UseDoubleQuant ? WeightStorage.Nf4Double : WeightStorage.Nf4;
}
