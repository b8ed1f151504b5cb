using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Config;

/// <summary>A run that trains a policy on rewards by proximal policy optimization (<c>rl: ppo</c>): policy, reference, reward and value models over one base.</summary>
public sealed class PpoRun : TrainingRun
{
    readonly PpoTrainer trainer;

    PpoRun(RunModel opened, RunData<Prompt> data, Action<string>? notice) : base(opened)
    {
        Data = data;
        var reference = opened.ReferenceAdapter(notice);
        var (rewards, rewardModel) = PolicyData.Rewards(opened, notice);
        Adapter = opened.TrainedAdapter(notice);
        var value = opened.Own(ValueModel.Create(Model, (rewardModel ?? Adapter).Config, (ulong)Config.Seed, rewardModel));
        Weights = TrainedWeights.Of(Adapter, Config.BaseModel);
        var options = Common(Config, Config.Ppo) with { StopIds = PolicyData.StopIds(opened, data) };
        trainer = opened.Own(new PpoTrainer(Adapter, value, Config.BaseModel, data.Tokenizer, data.Train, rewards, options, reference));
    }

    /// <summary>Its prompts, tokenised.</summary>
    public RunData<Prompt> Data { get; }

    /// <inheritdoc />
    public override string Title => "Proximal policy optimization";

    /// <inheritdoc />
    public override Trainer Trainer => trainer;

    /// <inheritdoc />
    public override TrainedWeights Weights { get; }

    /// <inheritdoc />
    public override AdapterSet Adapter { get; }

    /// <inheritdoc />
    public override Tokenizer? Tokenizer => Data.Tokenizer;

    /// <inheritdoc />
    public override RunRows Rows => PolicyData.Rows(Data, Config.Ppo.ResponseLength);

    /// <inheritdoc />
    public override IReadOnlyList<string> Headline => ["objective/scores", "objective/kl"];

    private protected override IReadOnlyList<(string Heading, string Unit, string[] Measures)> Plots =>
    [
        ("Reward", "score per response", ["objective/scores", "objective/rlhf_reward"]),
        ("Divergence from the reference", "nats per response", ["objective/kl"]),
        ("Losses", "loss", ["loss/policy_avg", "loss/value_avg"]),
        ("Clipped", "share of tokens", ["policy/clipfrac_avg", "val/clipfrac_avg"]),
        ("Length of responses", "tokens", ["completions/mean_length"]),
        ("Time of a step", "seconds", ["time/generate", "time/score", "time/update"]),
    ];

    /// <summary>Reads data and model as <see cref="TrainingRun.Open"/> does, of a policy.</summary>
    public static new PpoRun Open(RunConfig config, Action<string>? notice = null, CancellationToken cancel = default)
    {
        var data = RunData.LoadPrompts(config, cancel);
        return RunModel.Open(config, notice, opened => new PpoRun(opened, data, notice));
    }
}
