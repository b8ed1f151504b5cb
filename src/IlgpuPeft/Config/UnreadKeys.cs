namespace IlgpuPeft.Config;

/// <summary>Keys at the top that a run does not read, because of its method or of other keys. A given one gives a note, and a written configuration leaves it out.</summary>
static class UnreadKeys
{
    static readonly string[] Validated = ["", "reward", "dpo", "ipo", "orpo", "kto", "grpo"];

    // Keys that only some methods read. The empty name stands for supervised training, "reward" for reward models.
    static readonly Dictionary<string, string[]> Readers = new()
    {
        ["center_rewards_coefficient"] = ["reward"],
        ["reference_model_dir"] = ["dpo", "ipo", "kto", "grpo", "ppo"],
        ["rl_beta"] = ["dpo", "ipo", "orpo", "kto"],
        ["orpo_alpha"] = ["orpo"],
        ["dpo_loss_type"] = ["dpo"],
        ["dpo_label_smoothing"] = ["dpo"],
        ["dpo_reference_free"] = ["dpo", "ipo"],
        ["kto_desirable_weight"] = ["kto"],
        ["kto_undesirable_weight"] = ["kto"],
        ["rewards"] = ["ppo", "grpo"],
        ["ppo"] = ["ppo"],
        ["trl"] = ["grpo"],
        ["train_on_inputs"] = [""],
        ["sample_packing"] = [""],
        ["val_set_size"] = Validated,
        ["test_datasets"] = Validated,
        ["eval_steps"] = Validated,
        ["evals_per_epoch"] = Validated,
    };

    static readonly string[] Lora = ["lora_r", "lora_alpha", "lora_dropout", "lora_target_linear", "lora_target_modules", "lora_model_dir", "peft_use_rslora"];

    /// <summary>Why the run does not read a key, or null where it does.</summary>
    public static string? Reason(RunConfig config, string key) => key switch
    {
        _ when Readers.TryGetValue(key, out string[]? methods) && !methods.Contains(Method(config)) => $"{Describe(config)} does not read it",
        _ when Lora.Contains(key) && config.Adapter is null => "adapter is blank, so every weight is trained",
        not "lora_model_dir" when Lora.Contains(key) && config.LoraModelDir is not null => "the adapter in lora_model_dir has its own rank, scale, dropout and layers",
        "reference_model_dir" when config.DpoReferenceFree && config.Rl is "dpo" or "ipo" => "dpo_reference_free leaves the reference out",
        "reference_model_dir" when config.Rl is "grpo" && config.Trl.Beta == 0 => "beta in trl is 0, which leaves the reference out",
        "evals_per_epoch" when config.EvalsPerEpoch > 0 && config.ValSetSize == 0 && config.TestDatasets.Count == 0 => "there is nothing to validate on, since val_set_size is 0",
        "cosine_min_lr_ratio" when config.LrScheduler != "cosine" => $"lr_scheduler is {config.LrScheduler}",
        "loss_watchdog_patience" when config.LossWatchdogThreshold is null => "there is no loss_watchdog_threshold",
        _ => null,
    };

    /// <summary>The method's name; empty for supervised training, "reward" for reward models.</summary>
    public static string Method(RunConfig config) => config.Rl ?? (config.RewardModel ? "reward" : "");

    /// <summary>The method as its key and value.</summary>
    public static string Describe(RunConfig config) => config.Rl is { } method ? $"rl: {method}" : config.RewardModel ? "reward_model: true" : "supervised training";
}
