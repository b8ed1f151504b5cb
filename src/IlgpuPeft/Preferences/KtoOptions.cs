using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>How Kahneman-Tversky optimization learns. Defaults of its own options are those of TRL's KTOConfig; names in brackets are its fields. Dropout is off, as there.</summary>
public sealed record KtoOptions : TrainingOptions
{
    /// <summary>Peak learning rate (learning_rate). Default 1e-6, which TRL means for all weights of a model; of an adapter its guide to LoRA advises ten times as much.</summary>
    public override double LearningRate { get; init; } = 1e-6;

    /// <summary>β, per nat of the log-ratio: how strongly the policy is held to the reference; more than 0 (beta). Default 0.1, as in the paper (arXiv:2402.01306).</summary>
    public double Beta { get; init; } = 0.1;

    /// <summary>Weight of responses that were liked, without unit; more than 0 (desirable_weight). Default 1. Advised: weights times counts, liked to not liked, from 1:1 to 4:3.</summary>
    public double DesirableWeight { get; init; } = 1;

    /// <summary>Weight of responses that were not, without unit; more than 0 (undesirable_weight). Default 1.</summary>
    public double UndesirableWeight { get; init; } = 1;

    /// <summary>Tokens of prompt and response at most (max_length). Default 1024. TRL cuts longer rows; the data reader leaves them out, and here they are refused, and only the baseline's mismatched responses are cut.</summary>
    public int MaxLength { get; init; } = 1024;

    internal KtoLossOptions ToLoss() => new(Beta, DesirableWeight, UndesirableWeight);

    internal override void Validate()
    {
        base.Validate();
        RequirePositive(Beta, nameof(Beta));
        RequirePositive(DesirableWeight, nameof(DesirableWeight));
        RequirePositive(UndesirableWeight, nameof(UndesirableWeight));
        RequireAtLeast(2, MaxLength, nameof(MaxLength));
    }
}
