using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>How direct preference optimization learns. Defaults of its own options are those of TRL's DPOConfig; names in brackets are its fields. Dropout is off, as there.</summary>
public sealed record DpoOptions : TrainingOptions
{
    /// <summary>Peak learning rate (learning_rate). Default 1e-6, which TRL means for all weights of a model; of an adapter its guide to LoRA advises ten times as much.</summary>
    public override double LearningRate { get; init; } = 1e-6;

    /// <summary>β, per nat of the log-ratio: how strongly the policy is held to the reference; more than 0 (beta). Default 0.1, as in the paper (arXiv:2305.18290).</summary>
    public double Beta { get; init; } = 0.1;

    /// <summary>Which loss (loss_type). Default sigmoid, the paper's; hinge is SLiC's (arXiv:2309.06657) and ipo that of arXiv:2310.12036.</summary>
    public DpoKind Kind { get; init; } = DpoKind.Sigmoid;

    /// <summary>ε: the probability that a preference is the wrong way round, at least 0 and less than 0.5, for sigmoid only (label_smoothing). Default 0 (Mitchell 2023, conservative DPO).</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>Counts the reference's log-probabilities as 0, and does not compute them (reference_free). Default false.</summary>
    public bool ReferenceFree { get; init; }

    /// <summary>Tokens of prompt and response, the longer response of a pair, at most (max_length). Default 1024. TRL cuts longer rows; the data reader leaves them out, and here they are refused.</summary>
    public int MaxLength { get; init; } = 1024;

    internal DpoLossOptions ToLoss() => new(Beta, Kind, LabelSmoothing, ReferenceFree);

    internal override void Validate()
    {
        base.Validate();
        RequireDefined(Kind, nameof(Kind));
        RequirePositive(Beta, nameof(Beta));
        Require(LabelSmoothing is >= 0 and < 0.5, nameof(LabelSmoothing), LabelSmoothing, "at least 0 and less than 0.5");
        Require(LabelSmoothing == 0 || Kind == DpoKind.Sigmoid, nameof(LabelSmoothing), LabelSmoothing, $"0 with the loss {Kind}: only sigmoid has it");
        RequireAtLeast(2, MaxLength, nameof(MaxLength));
    }
}
