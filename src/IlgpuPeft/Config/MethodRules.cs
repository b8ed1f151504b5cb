using System.Globalization;
using IlgpuPeft.Losses;
using IlgpuPeft.Rewards;

namespace IlgpuPeft.Config;

/// <summary>What the keys of a method need and exclude, and defaults that follow from it.</summary>
static class MethodRules
{
    /// <summary>Adds problems to <paramref name="findings"/>, and returns the configuration that will run.</summary>
    public static RunConfig Apply(RunConfig config, string file, ConfigFindings findings)
    {
        config = Defaults(config, findings);
        CheckOptions(config, findings);
        if (config.RewardModel && config.Rl is not null)
        {
            findings.Problem(findings.Given["reward_model"], "reward_model", $"contradicts rl: {config.Rl}: a run trains one thing. Train the reward model first, in a run of its own, and list it under rewards.");
        }

        string method = UnreadKeys.Method(config);
        if (method.Length > 0 && config.Adapter is null)
        {
            Require("adapter", "which trains adapters over one frozen base. Set adapter: qlora");
        }

        if (method is not ("ppo" or "grpo"))
        {
            return config;
        }

        if (!findings.Given.TryGetValue("rewards", out var rewards))
        {
            Require("rewards", "which trains on what they say. List rules (- rule: length) and reward models (- model: DIR)");
        }

        for (int i = 0; i < config.Rewards.Count; i++)
        {
            CheckReward(config.Rewards[i], ((YamlList)rewards!).Items[i], $"rewards.{i}", findings);
        }

        return config;

        void Require(string key, string why) => findings.Problems.Add(new ConfigProblem(file, 0, key, $"the key is required by {UnreadKeys.Describe(config)}, {why}."));
    }

    static RunConfig Defaults(RunConfig config, ConfigFindings findings)
    {
        if (config.Rl != "orpo" && findings.Given.ContainsKey("orpo_alpha"))
        {
            config = config with { RlBeta = new RunConfig().RlBeta }; // the key of another method
        }

        // TRL's completions are as long as Axolotl's sequences.
        return config.Rl == "grpo" && !findings.Given.ContainsKey("sequence_len")
            ? config with { SequenceLen = (int)Math.Min(int.MaxValue, (long)config.SequenceLen + config.Trl.MaxCompletionLength) }
            : config;
    }

    // What the trainers' options refuse too, under their own names.
    static void CheckOptions(RunConfig config, ConfigFindings findings)
    {
        string? otherLoss = config.Rl == "ipo" ? "rl: ipo" : config.Rl == "dpo" && config.DpoLossType != "sigmoid" ? $"dpo_loss_type: {config.DpoLossType}" : null;
        if (otherLoss is not null && config.DpoLabelSmoothing > 0)
        {
            Problem("dpo_label_smoothing", $"expected 0 with {otherLoss}, got {Number(config.DpoLabelSmoothing)}: only the sigmoid loss of rl: dpo smooths labels. Remove it, or that loss.");
        }

        long prompts = (long)config.MicroBatchSize * config.GradientAccumulationSteps;
        if (config.Rl == "ppo" && prompts % config.Ppo.MiniBatches != 0)
        {
            Problem("ppo.num_mini_batches", $"expected a divisor of the {prompts} prompts of an update (micro_batch_size {config.MicroBatchSize} times gradient_accumulation_steps " +
                $"{config.GradientAccumulationSteps}), got {config.Ppo.MiniBatches}. Change one of the three.");
        }

        if (config.Rl == "ppo" && config.Ppo with { MicroBatchSize = config.MicroBatchSize, GradientAccumulation = config.GradientAccumulationSteps } is { HorizonFits: false })
        {
            Problem(findings.Given.ContainsKey("ppo.kl_horizon") ? "ppo.kl_horizon" : "ppo.kl_target", $"expected ppo.kl_horizon to be more than {Number(AdaptiveKl.LargestError)} times the {prompts} responses of " +
                $"an update (micro_batch_size times gradient_accumulation_steps), got {Number(config.Ppo.AdaptiveKlHorizon)}: one update could take kl_coef below zero. Raise it, or leave kl_target out.");
        }

        double highest = 1 + (config.Trl.EpsilonHigh ?? config.Trl.Epsilon);
        if (config.Rl == "grpo" && config.Trl.Delta <= highest)
        {
            Problem("trl.delta", $"expected more than {Number(highest)}, 1 and {(config.Trl.EpsilonHigh is null ? "epsilon" : "epsilon_high")}, where clipping does not reach, " +
                $"got {Number(config.Trl.Delta.Value)}. Raise it, or remove it.");
        }

        void Problem(string key, string message) => findings.Problem(findings.Given[key], key, message);
    }

    static string Number(double value) => value.ToString(CultureInfo.InvariantCulture);

    static void CheckReward(RewardConfig reward, YamlValue at, string key, ConfigFindings findings)
    {
        bool isRule = findings.Given.ContainsKey(key + ".rule");
        if (isRule == findings.Given.ContainsKey(key + ".model"))
        {
            findings.Problem(at, key, $"expected either rule or model, got {(isRule ? "both" : "neither")}. A rule is built in; a model is the folder of an adapter that reward_model: true trained.");
        }
        else if (!isRule && reward.Options.Keys.FirstOrDefault(option => option != RuleOptions.LabelName) is { } option)
        {
            findings.Problem(findings.Given[$"{key}.{option}"], $"{key}.{option}", "it is an option of rules. A reward model has weight and label.");
        }
        else if (reward.Rule is not null)
        {
            try
            {
                RewardRules.Create(reward.Rule, reward.Options);
            }
            catch (ArgumentException cause)
            {
                findings.Problem(at, key, cause.ParamName is null ? cause.Message : cause.Message.Replace($" (Parameter '{cause.ParamName}')", "", StringComparison.Ordinal));
            }
        }
    }
}
