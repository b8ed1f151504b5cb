using IlgpuPeft.Adapters;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Checkpoints;

/// <summary>PEFT adapter folders to and from <see cref="AdapterSet"/>s. A tensor too many or too few is an error: an adapter never loads in part.</summary>
public static class PretrainedAdapter
{
    /// <summary>Loads an adapter onto a model and enables it.</summary>
    /// <param name="model">The base model.</param>
    /// <param name="folder">Holds <c>adapter_config.json</c> and <c>adapter_model.safetensors</c>.</param>
    /// <param name="warnings">Receives what was read and ignored.</param>
    /// <param name="scalarHead">Whether it is to score texts, as a reward or value model, instead of continuing them.</param>
    /// <exception cref="CheckpointException">
    /// The adapter is for another model: a module is missing or has another shape, or the model has a target without tensors. Or it has a head where none is asked for, or none where one is.
    /// </exception>
    public static AdapterSet Load(CausalLm model, string folder, Action<string>? warnings = null, bool scalarHead = false)
    {
        var (adapter, notes) = PeftFiles.Read(folder);
        RequireKind(adapter, folder, scalarHead);
        foreach (string note in notes)
        {
            warnings?.Invoke(note);
        }

        string file = Path.Combine(folder, PeftFiles.WeightsName);
        var layers = model.Linears.ToDictionary(layer => layer.Name, StringComparer.Ordinal);
        foreach (var pair in adapter.Pairs)
        {
            if (!layers.TryGetValue(pair.Module, out var layer))
            {
                throw new CheckpointException(file, pair.Module, $"is adapted, but the model has no such layer: it has {model.Config.Layers} blocks of {model.Config.ModelType}. The adapter is for another model.");
            }

            if (layer.Inputs != pair.Inputs || layer.Outputs != pair.Outputs)
            {
                throw new CheckpointException(file, pair.Module, $"adapts a layer of shape [{pair.Outputs}, {pair.Inputs}], expected [{layer.Outputs}, {layer.Inputs}]. The adapter is for another model.");
            }
        }

        if (adapter.Head is { } weights && weights.Length != model.Config.Hidden)
        {
            throw new CheckpointException(file, AdapterSet.HeadName, $"has {weights.Length} weights, expected {model.Config.Hidden}. The adapter is for another model.");
        }

        var present = adapter.Pairs.Select(pair => pair.Module).ToHashSet(StringComparer.Ordinal);
        var config = ToLoraConfig(adapter.Config, present);
        var (targets, expected) = Select(model, config, adapter.Config, folder);
        if (present.FirstOrDefault(name => !expected.Contains(name)) is { } stranger)
        {
            throw new CheckpointException(file, stranger, "has tensors here, but target_modules does not name it. The two files of the adapter do not belong together.");
        }

        if (expected.Find(name => !present.Contains(name)) is { } absent)
        {
            throw new CheckpointException(file, absent, "is named by target_modules but has no tensors here, expected lora_A and lora_B. The file is incomplete, or the adapter is for another model.");
        }

        if (expected.Count < targets.Count)
        {
            // LoraConfig has no keys that take layers out, so what is left is named layer by layer.
            config = config with { Targets = expected, TargetPattern = null };
        }

        var set = new AdapterSet(model, config, adapter.Pairs.ToDictionary(pair => pair.Module, pair => (pair.Rank, adapter.Config.ScalingOf(pair.Module)), StringComparer.Ordinal), scalarHead);
        var pairs = adapter.Pairs.ToDictionary(pair => pair.Module, StringComparer.Ordinal);
        foreach (var (module, update) in set.Updates)
        {
            model.Backend.Write(pairs[module].A, update.A.Value);
            model.Backend.Write(pairs[module].B, update.B.Value);
        }

        WriteHead(set, adapter);
        return set;
    }

    /// <summary>Refuses an adapter that scores texts where one that continues them is needed, and the reverse.</summary>
    /// <exception cref="CheckpointException">It is of the other kind.</exception>
    internal static void RequireKind(PeftAdapter adapter, string folder, bool scalarHead)
    {
        if (adapter.Head is null == scalarHead)
        {
            throw new CheckpointException(Path.Combine(folder, PeftFiles.ConfigName), null, scalarHead
                ? $"has task_type {adapter.Config.TaskType ?? "null"}, expected {PeftConfig.SequenceClassification}: the adapter of a language model has no head that scores texts. Give the folder of a reward model."
                : $"has task_type {PeftConfig.SequenceClassification}: the adapter of a reward model scores texts and cannot continue them, expected one of a language model. Use it with score --reward, or give another folder.");
        }
    }

    /// <summary>Reads values that <see cref="Save"/> wrote into an adapter of the same layers and ranks.</summary>
    /// <exception cref="CheckpointException">The folder holds another adapter.</exception>
    public static void Restore(AdapterSet set, string folder)
    {
        var adapter = PeftFiles.Read(folder).Adapter;
        RequireKind(adapter, folder, set.Head is not null);
        var pairs = adapter.Pairs.ToDictionary(pair => pair.Module, StringComparer.Ordinal);
        var updates = set.Updates.ToList();
        foreach (var (module, update) in updates)
        {
            if (pairs.Count != updates.Count || !pairs.TryGetValue(module, out var pair) || pair.Rank != update.A.Rows)
            {
                throw new CheckpointException(Path.Combine(folder, PeftFiles.WeightsName), module, $"does not match the adapter that is trained: {pairs.Count} layers, expected {updates.Count} with rank {update.A.Rows}. " +
                    "The configuration has changed since the checkpoint was written.");
            }

            set.Model.Backend.Write(pair.A, update.A.Value);
            set.Model.Backend.Write(pair.B, update.B.Value);
        }

        WriteHead(set, adapter);
    }

