using IlgpuPeft.Losses;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using G = IlgpuPeft.Config.Key<IlgpuPeft.Reinforcement.GrpoOptions>;
using P = IlgpuPeft.Config.Key<IlgpuPeft.Reinforcement.PpoOptions>;
using R = IlgpuPeft.Config.Key<IlgpuPeft.Config.RewardConfig>;

namespace IlgpuPeft.Config;

/// <summary>The groups of keys that belong to one method: <c>ppo</c>, under the names of TRL's PPOConfig, <c>trl</c>, Axolotl's group for GRPO, and <c>rewards</c>.</summary>
static class MethodKeys
{
    const double Any = double.MaxValue, AboveZero = double.Epsilon;

    public static readonly KeyTable<RewardConfig> Rewards = new(
    [
        R.Choice("rule", "It is a built-in reward.", [.. RewardRules.Names], c => c.Rule, (c, v) => c with { Rule = v }),
        R.Path("model", "It is the folder of a reward model's adapter.", c => c.Model, (c, v) => c with { Model = v }),
        R.Number("weight", "It multiplies the reward.", double.MinValue, Any, c => c.Weight, (c, v) => c with { Weight = v }),
        .. RewardRules.Names.SelectMany(RewardRules.Options).Distinct().Order(StringComparer.Ordinal)
            .Select(option => R.Text(option, option == RuleOptions.LabelName ? "It is the reward's name in metrics." : "It is an option of the rule.", c => c.Options.GetValueOrDefault(option), (c, v) => c.With(option, v))),
    ], AxolotlKeys.None, AxolotlKeys.None);

    public static readonly KeyTable<PpoOptions> Ppo = new(
    [
        P.Integer("response_length", "It is the most tokens of a response.", 1, c => c.ResponseLength, (c, v) => c with { ResponseLength = v }),
        P.Number("temperature", "It divides the logits.", AboveZero, Any, c => c.Temperature, (c, v) => c with { Temperature = v }),
        P.Number("missing_eos_penalty", "A response that does not end by itself loses it.", 0, Any, c => c.MissingEosPenalty, (c, v) => c with { MissingEosPenalty = v }),
        P.Number("kl_coef", "It weighs the divergence from the reference.", 0, Any, c => c.KlCoefficient, (c, v) => c with { KlCoefficient = v }),
        P.Choice("kl_estimator", "It estimates the divergence of a token.", [("k1", KlEstimator.K1), ("k3", KlEstimator.K3)], c => c.KlEstimator, (c, v) => c with { KlEstimator = v }),
        P.Number("kl_target", "kl_coef is steered to this divergence per response.", AboveZero, Any, c => c.AdaptiveKlTarget, (c, v) => c with { AdaptiveKlTarget = v }),
        P.Number("kl_horizon", "It counts the responses over which kl_coef would double.", AboveZero, Any, c => c.AdaptiveKlHorizon, (c, v) => c with { AdaptiveKlHorizon = v }),
        P.Number("max_kl", "The run ends above this divergence per response; 0 for never.", 0, Any, c => c.MaxKl, (c, v) => c with { MaxKl = v }),
        P.Number("epoch_kl_limit", "An update ends above this divergence per token; 0 for never.", 0, Any, c => c.EpochKlLimit, (c, v) => c with { EpochKlLimit = v }),
        P.Number("cliprange", "It limits how far a probability ratio moves.", AboveZero, 0.9999999, c => c.ClipRange, (c, v) => c with { ClipRange = v }),
        P.Number("cliprange_value", "It limits how far a value moves.", AboveZero, Any, c => c.ClipRangeValue, (c, v) => c with { ClipRangeValue = v }),
        P.Number("vf_coef", "It weighs the value loss.", AboveZero, Any, c => c.ValueCoefficient, (c, v) => c with { ValueCoefficient = v }),
        P.Number("value_learning_rate", "It replaces learning_rate for the value model.", AboveZero, 10, c => c.ValueLearningRate, (c, v) => c with { ValueLearningRate = v }),
        P.Number("entropy_coef", "It weighs a bonus for entropy.", 0, Any, c => c.EntropyCoefficient, (c, v) => c with { EntropyCoefficient = v }),
        P.Number("gamma", "It discounts later rewards.", 0, 1, c => c.Gamma, (c, v) => c with { Gamma = v }),
        P.Number("lam", "It is the decay of generalised advantage estimation.", 0, 1, c => c.Lambda, (c, v) => c with { Lambda = v }),
        P.Flag("whiten_rewards", "It scales the rewards of an update to variance 1.", c => c.WhitenRewards, (c, v) => c with { WhitenRewards = v }),
        P.Integer("num_ppo_epochs", "It counts passes over an update's experience.", 1, c => c.PpoEpochs, (c, v) => c with { PpoEpochs = v }),
        P.Integer("num_mini_batches", "It divides an update's experience.", 1, c => c.MiniBatches, (c, v) => c with { MiniBatches = v }),
        P.Integer("max_sequences", "It counts the responses that are drawn at once.", 1, c => c.MaxSequences, (c, v) => c with { MaxSequences = v }),
        P.Integer("tokens_per_pass", "It bounds the tokens of a pass; 0 has micro_batch_size count responses.", 0, c => c.TokensPerPass, (c, v) => c with { TokensPerPass = v }),
        P.Flag("trl_compatible", "It places scores where TRL does.", c => c.TrlCompatible, (c, v) => c with { TrlCompatible = v }),
        P.Integer("sample_every", "It counts updates between samples in samples.jsonl; 0 for none.", 0, c => c.SampleEvery, (c, v) => c with { SampleEvery = v }),
    ], AxolotlKeys.None, AxolotlKeys.None);

