using System.Text.Json.Nodes;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Checkpoints;

/// <summary>
/// Reads and writes adapter folders of the Python library PEFT: <c>adapter_config.json</c> and <c>adapter_model.safetensors</c>,
/// whose keys are <c>base_model.model.</c> + module path + <c>.lora_A.weight</c> [r, in] or <c>.lora_B.weight</c> [out, r], and <c>base_model.model.score.weight</c> [1, D] for the head of
/// a reward model (task_type SEQ_CLS).
/// </summary>
public static class PeftFiles
{
    /// <summary>Name of the configuration file in an adapter folder.</summary>
    public const string ConfigName = "adapter_config.json";

    /// <summary>Name of the weight file in an adapter folder.</summary>
    public const string WeightsName = "adapter_model.safetensors";

    const string Prefix = "base_model.model.", SuffixA = ".lora_A.weight", SuffixB = ".lora_B.weight", HeadKey = Prefix + "score.weight";

    /// <summary>Reads an adapter folder. What changes the result and is not supported is refused; other keys that are not known become warnings.</summary>
    /// <exception cref="CheckpointException">A file is missing or damaged, a method is not supported, or the tensors do not fit the configuration.</exception>
    public static (PeftAdapter Adapter, IReadOnlyList<string> Warnings) Read(string folder)
    {
        string configFile = Path.Combine(folder, ConfigName), weightsFile = Path.Combine(folder, WeightsName);
        var (config, warnings) = PeftConfigReader.Read(configFile);
        if (!File.Exists(weightsFile) && File.Exists(Path.Combine(folder, "adapter_model.bin")))
        {
            throw new CheckpointException(folder, null,
                $"has adapter_model.bin, expected {WeightsName}. A .bin file can run code when opened; load the adapter in PEFT and save it with safe_serialization=True.");
        }

        using var file = Safetensors.Open(weightsFile);
        var modules = new SortedSet<string>(StringComparer.Ordinal);
        foreach (var info in file.Tensors.Where(info => info.Name != HeadKey))
        {
            modules.Add(ModuleOf(info, weightsFile));
        }

        if (modules.Count == 0)
        {
            throw new CheckpointException(weightsFile, null, "has no LoRA tensors, expected at least one pair of lora_A and lora_B.");
        }

        return (new PeftAdapter(config, [.. modules.Select(module => ReadPair(file, config, module))], ReadHead(file, config)), warnings);
    }

    /// <summary>
    /// Writes an adapter folder that PEFT 0.4 and later load. Each file is replaced atomically, the weights first: a new folder has no <c>adapter_config.json</c> until it is
    /// complete. Over an earlier adapter, new weights lie beside the old configuration for a moment; if the process ends there and rank or layers differ, readers refuse
    /// the folder. Write to a new folder and rename it where that matters.
    /// </summary>
    /// <exception cref="ArgumentException">The target modules are missing, or the size of a matrix does not fit its rank.</exception>
    /// <exception cref="IOException">The file system refused; see <see cref="AtomicFile.Write"/>.</exception>
    public static void Write(string folder, PeftAdapter adapter)
    {
        var tensors = new List<TensorSource>();
        foreach (var pair in adapter.Pairs.OrderBy(pair => pair.Module, StringComparer.Ordinal))
        {
            int rank = adapter.Config.RankOf(pair.Module);
            if (pair.Rank != rank || pair.A.Length != (long)rank * pair.Inputs || pair.B.Length != (long)pair.Outputs * rank)
            {
                throw new ArgumentException(
                    $"PeftFiles.Write: {pair.Module} has rank {pair.Rank} and {pair.A.Length} and {pair.B.Length} elements, expected A [{rank}, {pair.Inputs}] and B [{pair.Outputs}, {rank}].",
                    nameof(adapter));
            }

            tensors.Add(TensorSource.OfFloats(new TensorInfo(Prefix + pair.Module + SuffixA, DType.F32, rank, pair.Inputs), () => pair.A));
            tensors.Add(TensorSource.OfFloats(new TensorInfo(Prefix + pair.Module + SuffixB, DType.F32, pair.Outputs, rank), () => pair.B));
        }

        if (adapter.Config.HasHead != adapter.Head is not null)
        {
            throw new ArgumentException($"PeftFiles.Write: task_type is {adapter.Config.TaskType} and there is {(adapter.Head is null ? "no" : "a")} head, expected a head with {PeftConfig.SequenceClassification} and with nothing else.", nameof(adapter));
        }

        if (adapter.Head is { } head)
        {
            tensors.Add(TensorSource.OfFloats(new TensorInfo(HeadKey, DType.F32, 1, head.Length), () => head));
        }

        string config = JsonFile.ToText(ToJson(adapter.Config));
        SafetensorsWriter.Write(Path.Combine(folder, WeightsName), tensors);
        AtomicFile.WriteText(Path.Combine(folder, ConfigName), config);
    }

