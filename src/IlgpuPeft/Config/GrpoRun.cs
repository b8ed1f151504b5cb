using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Config;

/// <summary>A run that trains a policy on rewards by group relative policy optimization (<c>rl: grpo</c>).</summary>
public sealed class GrpoRun : TrainingRun
{
    readonly GrpoTrainer trainer;

    GrpoRun(RunModel opened, RunData<Prompt> data, Action<string>? notice) : base(opened)
    {
        Data = data;
        var reference = opened.ReferenceAdapter(notice);
        var (rewards, _) = PolicyData.Rewards(opened, notice);
        Adapter = opened.TrainedAdapter(notice);
        Weights = TrainedWeights.Of(Adapter, Config.BaseModel);
        var options = Common(Config, Config.Trl) with { StopIds = PolicyData.StopIds(opened, data) };
        trainer = opened.Own(new GrpoTrainer(Adapter, Config.BaseModel, data.Tokenizer, data.Train, rewards, options, reference, data.Validation));
    }

    /// <summary>Its prompts, tokenised.</summary>
    public RunData<Prompt> Data { get; }

    /// <inheritdoc />
    public override string Title => "Group relative policy optimization";

    /// <inheritdoc />
    public override Trainer Trainer => trainer;

    /// <inheritdoc />
    public override TrainedWeights Weights { get; }

    /// <inheritdoc />
    public override AdapterSet Adapter { get; }

    /// <inheritdoc />
    public override Tokenizer? Tokenizer => Data.Tokenizer;

    /// <inheritdoc />
    public override RunRows Rows => PolicyData.Rows(Data, Config.Trl.MaxCompletionLength);

    /// <inheritdoc />
    public override IReadOnlyList<string> Headline => ["reward", "kl"];

    private protected override IReadOnlyList<(string Heading, string Unit, string[] Measures)> Plots =>
    [
        ("Reward", "reward per completion", ["reward", "reward_std"]),
        ("Divergence from the reference", "nats per token", ["kl"]),
        ("Clipped", "share of tokens", ["clip_ratio/region_mean"]),
        ("Groups that teach nothing, and completions cut short", "share", ["frac_reward_zero_std", "completions/clipped_ratio"]),
        ("Length of completions", "tokens", ["completions/mean_length"]),
        ("Time of a step", "seconds", ["time/generate", "time/reward", "time/score", "time/update"]),
    ];

    /// <summary>Reads data and model as <see cref="TrainingRun.Open"/> does, of a policy.</summary>
    public static new GrpoRun Open(RunConfig config, Action<string>? notice = null, CancellationToken cancel = default)
    {
        var data = RunData.LoadPrompts(config, cancel);
        return RunModel.Open(config, notice, opened => new GrpoRun(opened, data, notice));
    }
}
