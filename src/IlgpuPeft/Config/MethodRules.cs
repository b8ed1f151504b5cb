namespace IlgpuPeft.Config;

/// <summary>What the keys of a method need and exclude.</summary>
static class MethodRules
{
    // Keys that only some methods read. The empty name stands for supervised training, "reward" for reward models.
    static readonly (string Key, string[] Methods)[] Readers =
    [
        ("center_rewards_coefficient", ["reward"]),
        ("reference_model_dir", ["dpo", "ipo", "kto", "grpo", "ppo"]),
        ("rl_beta", ["dpo", "ipo", "orpo", "kto"]),
        ("orpo_alpha", ["orpo"]),
        ("dpo_loss_type", ["dpo"]),
        ("dpo_label_smoothing", ["dpo"]),
        ("dpo_reference_free", ["dpo", "ipo"]),
        ("kto_desirable_weight", ["kto"]),
        ("kto_undesirable_weight", ["kto"]),
        ("rewards", ["ppo", "grpo"]),
        ("ppo", ["ppo"]),
        ("trl", ["grpo"]),
        ("train_on_inputs", [""]),
        ("sample_packing", [""]),
        ("val_set_size", ["", "reward", "dpo", "ipo", "orpo", "kto", "grpo"]),
        ("test_datasets", ["", "reward", "dpo", "ipo", "orpo", "kto", "grpo"]),
    ];

    /// <summary>Adds problems and notes to <paramref name="findings"/>.</summary>
    public static void Apply(RunConfig config, string file, ConfigFindings findings)
    {
        if (config.RewardModel && config.Rl is not null)
        {
            findings.Problem(findings.Given["reward_model"], "reward_model", $"contradicts rl: {config.Rl}: a run trains one thing. Train the reward model first, in a run of its own, and list it under rewards.");
        }

        string method = config.Rl ?? (config.RewardModel ? "reward" : "");
        foreach (var (key, _) in Readers.Where(reader => findings.Given.ContainsKey(reader.Key) && !reader.Methods.Contains(method)))
        {
            findings.Notes.Add($"{key} is ignored: {Describe(config)} does not read it.");
        }

        if (method.Length > 0 && config.Adapter is null)
        {
            findings.Problems.Add(new ConfigProblem(file, 0, "adapter", $"the key is required by {Describe(config)}, which trains adapters over one frozen base. Set adapter: qlora."));
        }

        if (method is "ppo" or "grpo")
        {
            Rewards(config, file, findings);
        }
    }

    static void Rewards(RunConfig config, string file, ConfigFindings findings)
    {
        if (config.Rewards.Count == 0)
        {
            findings.Problems.Add(new ConfigProblem(file, 0, "rewards", $"the key is required by rl: {config.Rl}. List rules (- rule: length) and reward models (- model: DIR)."));
        }

        for (int i = 0; i < config.Rewards.Count; i++)
        {
            if ((config.Rewards[i].Rule is null) == (config.Rewards[i].Model is null))
            {
                findings.Problem(findings.Given["rewards"], $"rewards.{i}", "expected either rule or model. A rule is built in; a model is the folder of an adapter that reward_model: true trained.");
            }
        }
    }

    static string Describe(RunConfig config) => config.Rl is { } method ? $"rl: {method}" : config.RewardModel ? "reward_model: true" : "supervised training";
}
