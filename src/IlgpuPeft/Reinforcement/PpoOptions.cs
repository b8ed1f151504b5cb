using System.Globalization;
using IlgpuPeft.Generation;
using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Reinforcement;

/// <summary>
/// How proximal policy optimization goes about its updates. Defaults are those of TRL's <c>PPOConfig</c>, whose names stand in brackets, unless another source is given. An update rolls out
/// <see cref="TrainingOptions.MicroBatchSize"/> times <see cref="TrainingOptions.GradientAccumulation"/> prompts, TRL's batch on one device.
/// </summary>
public sealed record PpoOptions : TrainingOptions
{
    /// <summary>Peak learning rate of the policy (learning_rate). 3e-6 is for whole models; adapters take about ten times as much and more.</summary>
    public override double LearningRate { get; init; } = 3e-6;

    /// <summary>
    /// Peak learning rate of the value model; null takes the policy's, as TRL does. The two have separate weights, and AdamW does not heed the scale of a gradient, so it is this, and not
    /// <see cref="ValueCoefficient"/>, that decides how fast values learn.
    /// </summary>
    public double? ValueLearningRate { get; init; }

    /// <summary>The most tokens of a response (response_length).</summary>
    public int ResponseLength { get; init; } = 53;

    /// <summary>Divides the logits, in drawing and in every log-probability of policy and reference (temperature).</summary>
    public double Temperature { get; init; } = 0.7;

    /// <summary>Tokens that end a response and belong to it (stop_token_id); null takes the model's own, and an empty list lets every response run to its full length.</summary>
    public IReadOnlyList<int>? StopIds { get; init; }

    /// <summary>Subtracted from the score of a response that did not end by itself (missing_eos_penalty).</summary>
    public double MissingEosPenalty { get; init; }

    /// <summary>Weight of the divergence from the reference in the reward of each token, or where it starts (kl_coef).</summary>
    public double KlCoefficient { get; init; } = 0.05;

    /// <summary>How the divergence of a token is estimated (kl_estimator).</summary>
    public KlEstimator KlEstimator { get; init; } = KlEstimator.K1;

    /// <summary>Divergence per response, in nats, that the weight is steered to; null keeps the weight fixed, as TRL does since 0.12 (before: target, 6).</summary>
    public double? AdaptiveKlTarget { get; init; }

    /// <summary>
    /// Responses over which the adaptive weight would double; see <see cref="AdaptiveKl"/> (before TRL 0.12: horizon). More than 0.2 times the responses of an update, where there is a target:
    /// one that is far from the target moves the weight by 0.2·responses/horizon of itself.
    /// </summary>
    public double AdaptiveKlHorizon { get; init; } = 10_000;

    /// <summary>How far a token's probability ratio may move before its gradient stops (cliprange).</summary>
    public double ClipRange { get; init; } = 0.2;

    /// <summary>How far a value may move from its old one, in units of reward (cliprange_value).</summary>
    public double ClipRangeValue { get; init; } = 0.2;

    /// <summary>Weight of the value loss (vf_coef).</summary>
    public double ValueCoefficient { get; init; } = 0.1;

    /// <summary>Weight of a bonus for the entropy of the policy, which TRL does not have; 0 for none.</summary>
    public double EntropyCoefficient { get; init; }

    /// <summary>Discount per token (gamma).</summary>
    public double Gamma { get; init; } = 1;

    /// <summary>Decay of generalised advantage estimation per token (lam).</summary>
    public double Lambda { get; init; } = 0.95;

    /// <summary>Scales the rewards of an update to variance 1 (whiten_rewards).</summary>
    public bool WhitenRewards { get; init; }

    /// <summary>Passes over the experience of an update (num_ppo_epochs).</summary>
    public int PpoEpochs { get; init; } = 4;

    /// <summary>Parts of the experience, each with an optimizer step (num_mini_batches). Must divide the prompts of an update.</summary>
    public int MiniBatches { get; init; } = 1;

    /// <summary>The most responses that are drawn at once, each with its place in the KV cache; the others wait until one ends. Affects memory and speed only (local_rollout_forward_batch_size).</summary>
    public int MaxSequences { get; init; } = BatchGenerator.DefaultMaxSequences;

