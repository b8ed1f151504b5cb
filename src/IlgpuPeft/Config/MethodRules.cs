using IlgpuPeft.Losses;
using IlgpuPeft.Rewards;

namespace IlgpuPeft.Config;

/// <summary>What the keys of a method need and exclude.</summary>
static class MethodRules
{
    /// <summary>Adds problems to <paramref name="findings"/>.</summary>
    public static void Apply(RunConfig config, string file, ConfigFindings findings)
    {
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
            return;
        }

        if (!findings.Given.TryGetValue("rewards", out var rewards))
        {
            Require("rewards", "which trains on what they say. List rules (- rule: length) and reward models (- model: DIR)");
        }

        for (int i = 0; i < config.Rewards.Count; i++)
        {
            CheckReward(config.Rewards[i], ((YamlList)rewards!).Items[i], $"rewards.{i}", findings);
        }

        if (method == "ppo" && config.Ppo with { MicroBatchSize = config.MicroBatchSize, GradientAccumulation = config.GradientAccumulationSteps } is { HorizonFits: false } ppo)
        {
            findings.Problem(findings.Given.GetValueOrDefault("ppo.kl_horizon") ?? findings.Given["ppo.kl_target"], "ppo.kl_horizon",
                $"expected more than {AdaptiveKl.LargestError} times the {ppo.ItemsPerStep} responses of an update (micro_batch_size times gradient_accumulation_steps), got {ppo.AdaptiveKlHorizon}. " +
                "With fewer, one update could take kl_coef below zero.");
        }

        void Require(string key, string why) => findings.Problems.Add(new ConfigProblem(file, 0, key, $"the key is required by {UnreadKeys.Describe(config)}, {why}."));
    }

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
