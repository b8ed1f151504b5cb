using System.Globalization;
using IlgpuPeft.Generation;
using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Reinforcement;

/// <summary>
/// How proximal policy optimization goes about its updates. Defaults of its own options are those of TRL's <c>PPOConfig</c>, whose names stand in brackets, unless another source is given. An update rolls out
/// <see cref="TrainingOptions.MicroBatchSize"/> times <see cref="TrainingOptions.GradientAccumulation"/> prompts, TRL's batch on one device.
/// </summary>
public sealed record PpoOptions : TrainingOptions
{
    /// <summary>Peak learning rate of the policy (learning_rate). Default 3e-6, which is for whole models; adapters take about ten times as much and more.</summary>
    public override double LearningRate { get; init; } = 3e-6;

    /// <summary>
    /// Peak learning rate of the value model, from 0 to 10. Default null: the policy's, as in TRL. The two have separate weights, and AdamW does not heed the scale of a gradient, so it is this, and not
    /// <see cref="ValueCoefficient"/>, that decides how fast values learn.
    /// </summary>
    public double? ValueLearningRate { get; init; }

    /// <summary>The most tokens of a response (response_length). Default 53.</summary>
    public int ResponseLength { get; init; } = 53;

    /// <summary>Divides the logits, in drawing and in every log-probability of policy and reference; more than 0 (temperature). Default 0.7.</summary>
    public double Temperature { get; init; } = 0.7;

    /// <summary>Tokens that end a response and belong to it (stop_token_id). Default null: the model's own. An empty list lets every response run to its full length.</summary>
    public IReadOnlyList<int>? StopIds { get; init; }

    /// <summary>Subtracted from the score of a response that did not end by itself, in units of reward (missing_eos_penalty). Default 0; TRL has none.</summary>
    public double MissingEosPenalty { get; init; }

    /// <summary>Weight of the divergence from the reference in the reward of each token, or where it starts, in units of reward per nat (kl_coef). Default 0.05.</summary>
    public double KlCoefficient { get; init; } = 0.05;

    /// <summary>How the divergence of a token is estimated (kl_estimator). Default k1.</summary>
    public KlEstimator KlEstimator { get; init; } = KlEstimator.K1;

    /// <summary>Divergence per response, in nats, that the weight is steered to; more than 0. Default null, which keeps the weight fixed, as TRL does since 0.12 (before: target, 6).</summary>
    public double? AdaptiveKlTarget { get; init; }

    /// <summary>
    /// Responses over which the adaptive weight would double; see <see cref="AdaptiveKl"/> (before TRL 0.12: horizon). Default 10000. More than 0.2 times the responses of an update, where there
    /// is a target: one that is far from the target moves the weight by 0.2·responses/horizon of itself.
    /// </summary>
    public double AdaptiveKlHorizon { get; init; } = 10_000;

    /// <summary>How far a token's probability ratio may move before its gradient stops, between 0 and 1 (cliprange). Default 0.2.</summary>
    public double ClipRange { get; init; } = 0.2;

    /// <summary>How far a value may move from its old one, in units of reward (cliprange_value). Default 0.2.</summary>
    public double ClipRangeValue { get; init; } = 0.2;

    /// <summary>Weight of the value loss, per squared unit of reward (vf_coef). Default 0.1.</summary>
    public double ValueCoefficient { get; init; } = 0.1;

    /// <summary>Weight of a bonus for the entropy of the policy, per nat. Default 0: none, as TRL, which has no such bonus.</summary>
    public double EntropyCoefficient { get; init; }

    /// <summary>Discount per token, from 0 to 1 (gamma). Default 1.</summary>
    public double Gamma { get; init; } = 1;

    /// <summary>Decay of generalised advantage estimation per token, from 0 to 1 (lam; Schulman et al. 2016, arXiv:1506.02438). Default 0.95.</summary>
    public double Lambda { get; init; } = 0.95;

    /// <summary>Scales the rewards of an update to variance 1 (whiten_rewards). Default false.</summary>
    public bool WhitenRewards { get; init; }

    /// <summary>Passes over the experience of an update (num_ppo_epochs). Default 4.</summary>
    public int PpoEpochs { get; init; } = 4;

    /// <summary>Parts of the experience, each with an optimizer step (num_mini_batches). Must divide the prompts of an update. Default 1.</summary>
    public int MiniBatches { get; init; } = 1;

    /// <summary>The most responses that are drawn at once, each with its place in the KV cache; the others wait until one ends. Affects memory and speed only (local_rollout_forward_batch_size). Default 32; TRL has 64.</summary>
    public int MaxSequences { get; init; } = BatchGenerator.DefaultMaxSequences;

    /// <summary>Tokens that a pass over prompts and responses holds at most, unless one is longer. Default 0, which lets <see cref="TrainingOptions.MicroBatchSize"/> count sequences instead, as TRL does. Affects memory and speed only.</summary>
    public int TokensPerPass { get; init; }