    public static readonly KeyTable<GrpoOptions> Grpo = new(
    [
        G.Integer("num_generations", "It counts the completions of a prompt.", 2, c => c.NumGenerations, (c, v) => c with { NumGenerations = v }),
        G.Integer("max_completion_length", "It is the most tokens of a completion.", 1, c => c.MaxCompletionLength, (c, v) => c with { MaxCompletionLength = v }),
        G.Number("temperature", "It divides the logits.", AboveZero, Any, c => c.Temperature, (c, v) => c with { Temperature = v }),
        G.Number("top_p", "It draws from the most likely tokens of that probability.", AboveZero, 1, c => c.TopP, (c, v) => c with { TopP = v }),
        G.Integer("top_k", "It draws from so many of the most likely tokens; 0 for all.", 0, c => c.TopK, (c, v) => c with { TopK = v }),
        G.Number("beta", "It weighs the divergence from the reference.", 0, Any, c => c.Beta, (c, v) => c with { Beta = v }),
        G.Integer("num_iterations", "It counts optimizer steps over the same completions.", 1, c => c.NumIterations, (c, v) => c with { NumIterations = v }),
        G.Number("epsilon", "It limits how far a probability ratio moves.", AboveZero, 0.9999999, c => c.Epsilon, (c, v) => c with { Epsilon = v }),
        G.Number("epsilon_high", "It limits how far a probability ratio rises.", AboveZero, Any, c => c.EpsilonHigh, (c, v) => c with { EpsilonHigh = v }),
        G.Number("delta", "It bounds ratios where an advantage is negative.", 1, Any, c => c.Delta, (c, v) => c with { Delta = v }),
        G.Choice("loss_type", "It says what a token counts for.",
            [("grpo", GroupReduction.Grpo), ("dapo", GroupReduction.Dapo), ("bnpo", GroupReduction.Bnpo), ("dr_grpo", GroupReduction.DrGrpo)], c => c.LossType, (c, v) => c with { LossType = v }),
        G.Choice("scale_rewards", "It says what differences between rewards are divided by.",
            [("group", ScaleRewards.Group), ("batch", ScaleRewards.Batch), ("none", ScaleRewards.None), ("true", ScaleRewards.Group), ("false", ScaleRewards.None)],
            c => c.ScaleRewards, (c, v) => c with { ScaleRewards = v }),
        G.Choice("importance_sampling_level", "It says over what ratios are taken.", [("token", ImportanceLevel.Token), ("sequence", ImportanceLevel.Sequence)],
            c => c.ImportanceLevel, (c, v) => c with { ImportanceLevel = v }),
        G.Flag("mask_truncated_completions", "It learns nothing from completions that were cut.", c => c.MaskTruncatedCompletions, (c, v) => c with { MaskTruncatedCompletions = v }),
        G.Number("entropy_coef", "It weighs a bonus for entropy.", 0, Any, c => c.EntropyCoefficient, (c, v) => c with { EntropyCoefficient = v }),
        G.Integer("max_sequences", "It counts the completions that are drawn at once.", 1, c => c.MaxSequences, (c, v) => c with { MaxSequences = v }),
        G.Integer("tokens_per_pass", "It bounds the tokens of a pass; 0 has micro_batch_size count completions.", 0, c => c.TokensPerPass, (c, v) => c with { TokensPerPass = v }),
        G.Integer("sample_every", "It counts steps between samples in samples.jsonl; 0 for none.", 0, c => c.SampleEvery, (c, v) => c with { SampleEvery = v }),
    ], AxolotlKeys.TrlIgnored, AxolotlKeys.TrlUnsupported);
}
