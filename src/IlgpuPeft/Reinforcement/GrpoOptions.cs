using System.Globalization;
using IlgpuPeft.Generation;
using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Reinforcement;

/// <summary>
/// How group relative policy optimization goes about its steps. Defaults of its own options are those of TRL's <c>GRPOConfig</c>, whose names stand in brackets, unless another source is given. A step asks
/// <see cref="TrainingOptions.MicroBatchSize"/> times <see cref="TrainingOptions.GradientAccumulation"/> prompts, each <see cref="NumGenerations"/> times. TRL counts completions there
/// instead, so its steps have <c>num_generations</c> times fewer prompts by the same numbers.
/// </summary>
public sealed record GrpoOptions : TrainingOptions
{
    /// <summary>Peak learning rate (learning_rate). Default 1e-6, which is for whole models; adapters take about ten times as much and more.</summary>
    public override double LearningRate { get; init; } = 1e-6;

    /// <summary>Completions of each prompt, which are judged against each other; at least 2 (num_generations). Default 8.</summary>
    public int NumGenerations { get; init; } = 8;

    /// <summary>The most tokens of a completion (max_completion_length). Default 512.</summary>
    public int MaxCompletionLength { get; init; } = 512;

    /// <summary>Divides the logits, in drawing and in every log-probability of policy and reference; more than 0 (temperature). Default 1.</summary>
    public double Temperature { get; init; } = 1;

    /// <summary>Draws from the smallest set of tokens whose probability reaches p, more than 0, at most 1, which is all (top_p). Default 1. Log-probabilities are always of all tokens, so anything but 1 trains on another distribution than was drawn from.</summary>
    public double TopP { get; init; } = 1;

    /// <summary>Draws from the k most likely tokens; 0 for all (top_k). Default 0. As for <see cref="TopP"/>.</summary>
    public int TopK { get; init; }

    /// <summary>Tokens that end a completion and belong to it (as PPO's stop_token_id). Default null: the model's own. An empty list lets every completion run to its full length.</summary>
    public IReadOnlyList<int>? StopIds { get; init; }

    /// <summary>Weight of the divergence from the reference, per nat (beta). Default 0, with which there is no reference, and none is computed.</summary>
    public double Beta { get; init; }

    /// <summary>Optimizer steps over the same completions, each over all of them (num_iterations). Default 1.</summary>
    public int NumIterations { get; init; } = 1;

    /// <summary>How far a probability ratio may fall, and rise, before its gradient stops, between 0 and 1 (epsilon). Default 0.2.</summary>
    public double Epsilon { get; init; } = 0.2;

    /// <summary>How far it may rise, if not as far as it may fall; more than 0 (epsilon_high). Default null: as far. DAPO (arXiv:2503.14476) has 0.28.</summary>
    public double? EpsilonHigh { get; init; }

    /// <summary>The largest ratio that counts where an advantage is negative, more than 1 + epsilon (delta; INTELLECT-2, arXiv:2505.07291). Default null: none.</summary>
    public double? Delta { get; init; }

    /// <summary>What one token counts for (loss_type: grpo, dapo, bnpo or dr_grpo). Default dapo.</summary>
    public GroupReduction LossType { get; init; } = GroupReduction.Dapo;

    /// <summary>What the differences between rewards of a group are divided by (scale_rewards). Default group.</summary>
    public ScaleRewards ScaleRewards { get; init; } = ScaleRewards.Group;

    /// <summary>Over what ratios are taken; by sequence is GSPO, arXiv:2507.18071 (importance_sampling_level). Default token.</summary>
    public ImportanceLevel ImportanceLevel { get; init; } = ImportanceLevel.Token;

    /// <summary>Learns nothing from completions that were cut at their length limit; their rewards still count in their group, and their tokens in the step's (mask_truncated_completions). Default false.</summary>
    public bool MaskTruncatedCompletions { get; init; }