    /// <summary>
    /// Does as TRL's padded arithmetic does where it differs from the definition: the score of a response that ended early is paid one slot after its last token, and the value there is
    /// trained; <c>policy/approxkl_avg</c> and <c>val/ratio</c> are averaged over the padding too. Default false.
    /// </summary>
    public bool TrlCompatible { get; init; }

    /// <summary>Ends the run when the divergence per response (objective/kl, nats) exceeds this, before that experience changes the weights. Default 0: never. Not in TRL.</summary>
    public double MaxKl { get; init; }

    /// <summary>Ends the epochs of an update after one whose mean approximate divergence (policy/approxkl, nats per token) exceeds this. Default 0: never. Not in TRL; target_kl elsewhere.</summary>
    public double EpochKlLimit { get; init; }

    /// <summary>Updates between samples of what the policy writes. Default 0: none. TRL counts how often in a run instead (num_sample_generations).</summary>
    public int SampleEvery { get; init; }

    internal PpoLossOptions Loss => new(ClipRange, ClipRangeValue, ValueCoefficient, EntropyCoefficient);

    /// <summary>Whether the adaptive weight stays positive whatever an update finds.</summary>
    internal bool HorizonFits => AdaptiveKlTarget is null || AdaptiveKlHorizon > AdaptiveKl.LargestError * ItemsPerStep;

    internal KlCoefficient NewKlCoefficient() => AdaptiveKlTarget is { } target ? new AdaptiveKl(KlCoefficient, target, AdaptiveKlHorizon) : new FixedKl(KlCoefficient);

    /// <summary>All that decides which numbers an update computes, beside what every trainer has.</summary>
    internal string Fingerprint => string.Create(CultureInfo.InvariantCulture,
        $"value rate {ValueLearningRate ?? LearningRate}, response {ResponseLength}, temperature {Temperature}, stop {(StopIds is null ? "eos" : string.Join(' ', StopIds))}, " +
        $"penalty {MissingEosPenalty}, kl {KlEstimator} {KlCoefficient} {AdaptiveKlTarget} {AdaptiveKlHorizon}, {Loss}, gamma {Gamma}, lambda {Lambda}, whiten {WhitenRewards}, " +
        $"ppo epochs {PpoEpochs} to {EpochKlLimit}, mini batches {MiniBatches}, tokens {TokensPerPass}, sequences {MaxSequences}, trl {TrlCompatible}, max kl {MaxKl}");

    internal override void Validate()
    {
        base.Validate();
        Require(MiniBatches >= 1 && ItemsPerStep % MiniBatches == 0, nameof(MiniBatches), MiniBatches,
            $"a divisor of the {ItemsPerStep} prompts of an update (micro_batch_size {MicroBatchSize} times gradient_accumulation_steps {GradientAccumulation})");
        Require((ValueLearningRate ?? 0) is >= 0 and <= 10, nameof(ValueLearningRate), ValueLearningRate ?? 0, "from 0 to 10");
        RequireAtLeast(1, ResponseLength, nameof(ResponseLength));
        Require(Temperature is > 0 and < double.PositiveInfinity, nameof(Temperature), Temperature, "more than 0 and finite: a policy is trained on what it draws");
        RequireNotNegative(MissingEosPenalty, nameof(MissingEosPenalty));
        Require(MissingEosPenalty == 0 || StopIds is not { Count: 0 }, nameof(MissingEosPenalty), MissingEosPenalty, "0 with an empty StopIds, since no response can end");
        RequireNotNegative(KlCoefficient, nameof(KlCoefficient));
        RequireDefined(KlEstimator, nameof(KlEstimator));
        RequirePositive(AdaptiveKlTarget ?? 1, nameof(AdaptiveKlTarget));
        RequirePositive(AdaptiveKlHorizon, nameof(AdaptiveKlHorizon));
        Require(HorizonFits, nameof(AdaptiveKlHorizon), AdaptiveKlHorizon,
            $"more than {AdaptiveKl.LargestError} times the {ItemsPerStep} responses of an update (micro_batch_size {MicroBatchSize} times gradient_accumulation_steps {GradientAccumulation}), or one update could take the weight below zero");
        Require(ClipRange is > 0 and < 1, nameof(ClipRange), ClipRange, "between 0 and 1");
        RequirePositive(ClipRangeValue, nameof(ClipRangeValue));
        RequirePositive(ValueCoefficient, nameof(ValueCoefficient));
        RequireNotNegative(EntropyCoefficient, nameof(EntropyCoefficient));
        Require(Gamma is >= 0 and <= 1, nameof(Gamma), Gamma, "from 0 to 1");
        Require(Lambda is >= 0 and <= 1, nameof(Lambda), Lambda, "from 0 to 1");
        RequireAtLeast(1, PpoEpochs, nameof(PpoEpochs));
        RequireAtLeast(1, MaxSequences, nameof(MaxSequences));
        RequireAtLeast(0, TokensPerPass, nameof(TokensPerPass));
        RequireNotNegative(MaxKl, nameof(MaxKl));
        RequireNotNegative(EpochKlLimit, nameof(EpochKlLimit));
        RequireAtLeast(0, SampleEvery, nameof(SampleEvery));
    }
}
