using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>How a reward model learns from pairs. Defaults of its own options are those of TRL's RewardConfig; names in brackets are its fields. Dropout is off, as there.</summary>
public sealed record RewardOptions : TrainingOptions
{
    /// <summary>Peak learning rate (learning_rate). Default 1e-4.</summary>
    public override double LearningRate { get; init; } = 1e-4;

    /// <summary>
    /// Weight of the mean of (score of the chosen + score of the rejected response)², which keeps scores near zero: pairs alone say nothing of their offset (center_rewards_coefficient).
    /// Default 0; TRL's documentation and Eisenstein et al. 2023 (arXiv:2312.09244) advise 0.01.
    /// </summary>
    public double CenterRewardsCoefficient { get; init; }

    /// <summary>Tokens of prompt and response, the longer response of a pair, at most (max_length). Default 1024. TRL leaves longer pairs out, as the data reader does; here they are refused.</summary>
    public int MaxLength { get; init; } = 1024;

    internal override void Validate()
    {
        base.Validate();
        RequireNotNegative(CenterRewardsCoefficient, nameof(CenterRewardsCoefficient));
        RequireAtLeast(2, MaxLength, nameof(MaxLength));
    }
}
