using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Preferences;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Config;

/// <summary>A run that trains a reward model on preference pairs (<c>reward_model: true</c>).</summary>
public sealed class RewardRun : TrainingRun
{
    readonly RewardTrainer trainer;

    RewardRun(RunModel opened, RunData<PreferencePair> data, Action<string>? notice) : base(opened)
    {
        Data = data;
        Adapter = opened.TrainedAdapter(notice, scalarHead: true);
        Weights = TrainedWeights.Of(Adapter, Config.BaseModel);
        trainer = opened.Own(new RewardTrainer(Adapter, Config.BaseModel, data.Train,
            Common(Config, new RewardOptions { MaxLength = Config.SequenceLen, CenterRewardsCoefficient = Config.CenterRewardsCoefficient ?? 0 }), data.Validation));
    }

    /// <summary>Its pairs, tokenised.</summary>
    public RunData<PreferencePair> Data { get; }

    /// <inheritdoc />
    public override string Title => "Reward model";

    /// <inheritdoc />
    public override Trainer Trainer => trainer;

    /// <inheritdoc />
    public override TrainedWeights Weights { get; }

    /// <inheritdoc />
    public override AdapterSet Adapter { get; }

    /// <inheritdoc />
    public override Tokenizer? Tokenizer => Data.Tokenizer;

    /// <inheritdoc />
    public override RunRows Rows => Data.Summary(PreferenceRun.Tokens, pair => pair.Chosen.Length + pair.Rejected.Length, pair => pair.Length);

    /// <inheritdoc />
    public override IReadOnlyList<string> Headline => ["accuracy", "margin"];

    private protected override IReadOnlyList<(string Heading, string Unit, string[] Measures)> Plots =>
    [
        ("Pairs judged right", "share", ["accuracy"]),
        ("Preferred over other", "reward", ["margin"]),
        ("Rewards", "reward", ["mean_reward", "min_reward", "max_reward"]),
    ];

    /// <summary>Reads data and model as <see cref="TrainingRun.Open"/> does, of a reward model.</summary>
    public static new RewardRun Open(RunConfig config, Action<string>? notice = null, CancellationToken cancel = default)
    {
        var data = RunData.LoadPairs(config, cancel);
        return RunModel.Open(config, notice, opened => new RewardRun(opened, data, notice));
    }
}
