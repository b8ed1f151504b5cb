using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Config;

/// <summary>A supervised run: of an adapter, or of every weight.</summary>
public sealed class SftRun : TrainingRun
{
    readonly SftTrainer trainer;

    SftRun(RunModel opened, RunData<Example> data, Action<string>? notice) : base(opened)
    {
        Data = data;
        if (Config.Adapter is null)
        {
            Model.MakeTrainable();
        }
        else
        {
            Adapter = opened.TrainedAdapter(notice);
        }

        Weights = Adapter is null ? TrainedWeights.Of(Model, Config.BaseModel) : TrainedWeights.Of(Adapter, Config.BaseModel);
        trainer = opened.Own(new SftTrainer(Model, Weights, data.Train, Options(Config), data.Validation));
    }

    /// <summary>Its rows, tokenised.</summary>
    public RunData<Example> Data { get; }

    /// <inheritdoc />
    public override string Title => "Supervised fine-tuning";

    /// <inheritdoc />
    public override Trainer Trainer => trainer;

    /// <inheritdoc />
    public override TrainedWeights Weights { get; }

    /// <inheritdoc />
    public override AdapterSet? Adapter { get; }

    /// <inheritdoc />
    public override Tokenizer? Tokenizer => Data.Tokenizer;

    /// <inheritdoc />
    public override RunRows Rows => Data.Summary(example => example.Length, example => example.TrainedTokens, example => example.Length);

    private protected override IReadOnlyList<(string Heading, string Unit, string[] Measures)> Plots => [];

    /// <summary>Reads data and model as <see cref="TrainingRun.Open"/> does, of a supervised run.</summary>
    public static new SftRun Open(RunConfig config, Action<string>? notice = null, CancellationToken cancel = default)
    {
        var data = RunData.Load(config, cancel); // first, since it takes the least time and has the most mistakes
        return RunModel.Open(config, notice, opened => new SftRun(opened, data, notice));
    }

    static SftOptions Options(RunConfig config) => Common(config, new SftOptions { SequenceLength = config.SequenceLen, Packing = config.SamplePacking });
}