    /// <summary>Writes an adapter that PEFT reads. Each file is replaced whole, the weights first; see <see cref="PeftFiles.Write"/> for what that means over an earlier adapter.</summary>
    /// <param name="set">The adapter.</param>
    /// <param name="folder">Created if absent.</param>
    /// <param name="baseModel">What <c>base_model_name_or_path</c> will say.</param>
    public static void Save(AdapterSet set, string folder, string baseModel)
    {
        var backend = set.Model.Backend;
        var modules = set.Updates.Select(x => x.Module).ToList();
        List<LoraPair> pairs = [.. set.Updates.Select(x =>
            new LoraPair(x.Module, x.Update.A.Rows, x.Update.A.Columns, x.Update.B.Rows, backend.ReadFloats(x.Update.A.Value), backend.ReadFloats(x.Update.B.Value)))];
        var config = set.Config;
        PeftFiles.Write(folder, new PeftAdapter(new PeftConfig
        {
            R = config.Rank,
            LoraAlpha = config.Alpha,
            LoraDropout = config.Dropout,
            UseRsLora = config.RankStabilised,
            RankPattern = Exceptions(set, update => update.A.Rows, config.Rank),
            AlphaPattern = Exceptions(set, update => update.Scale * (config.RankStabilised ? Math.Sqrt(update.A.Rows) : update.A.Rows), config.Alpha),
            TargetModules = config.TargetPattern is { } pattern ? new ModuleSelection(null, pattern) : new ModuleSelection(TargetNames(set.Model, config, modules)),
            BaseModelNameOrPath = baseModel,
            TaskType = set.Head is null ? new PeftConfig().TaskType : PeftConfig.SequenceClassification,
        }, pairs, set.Head is { } head ? backend.ReadFloats(head.Value) : null));
    }

    static void WriteHead(AdapterSet set, PeftAdapter adapter)
    {
        if (set.Head is { } head)
        {
            set.Model.Backend.Write(adapter.Head!, head.Value);
        }
    }

    static LoraConfig ToLoraConfig(PeftConfig config, IEnumerable<string> present) => new()
    {
        Rank = config.R,
        Alpha = config.LoraAlpha,
        Dropout = config.LoraDropout,
        RankStabilised = config.UseRsLora,
        Targets = config.TargetModules switch
        {
            { Names: { } names } => names,
            { Pattern: LoraConfig.AllLinear } => [LoraConfig.AllLinear],
            _ => [.. present], // PEFT's own choice by architecture, or a pattern
        },
        TargetPattern = config.TargetModules is { Pattern: { } pattern and not LoraConfig.AllLinear } ? pattern : null,
    };

    // The layers that target_modules names, and those of them that no other key takes out again.
    static (List<string> Targets, List<string> Expected) Select(CausalLm model, LoraConfig config, PeftConfig file, string folder)
    {
        try
        {
            List<string> targets = [.. model.Linears.Select(layer => layer.Name).Where(config.Matches)];
            return (targets, [.. targets.Where(name => !IsExempt(file, name))]);
        }
        catch (ArgumentException e)
        {
            throw new CheckpointException(Path.Combine(folder, PeftFiles.ConfigName), null, $"target_modules or exclude_modules cannot be applied. {e.Message}", e);
        }
    }

    static bool IsExempt(PeftConfig config, string module)
    {
        if (config.ExcludeModules is { } exclude && new LoraConfig { Targets = exclude.Names ?? [], TargetPattern = exclude.Pattern }.Matches(module))
        {
            return true;
        }

        return config.LayersToTransform is { } layers && !layers.Any(layer => module.Contains($".{layer}."));
    }

    // What differs from the adapter's general rank or alpha, keyed by the module's path without its first part: PEFT before 0.14 wants a part before the pattern.
    static Dictionary<string, double> Exceptions(AdapterSet set, Func<LowRankUpdate, double> value, double general) =>
        set.Updates.Where(x => Math.Abs(value(x.Update) - general) > 1e-9)
            .ToDictionary(x => x.Module[(x.Module.IndexOf('.', StringComparison.Ordinal) + 1)..].Replace(".", "\\.", StringComparison.Ordinal), x => value(x.Update));

    // Other tools read a list of names; all-linear is theirs to expand, so it is written expanded.
    static List<string> TargetNames(CausalLm model, LoraConfig config, List<string> modules) =>
        config.Targets.Any(target => target.Equals(LoraConfig.AllLinear, StringComparison.OrdinalIgnoreCase))
            ? [.. model.Linears.Where(layer => modules.Contains(layer.Name)).Select(layer => layer.Name[(layer.Name.LastIndexOf('.') + 1)..]).Distinct().Order()]
            : [.. config.Targets];
}
