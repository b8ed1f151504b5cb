using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Preferences;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Config;

/// <summary>A run that trains a policy on what people preferred: <c>rl: dpo</c>, <c>ipo</c>, <c>orpo</c> or <c>kto</c>.</summary>
public sealed class PreferenceRun : TrainingRun
{
    static readonly string[] Rewards = ["rewards/chosen", "rewards/rejected"];

    PreferenceRun(RunModel opened, RunRows rows, Tokenizer? tokenizer, Action<string>? notice, Func<AdapterSet, AdapterSet?, Trainer> trainer) : base(opened)
    {
        (Rows, Tokenizer) = (rows, tokenizer);
        var reference = opened.ReferenceAdapter(notice);
        Adapter = opened.TrainedAdapter(notice);
        Weights = TrainedWeights.Of(Adapter, Config.BaseModel);
        Trainer = opened.Own(trainer(Adapter, reference));
    }

    /// <inheritdoc />
    public override string Title => Config.Rl switch
    {
        "orpo" => "Odds ratio preference optimization",
        "kto" => "Kahneman-Tversky optimization",
        "ipo" => "Identity preference optimization",
        _ => "Direct preference optimization",
    };

    /// <inheritdoc />
    public override Trainer Trainer { get; }

    /// <inheritdoc />
    public override TrainedWeights Weights { get; }

    /// <inheritdoc />
    public override AdapterSet Adapter { get; }

    /// <inheritdoc />
    public override Tokenizer? Tokenizer { get; }

    /// <inheritdoc />
    public override RunRows Rows { get; }

    /// <inheritdoc />
    public override IReadOnlyList<string> Headline => Config.Rl == "kto" ? ["kl", "rewards/margins"] : ["rewards/accuracies", "rewards/margins"];

    private protected override IReadOnlyList<(string Heading, string Unit, string[] Measures)> Plots =>
    [
        ("Pairs preferred as people did", "share", ["rewards/accuracies"]),
        ("Preferred over other", "β · nats", ["rewards/margins"]),
        ("Implicit rewards", "β · nats", Rewards),
        ("Divergence from the reference", "nats per response", ["kl"]),
    ];

    /// <summary>Tokens that a pair takes through the model.</summary>
    internal static long Tokens(PreferencePair pair) => 2L * pair.Prompt.Length + pair.Chosen.Length + pair.Rejected.Length;

    /// <summary>Reads data and model as <see cref="TrainingRun.Open"/> does, of a preference method.</summary>
    public static new PreferenceRun Open(RunConfig config, Action<string>? notice = null, CancellationToken cancel = default)
    {
        if (config.Rl == "kto")
        {
            var responses = RunData.LoadLabelled(config, cancel);
            var options = Common(config, new KtoOptions
            {
                Beta = config.RlBeta,
                DesirableWeight = config.KtoDesirableWeight,
                UndesirableWeight = config.KtoUndesirableWeight,
                MaxLength = config.SequenceLen,
            });
            return Assemble(responses.Summary(row => row.Length, row => row.Response.Length, row => row.Length), responses.Tokenizer,
                (policy, reference) => new KtoTrainer(policy, config.BaseModel, responses.Train, options, responses.Validation, reference));
        }

        var pairs = RunData.LoadPairs(config, cancel);
        var rows = pairs.Summary(Tokens, pair => pair.Chosen.Length + pair.Rejected.Length, pair => pair.Length);
        if (config.Rl == "orpo")
        {
            var options = Common(config, new OrpoOptions { Beta = config.RlBeta, MaxLength = config.SequenceLen });
            return Assemble(rows, pairs.Tokenizer, (policy, _) => new OrpoTrainer(policy, config.BaseModel, pairs.Train, options, pairs.Validation));
        }

        var direct = Common(config, new DpoOptions
        {
            Beta = config.RlBeta,
            Kind = (config.Rl == "ipo" ? "ipo" : config.DpoLossType) switch { "ipo" => DpoKind.Ipo, "hinge" => DpoKind.Hinge, _ => DpoKind.Sigmoid },
            LabelSmoothing = config.DpoLabelSmoothing,
            ReferenceFree = config.DpoReferenceFree,
            MaxLength = config.SequenceLen,
        });
        return Assemble(rows, pairs.Tokenizer, (policy, reference) => new DpoTrainer(policy, config.BaseModel, pairs.Train, direct, pairs.Validation, reference));

        PreferenceRun Assemble(RunRows rows, Tokenizer? tokenizer, Func<AdapterSet, AdapterSet?, Trainer> trainer) =>
            RunModel.Open(config, notice, opened => new PreferenceRun(opened, rows, tokenizer, notice, trainer));
    }
}