    /// <summary>Weight of a bonus for the policy's entropy, in nats, averaged over the tokens learnt from (entropy_coef). Default 0: none.</summary>
    public double EntropyCoefficient { get; init; }

    /// <summary>The most completions that are drawn at once, each with its place in the KV cache; the others wait until one ends. Affects memory and speed only. Default 32. Not in TRL.</summary>
    public int MaxSequences { get; init; } = BatchGenerator.DefaultMaxSequences;

    /// <summary>
    /// Tokens that a pass over prompts and completions holds at most, unless one is longer. Default 0, which lets <see cref="TrainingOptions.MicroBatchSize"/> count completions instead. Affects memory and
    /// speed only, but for the loss type bnpo.
    /// </summary>
    public int TokensPerPass { get; init; }

    /// <summary>Temperature of the completions that are evaluated; 0 takes the most likely token each time. Default 0. Not in TRL, which evaluates as it trains.</summary>
    public double EvaluationTemperature { get; init; }

    /// <summary>Steps between samples of what the policy writes (as log_completions). Default 0: none.</summary>
    public int SampleEvery { get; init; }

    internal GroupLossOptions Loss => new(Epsilon, EpsilonHigh ?? Epsilon, Delta, Beta, LossType, ImportanceLevel);

    /// <summary>All that decides which numbers a step computes, beside what every trainer has.</summary>
    internal string Fingerprint => string.Create(CultureInfo.InvariantCulture,
        $"generations {NumGenerations}, completion {MaxCompletionLength}, temperature {Temperature}, top p {TopP}, top k {TopK}, stop {(StopIds is null ? "eos" : string.Join(' ', StopIds))}, " +
        $"iterations {NumIterations}, {Loss}, scale {ScaleRewards}, mask {MaskTruncatedCompletions}, entropy {EntropyCoefficient}, tokens {TokensPerPass}, sequences {MaxSequences}");

    internal override void Validate()
    {
        base.Validate();
        Require(NumGenerations >= 2, nameof(NumGenerations), NumGenerations, "at least 2: a completion is judged against others of the same prompt");
        RequireAtLeast(1, MaxCompletionLength, nameof(MaxCompletionLength));
        Require(Temperature is > 0 and < double.PositiveInfinity, nameof(Temperature), Temperature, "more than 0 and finite: completions that are all the same have nothing to be judged by");
        Require(TopP is > 0 and <= 1, nameof(TopP), TopP, "more than 0, at most 1");
        RequireAtLeast(0, TopK, nameof(TopK));
        Require(!MaskTruncatedCompletions || StopIds is not { Count: 0 }, nameof(MaskTruncatedCompletions), MaskTruncatedCompletions, "false with an empty StopIds, since every completion is cut");
        RequireNotNegative(Beta, nameof(Beta));
        RequireAtLeast(1, NumIterations, nameof(NumIterations));
        Require(Epsilon is > 0 and < 1, nameof(Epsilon), Epsilon, "between 0 and 1");
        RequirePositive(EpsilonHigh ?? Epsilon, nameof(EpsilonHigh));
        Require(Delta is null || (double.IsFinite(Delta.Value) && Delta > 1 + (EpsilonHigh ?? Epsilon)), nameof(Delta), Delta ?? 0, "more than 1 + epsilon, where clipping does not reach");
        RequireDefined(LossType, nameof(LossType));
        RequireDefined(ScaleRewards, nameof(ScaleRewards));
        RequireDefined(ImportanceLevel, nameof(ImportanceLevel));
        RequireNotNegative(EntropyCoefficient, nameof(EntropyCoefficient));
        RequireAtLeast(1, MaxSequences, nameof(MaxSequences));
        RequireAtLeast(0, TokensPerPass, nameof(TokensPerPass));
        RequireNotNegative(EvaluationTemperature, nameof(EvaluationTemperature));
        RequireAtLeast(0, SampleEvery, nameof(SampleEvery));
    }
}