    static string ModuleOf(TensorInfo info, string file)
    {
        foreach (string suffix in (ReadOnlySpan<string>)[SuffixA, SuffixB])
        {
            if (info.Name.Length > Prefix.Length + suffix.Length
                && info.Name.StartsWith(Prefix, StringComparison.Ordinal) && info.Name.EndsWith(suffix, StringComparison.Ordinal))
            {
                return info.Name[Prefix.Length..^suffix.Length];
            }
        }

        string found = info.Name switch
        {
            _ when info.Name.Contains("lora_magnitude_vector", StringComparison.Ordinal) => "belongs to DoRA",
            _ when info.Name.Contains("lora_embedding_", StringComparison.Ordinal) => "adapts an embedding",
            _ when info.Name.EndsWith(".lora_B.bias", StringComparison.Ordinal) => "is a bias of lora_B",
            _ when info.Name.Contains(".lora_", StringComparison.Ordinal) => $"does not have the form {Prefix}*{SuffixA}",
            _ => "is a whole weight that was trained or resized beside the adapter",
        };
        throw new CheckpointException(file, info.Name, $"{found}, which is not supported. Merge the adapter into its base model with PEFT and start from the result.");
    }

    // A head that is not there would quietly be a random one in most tools: all scores would be noise.
    static float[]? ReadHead(Safetensors file, PeftConfig config)
    {
        var info = file.Find(HeadKey);
        if (info is null)
        {
            return !config.HasHead ? null : throw new CheckpointException(file.Path, HeadKey,
                $"is missing, expected the head [1, D] of an adapter with task_type {PeftConfig.SequenceClassification}: without it every score would be noise. " +
                "Save the adapter again with modules_to_save: [\"score\"], or train it again.");
        }

        if (!config.HasHead)
        {
            throw new CheckpointException(file.Path, HeadKey, $"is a head that scores texts, but {ConfigName} has task_type {config.TaskType ?? "null"}, expected {PeftConfig.SequenceClassification}. The two files do not belong together.");
        }

        return info.Shape is [1, > 0 and <= int.MaxValue]
            ? Floats(file, info)
            : throw new CheckpointException(file.Path, HeadKey, $"has shape {info.ShapeText}, expected [1, D]: one score. A classifier of several labels is not a reward model.");
    }

    static LoraPair ReadPair(Safetensors file, PeftConfig config, string module)
    {
        var a = Half(file, module, SuffixA, SuffixB);
        var b = Half(file, module, SuffixB, SuffixA);
        int rank;
        try
        {
            rank = config.RankOf(module);
            _ = config.ScalingOf(module); // tries alpha_pattern too, so that whoever uses the adapter need not expect it to fail
        }
        catch (ArgumentException e)
        {
            throw new CheckpointException(file.Path, a.Name, $"rank_pattern or alpha_pattern cannot be applied. {e.Message}", e);
        }

        if (a.Shape is not [var rankA, > 0 and <= int.MaxValue] || b.Shape is not [> 0 and <= int.MaxValue, var rankB] || rankA != rank || rankB != rank)
        {
            throw new CheckpointException(file.Path, Prefix + module,
                $"has A {a.ShapeText} and B {b.ShapeText}, expected [{rank}, in] and [out, {rank}] for the rank that {ConfigName} gives it.");
        }

        return new LoraPair(module, rank, (int)a.Shape[1], (int)b.Shape[0], Floats(file, a), Floats(file, b));
    }

