using IlgpuPeft.Checkpoints;

namespace IlgpuPeft.Config;

/// <summary>What no key can tell by itself: required keys, keys that contradict each other, and defaults that follow from other keys.</summary>
static class ConfigRules
{
    /// <summary>Adds problems and notes to <paramref name="findings"/>, and returns the configuration that will run.</summary>
    public static RunConfig Apply(RunConfig config, string file, ConfigFindings findings)
    {
        Require("base_model", "Name the folder of the model.");
        Require("datasets", "Name at least one data file.");
        Require("learning_rate", "LoRA usually takes 1e-4 to 2e-4.");
        RequireInDatasets("datasets", config.Datasets.Count);
        RequireInDatasets("test_datasets", config.TestDatasets.Count);

        foreach (var key in RunKeys.Table.Honoured.Where(key => findings.Given.ContainsKey(key.Name)))
        {
            if (UnreadKeys.Reason(config, key.Name) is { } reason)
            {
                findings.Notes.Add($"{key.Name} is ignored: {reason}.");
            }
        }

        config = Quantization(config, findings);
        Output(config, findings);
        Adapter(config, findings);
        Exclude("orpo_alpha", "rl_beta", "both are the weight of the odds ratio", findings);
        config = MethodRules.Apply(config, file, findings);
        Data(config, findings);
        Schedule(config, findings);
        return Optimizer(config, findings);

        void Require(string key, string advice)
        {
            if (!findings.Given.ContainsKey(key))
            {
                findings.Problems.Add(new ConfigProblem(file, 0, key, $"the key is required and absent. {advice}"));
            }
        }

        void RequireInDatasets(string list, int count)
        {
            for (int i = 0; i < count; i++)
            {
                foreach (string key in new[] { $"{list}.{i}.path", $"{list}.{i}.type" })
                {
                    if (!findings.Given.ContainsKey(key))
                    {
                        findings.Problem(findings.Given[list] is YamlList items ? items.Items[i] : findings.Given[list], key, "the key is required and absent. Every dataset has a path and a type.");
                    }
                }
            }
        }
    }

    static RunConfig Quantization(RunConfig config, ConfigFindings findings)
    {
        bool given = findings.Given.TryGetValue("load_in_4bit", out var at);
        if (config.Adapter == "qlora" && !given)
        {
            return config with { LoadIn4Bit = true };
        }

        if (given && config.Adapter == "qlora" && !config.LoadIn4Bit)
        {
            findings.Problem(at!, "load_in_4bit", "false contradicts adapter: qlora, which trains over 4-bit weights. Remove it, or set adapter: lora.");
        }
        else if (given && config.LoadIn4Bit && config.Adapter != "qlora")
        {
            findings.Problem(at!, "load_in_4bit", config.Adapter is null
                ? "4-bit weights are frozen, and a blank adapter trains every weight. Set adapter: qlora."
                : "true contradicts adapter: lora, which keeps weights as they are. Set adapter: qlora.");
        }

        return config;
    }

    // What a run reads must outlast it. The adapter of lora_model_dir may be replaced by its own continuation.
    static void Output(RunConfig config, ConfigFindings findings)
    {
        Exclude("base_model", config.BaseModel, config.Adapter is null ? "the trained model would replace it" : "adapter, log and checkpoints would lie among the model's files");
        if (UnreadKeys.Reason(config, "reference_model_dir") is null)
        {
            Exclude("reference_model_dir", config.ReferenceModelDir, "the trained adapter would replace it");
        }

        for (int i = 0; i < config.Rewards.Count && UnreadKeys.Reason(config, "rewards") is null; i++)
        {
            Exclude($"rewards.{i}.model", config.Rewards[i].Model, "the trained adapter would replace it");
        }

        void Exclude(string key, string? folder, string consequence)
        {
            if (!string.IsNullOrEmpty(folder) && findings.Given.TryGetValue(key, out var at) && FolderPath.AreSame(folder, config.OutputDir))
            {
                findings.Problem(at, key, $"it is also output_dir, where {consequence}. Choose another output_dir.");
            }
        }
    }

    static void Adapter(RunConfig config, ConfigFindings findings)
    {
        if (config.Adapter is null)
        {
            return;
        }

        if (config.LoraModelDir is null && config.LoraTargetLinear && config.LoraTargetModules.Count > 0)
        {
            findings.Notes.Add("lora_target_modules adds nothing: lora_target_linear adapts every linear layer.");
        }

        if (!config.LoraTargetLinear && config.LoraTargetModules.Count == 0 && config.LoraModelDir is null && findings.Given.TryGetValue("adapter", out var at)
            && !findings.Given.ContainsKey("lora_target_modules"))
        {
            findings.Problem(at, "adapter", $"{config.Adapter} needs layers to adapt. Set lora_target_linear: true, or list them in lora_target_modules.");
        }
    }

    static void Data(RunConfig config, ConfigFindings findings)
    {
        if (config.ValSetSize >= 1 && config.ValSetSize != Math.Floor(config.ValSetSize))
        {
            findings.Problem(findings.Given["val_set_size"], "val_set_size", $"expected a fraction below 1 or a whole number, got {config.ValSetSize}. Write 0.05 for 5 %.");
        }

        if (config.ValSetSize > 0)
        {
            Exclude("test_datasets", "val_set_size", "both say what to validate on", findings);
        }

        if (config.ValSetSize == 0 && config.TestDatasets.Count == 0 && UnreadKeys.Reason(config, "eval_steps") is null && findings.Given.TryGetValue("eval_steps", out var at))
        {
            findings.Problem(at, "eval_steps", "there is nothing to validate on. Set val_set_size, or name files in test_datasets.");
        }
    }

    static void Schedule(RunConfig config, ConfigFindings findings)
    {
        Exclude("warmup_steps", "warmup_ratio", "both say how long warm-up takes", findings);
        Exclude("save_steps", "saves_per_epoch", "both say when to save", findings);
        Exclude("eval_steps", "evals_per_epoch", "both say when to validate", findings);
        if (config.LrScheduler == "constant" && (config.WarmupSteps ?? config.WarmupRatio) > 0)
        {
            findings.Notes.Add("warm-up is ignored: lr_scheduler is constant; constant_with_warmup has one.");
        }
    }

    static RunConfig Optimizer(RunConfig config, ConfigFindings findings)
    {
        string runs = config.Optimizer.EndsWith("8bit", StringComparison.Ordinal) ? RunConfig.AdamW8Bit : RunConfig.AdamW;
        if (config.Optimizer.StartsWith("paged_", StringComparison.Ordinal))
        {
            findings.Notes.Add($"optimizer: {config.Optimizer} runs as {runs}: the optimizer's state stays on the device.");
        }

        return config with { Optimizer = runs };
    }

    static void Exclude(string key, string other, string reason, ConfigFindings findings)
    {
        if (findings.Given.TryGetValue(key, out var at) && findings.Given.ContainsKey(other))
        {
            findings.Problem(at, key, $"contradicts {other}: {reason}. Remove one.");
        }
    }
}
