using System.Text.Json;
using System.Text.RegularExpressions;

namespace IlgpuPeft.Checkpoints;

/// <summary>Reads <c>adapter_config.json</c>: lenient towards keys that do not matter, strict towards methods that are not implemented.</summary>
static class PeftConfigReader
{
    /// <summary>Keys that switch on a method of PEFT that is not implemented here, and what it is called.</summary>
    static readonly Dictionary<string, string> Unsupported = new()
    {
        ["use_dora"] = "DoRA",
        ["lora_bias"] = "a bias on lora_B",
        ["modules_to_save"] = "whole modules trained beside the adapter",
        ["layer_replication"] = "layer replication",
        ["alora_invocation_tokens"] = "activated LoRA",
        ["trainable_token_indices"] = "trainable tokens",
        ["target_parameters"] = "LoRA on bare parameters",
        ["use_qalora"] = "QALoRA",
        ["use_bdlora"] = "block-diagonal LoRA",
        ["arrow_config"] = "Arrow routing",
        ["kasa_config"] = "KaSA",
        ["monteclora_config"] = "MonteCLoRA",
    };

    /// <summary>What PEFT saves whole with task_type SEQ_CLS, whichever of the two the model has.</summary>
    public static readonly string[] HeadModules = ["classifier", "score"];

    /// <summary>Initialisations that leave the base weights as they are, so that the adapter alone tells the result.</summary>
    static readonly string[] PlainInits = ["true", "false", "gaussian", "eva", "orthogonal"];

    /// <summary>Keys that are used below, or that say nothing about the result.</summary>
    static readonly HashSet<string> Known =
    [
        "peft_type", "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "bias",
        "use_rslora", "fan_in_fan_out", "init_lora_weights", "rank_pattern", "alpha_pattern", "base_model_name_or_path", "revision", "task_type",
        "auto_mapping", "inference_mode", "peft_version", "runtime_config", "megatron_config", "megatron_core", "loftq_config", "eva_config",
        "corda_config", "lora_ga_config", "velora_config", "qalora_group_size", "ensure_weight_tying",
    ];

    public static (PeftConfig Config, IReadOnlyList<string> Warnings) Read(string file)
    {
        var fields = new JsonFields(JsonFile.ReadObject(file), file);
        Refuse(fields, file);
        int rank = fields.Int("r", 8);
        double dropout = fields.Number("lora_dropout", 0);
        if (rank <= 0)
        {
            throw new CheckpointException(file, null, $"r is {rank}, expected a positive rank.");
        }

        if (dropout is < 0 or >= 1)
        {
            throw new CheckpointException(file, null, $"lora_dropout is {dropout}, expected a probability from 0 to below 1.");
        }

        var config = new PeftConfig
        {
            R = rank,
            LoraAlpha = fields.Number("lora_alpha", 8),
            TargetModules = Selection(fields, "target_modules"),
            ExcludeModules = Selection(fields, "exclude_modules"),
            LayersToTransform = fields.Ints("layers_to_transform"),
            LayersPattern = Selection(fields, "layers_pattern"),
            LoraDropout = dropout,
            UseRsLora = fields.Bool("use_rslora", false),
            FanInFanOut = fields.Bool("fan_in_fan_out", false),
            InitLoraWeights = Init(fields),
            RankPattern = Pattern(fields, file, "rank_pattern", value => double.IsInteger(value) && value is > 0 and <= int.MaxValue, "a positive rank"),
            AlphaPattern = Pattern(fields, file, "alpha_pattern", _ => true, "a number"),
            BaseModelNameOrPath = fields.String("base_model_name_or_path"),
            Revision = fields.String("revision"),
            TaskType = fields.Find("modules_to_save") is { } modules && IsHead(modules) ? PeftConfig.SequenceClassification : fields.String("task_type"),
        };
        string[] warnings =
        [
            .. fields.Names.Where(name => !Known.Contains(name) && !Unsupported.ContainsKey(name))
                .Select(name => $"{file}: key {name} is not known and was ignored. If it changes the adapter's maths, the result differs from PEFT's."),
        ];
        return (config, warnings);
    }

    static void Refuse(JsonFields fields, string file)
    {
        const string advice = "Merge the adapter into its base model with PEFT and start from the result.";
        string? type = fields.String("peft_type");
        if (type != "LORA")
        {
            throw new CheckpointException(file, null, $"peft_type is {type ?? "absent"}, expected LORA. {advice}");
        }

        string bias = fields.String("bias") ?? "none";
        if (bias != "none")
        {
            throw new CheckpointException(file, null, $"bias is {bias}, expected none: trained biases are not supported. {advice}");
        }

        foreach (var (key, method) in Unsupported)
        {
            if (fields.Find(key) is { } value && !IsOff(value) && !(key == "modules_to_save" && IsHead(value)))
            {
                throw new CheckpointException(file, null, $"{key} asks for {method}, which is not supported. {advice}");
            }
        }

        string init = Init(fields);
        if (!PlainInits.Contains(init))
        {
            throw new CheckpointException(file, null,
                $"init_lora_weights is {init}, which also changes the base weights when PEFT loads it. Save the adapter with path_initial_model_for_weight_conversion, or merge it with PEFT.");
        }
    }

    static bool IsHead(JsonElement modules) => modules.ValueKind == JsonValueKind.Array
        && modules.EnumerateArray().All(module => module.ValueKind == JsonValueKind.String && HeadModules.Contains(module.GetString()))
        && modules.EnumerateArray().Any(module => module.GetString() == "score");

    static bool IsOff(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.False => true,
        JsonValueKind.Array => value.GetArrayLength() == 0,
        JsonValueKind.Object => value.GetPropertyCount() == 0,
        _ => false,
    };

    static string Init(JsonFields fields) => fields.Find("init_lora_weights") is not { } value ? "true" : value.ValueKind switch
    {
        JsonValueKind.True => "true",
        JsonValueKind.False => "false",
        JsonValueKind.String => value.GetString()!,
        _ => throw fields.Wrong("init_lora_weights", value, "true, false or the name of a method"),
    };

    static ModuleSelection? Selection(JsonFields fields, string key) => fields.Find(key) is not { } value ? null
        : value.ValueKind == JsonValueKind.String ? new ModuleSelection(null, value.GetString()) : new ModuleSelection(fields.Strings(key));

    static Dictionary<string, double> Pattern(JsonFields fields, string file, string key, Predicate<double> valid, string expected)
    {
        var pattern = fields.Numbers(key);
        foreach (var (regex, value) in pattern)
        {
            if (!valid(value))
            {
                throw new CheckpointException(file, null, $"{key}.{regex} is {value}, expected {expected}.");
            }

            try
            {
                _ = new Regex(regex);
            }
            catch (ArgumentException e)
            {
                throw new CheckpointException(file, null, $"{key} has the key {regex}, which is not a regular expression. {e.Message}", e);
            }
        }

        return pattern;
    }
}