    static TensorInfo Half(Safetensors file, string module, string suffix, string other) =>
        file.Find(Prefix + module + suffix)
        ?? throw new CheckpointException(file.Path, Prefix + module + suffix, $"is missing beside {other[1..]}, expected both. The adapter is incomplete; fetch it again.");

    static float[] Floats(Safetensors file, TensorInfo info)
    {
        if (info.Count > Array.MaxLength)
        {
            throw new CheckpointException(file.Path, info.Name, $"has shape {info.ShapeText}, expected fewer than 2^31 elements.");
        }

        var values = new float[info.Count];
        file.Read(info.Name, values);
        return values;
    }

    /// <summary>
    /// The fewest keys with which every PEFT since 0.4 computes the same: older versions refuse keys they do not know,
    /// so what later versions added is written only where it is used.
    /// </summary>
    static JsonObject ToJson(PeftConfig config)
    {
        var keys = new SortedDictionary<string, JsonNode?>(StringComparer.Ordinal)
        {
            ["base_model_name_or_path"] = config.BaseModelNameOrPath,
            ["bias"] = "none",
            ["fan_in_fan_out"] = config.FanInFanOut,
            ["inference_mode"] = true,
            ["init_lora_weights"] = bool.TryParse(config.InitLoraWeights, out bool init) ? init : config.InitLoraWeights,
            ["lora_alpha"] = Number(config.LoraAlpha),
            ["lora_dropout"] = config.LoraDropout,
            ["modules_to_save"] = config.HasHead ? new JsonArray([.. PeftConfigReader.HeadModules.Select(name => JsonValue.Create(name))]) : null,
            ["peft_type"] = "LORA",
            ["r"] = config.R,
            ["revision"] = config.Revision,
            ["target_modules"] = Selection(config.TargetModules
                ?? throw new ArgumentException("PeftFiles.Write: target_modules is absent, expected the names of the adapted modules.", nameof(config))),
            ["task_type"] = config.TaskType,
        };
        if (config.UseRsLora)
        {
            keys["use_rslora"] = true;
        }

        if (config.RankPattern.Count > 0)
        {
            keys["rank_pattern"] = Pattern(config.RankPattern);
        }

        if (config.AlphaPattern.Count > 0)
        {
            keys["alpha_pattern"] = Pattern(config.AlphaPattern);
        }

        if (config.ExcludeModules is { } exclude)
        {
            keys["exclude_modules"] = Selection(exclude);
        }

        if (config.LayersToTransform is { } layers)
        {
            keys["layers_to_transform"] = new JsonArray([.. layers.Select(layer => JsonValue.Create(layer))]);
        }

        if (config.LayersPattern is { } layersPattern)
        {
            keys["layers_pattern"] = Selection(layersPattern);
        }

        return new JsonObject(keys);
    }

    static JsonNode Selection(ModuleSelection selection) => selection.Names is { } names
        ? new JsonArray([.. names.Order(StringComparer.Ordinal).Select(name => JsonValue.Create(name))])
        : JsonValue.Create(selection.Pattern!);

    static JsonObject Pattern(IReadOnlyDictionary<string, double> pattern) =>
        new(pattern.OrderBy(pair => pair.Key, StringComparer.Ordinal).Select(pair => KeyValuePair.Create<string, JsonNode?>(pair.Key, Number(pair.Value))));

    /// <summary>Whole numbers without a decimal point: PEFT declares ranks and alphas as integers.</summary>
    static JsonNode Number(double value) => double.IsInteger(value) && Math.Abs(value) < int.MaxValue ? JsonValue.Create((int)value) : JsonValue.Create(value);
}
