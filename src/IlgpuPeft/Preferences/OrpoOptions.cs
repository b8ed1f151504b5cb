using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>How odds ratio preference optimization learns. Defaults of its own options are those of TRL's ORPOConfig; names in brackets are its fields. Dropout is off, as there.</summary>
public sealed record OrpoOptions : TrainingOptions
{
    /// <summary>Peak learning rate (learning_rate). Default 1e-6, which TRL means for all weights of a model; of an adapter its guide to LoRA advises ten times as much.</summary>
    public override double LearningRate { get; init; } = 1e-6;

    /// <summary>Weight of the odds ratio beside the likelihood, the paper's λ (arXiv:2403.07691), without unit; 0 or more (beta). Default 0.1.</summary>
    public double Beta { get; init; } = 0.1;

    /// <summary>Tokens of prompt and response, the longer response of a pair, at most (max_length). Default 1024. TRL cuts longer rows; the data reader leaves them out, and here they are refused.</summary>
    public int MaxLength { get; init; } = 1024;

    internal override void Validate()
    {
        base.Validate();
        RequireNotNegative(Beta, nameof(Beta));
        RequireAtLeast(2, MaxLength, nameof(MaxLength));
    }
}