    /// <summary>Tokens that a pass over prompts and responses holds at most, unless one is longer; 0 lets <see cref="TrainingOptions.MicroBatchSize"/> count sequences instead. Affects memory and speed only.</summary>
    public int TokensPerPass { get; init; }

    /// <summary>
    /// Does as TRL's padded arithmetic does where it differs from the definition: the score of a response that ended early is paid one slot after its last token, and the value there is
    /// trained; <c>policy/approxkl_avg</c> and <c>val/ratio</c> are averaged over the padding too.
    /// </summary>
    public bool TrlCompatible { get; init; }

    /// <summary>Ends the run when the divergence per response (objective/kl, nats) exceeds this, before that experience changes the weights; 0 for never. Not in TRL.</summary>
    public double MaxKl { get; init; }

    /// <summary>Ends the epochs of an update after one whose mean approximate divergence (policy/approxkl, nats per token) exceeds this; 0 for never. Not in TRL; target_kl elsewhere.</summary>
    public double EpochKlLimit { get; init; }

    /// <summary>Updates between samples of what the policy writes; 0 for none. TRL counts how often in a run instead (num_sample_generations).</summary>
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
        Require(ItemsPerStep % Math.Max(1, MiniBatches) == 0 && MiniBatches >= 1, nameof(MiniBatches), MiniBatches,
            $"a divisor of the {ItemsPerStep} prompts of an update (micro_batch_size {MicroBatchSize} times gradient_accumulation_steps {GradientAccumulation})");
        Require(ValueLearningRate is null or (>= 0 and < double.PositiveInfinity), nameof(ValueLearningRate), ValueLearningRate ?? 0, "0 or more");
        Require(ResponseLength >= 1, nameof(ResponseLength), ResponseLength, "at least 1");
        Require(Temperature is > 0 and < double.PositiveInfinity, nameof(Temperature), Temperature, "more than 0: a policy is trained on what it draws");
        Require(MissingEosPenalty >= 0, nameof(MissingEosPenalty), MissingEosPenalty, "0 or more: it is subtracted");
        Require(MissingEosPenalty == 0 || StopIds is not { Count: 0 }, nameof(MissingEosPenalty), MissingEosPenalty, "0 with an empty StopIds, since no response can end");
        Require(KlCoefficient >= 0, nameof(KlCoefficient), KlCoefficient, "0 or more");
        Require(AdaptiveKlTarget is null or > 0, nameof(AdaptiveKlTarget), AdaptiveKlTarget ?? 0, "more than 0");
        Require(AdaptiveKlHorizon > 0, nameof(AdaptiveKlHorizon), AdaptiveKlHorizon, "more than 0");
        Require(HorizonFits, nameof(AdaptiveKlHorizon), AdaptiveKlHorizon,
            $"more than {AdaptiveKl.LargestError} times the {ItemsPerStep} responses of an update (micro_batch_size {MicroBatchSize} times gradient_accumulation_steps {GradientAccumulation}), or one update could take the weight below zero");
        Require(ClipRange is > 0 and < 1, nameof(ClipRange), ClipRange, "between 0 and 1");
        Require(ClipRangeValue > 0, nameof(ClipRangeValue), ClipRangeValue, "more than 0");
        Require(ValueCoefficient > 0, nameof(ValueCoefficient), ValueCoefficient, "more than 0");
        Require(EntropyCoefficient >= 0, nameof(EntropyCoefficient), EntropyCoefficient, "0 or more");
        Require(Gamma is >= 0 and <= 1, nameof(Gamma), Gamma, "from 0 to 1");
        Require(Lambda is >= 0 and <= 1, nameof(Lambda), Lambda, "from 0 to 1");
        Require(PpoEpochs >= 1, nameof(PpoEpochs), PpoEpochs, "at least 1");
        Require(MaxSequences >= 1, nameof(MaxSequences), MaxSequences, "at least 1");
        Require(TokensPerPass >= 0, nameof(TokensPerPass), TokensPerPass, "0 or more");
        Require(MaxKl >= 0, nameof(MaxKl), MaxKl, "0 or more");
        Require(EpochKlLimit >= 0, nameof(EpochKlLimit), EpochKlLimit, "0 or more");
        Require(SampleEvery >= 0, nameof(SampleEvery), SampleEvery, "0 or more");
    }
}
