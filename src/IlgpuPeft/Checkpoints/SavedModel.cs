using System.Text.Json;
using System.Text.Json.Nodes;
using IlgpuPeft.Adapters;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Checkpoints;

/// <summary>Writes Hugging Face model folders: trained, merged, and quantised ones.</summary>
public static class SavedModel
{
    const string WeightsName = "model.safetensors";

    static readonly string[] Companions =
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "generation_config.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja"];

    /// <summary>Writes a model's own dense weights.</summary>
    /// <param name="model">The model; its linear layers must not be NF4.</param>
    /// <param name="folder">Created if absent.</param>
    /// <param name="type">F32, F16 or BF16.</param>
    /// <param name="sourceFolder">Its tokenizer files are copied along; null for none.</param>
    /// <exception cref="ArgumentException">A matrix is NF4, or <paramref name="folder"/> is <paramref name="sourceFolder"/>.</exception>
    public static void Write(CausalLm model, string folder, DType type, string? sourceFolder)
    {
        RequireOther(folder, sourceFolder, "model");
        List<TensorSource> tensors = [];
        Matrix("model.embed_tokens.weight", model.Embedding);
        foreach (var block in model.Blocks)
        {
            string prefix = $"model.layers.{block.Index}.";
            Vector(block.InputNorm);
            foreach (var layer in block.Linears)
            {
                Matrix(layer.Name + ".weight", layer.Weight);
                Vector(layer.Bias);
            }

            Vector(block.QueryNorm);
            Vector(block.KeyNorm);
            Vector(block.MlpNorm);
        }

        Vector(model.Norm);
        if (!model.Config.TiedEmbeddings)
        {
            Matrix("lm_head.weight", model.Head);
        }

        Directory.CreateDirectory(folder);
        SafetensorsWriter.Write(Path.Combine(folder, WeightsName), tensors);
        WriteConfig(folder, model.Config.Json, type, quantization: null);
        CopyCompanions(sourceFolder, folder);

        void Matrix(string name, Weight weight)
        {
            if (weight.Scales is not null)
            {
                throw new ArgumentException($"SavedModel.Write: {name} is NF4, expected a dense matrix. Save the adapter instead, and merge it.", nameof(model));
            }

            tensors.Add(TensorSource.OfDevice(model.Backend, new TensorInfo(name, type, weight.Rows, weight.Columns), weight.Values));
        }

        void Vector(Parameter? parameter)
        {
            if (parameter is not null)
            {
                tensors.Add(TensorSource.OfDevice(model.Backend, new TensorInfo(parameter.Name, type, parameter.Count), parameter.Value));
            }
        }
    }

    /// <summary>
    /// Adds an adapter to its base model's weights, W + scale · B·A, and writes the sum as a model of its own, one tensor at a time. The sums are made in F32.
    /// </summary>
    /// <param name="modelFolder">The base model, dense or NF4.</param>
    /// <param name="adapterFolder">A PEFT adapter folder.</param>
    /// <param name="folder">Created if absent.</param>
    /// <param name="type">Element type of the merged linear weights; null keeps each tensor's own, which for NF4 is the type it had before quantisation.</param>
    /// <param name="mergeBase">
    /// What the update is added to: the weights as stored (the choice where the base is also published in 16 bits), or after a round trip through NF4,
    /// which is what the adapter was trained against.
    /// </param>
    /// <param name="cancel">Stops before the next adapted or quantised tensor, and leaves no model.</param>
    /// <exception cref="ArgumentException"><paramref name="folder"/> is one of those that are read.</exception>
    /// <exception cref="InvalidDataException">The model's <c>config.json</c> has a missing or unsupported field.</exception>
    /// <exception cref="CheckpointException">The adapter does not fit the model.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancel"/> asked for it.</exception>
    public static void Merge(string modelFolder, string adapterFolder, string folder, DType? type = null, WeightStorage mergeBase = WeightStorage.AsStored,
        CancellationToken cancel = default)
    {
        RequireOther(folder, modelFolder, "model");
        RequireOther(folder, adapterFolder, "adapter");
        PretrainedModel.RequireFolder(modelFolder);
        var config = ModelConfig.Load(Path.Combine(modelFolder, "config.json"));
        using var files = WeightFiles.Open(modelFolder);
        var (adapter, _) = PeftFiles.Read(adapterFolder);
        if (adapter.Head is not null)
        {
            throw new CheckpointException(Path.Combine(adapterFolder, PeftFiles.ConfigName), null,
                $"has task_type {PeftConfig.SequenceClassification}: the adapter of a reward model cannot be merged into a language model, where its head has no place. Keep it as it is, and use it with score --reward.");
        }

        var pairs = adapter.Pairs.ToDictionary(pair => pair.Module, StringComparer.Ordinal);
        List<TensorSource> tensors = [];
        foreach (var info in files.Tensors.Where(info => !BitsAndBytes.IsPart(info.Name)))
        {
            string module = info.Name.EndsWith(".weight", StringComparison.Ordinal) ? info.Name[..^".weight".Length] : "";
            bool quantized = module.Length > 0 && BitsAndBytes.IsQuantized(files, module);
            pairs.Remove(module, out var pair);
            if (pair is null && !quantized && !(mergeBase != WeightStorage.AsStored && IsLinear(info)))
            {
                tensors.Add(type is null || !FloatCodec.IsFloat(info.Type)
                    ? TensorSource.Copy(files, info)
                    : TensorSource.Convert(files, info, type.Value));
                continue;
            }

            var nf4 = quantized ? BitsAndBytes.Read(files, module) : null;
            long rows = nf4?.Rows ?? info.Shape[0], columns = nf4?.Columns ?? info.Shape[^1];
            if (pair is not null && (rows != pair.Outputs || columns != pair.Inputs))
            {
                throw new CheckpointException(files.FileOf(info.Name), info.Name, $"has shape [{rows}, {columns}], expected [{pair.Outputs}, {pair.Inputs}] by the adapter. The adapter is for another model.");
            }

            tensors.Add(TensorSource.OfFloats(new TensorInfo(info.Name, type ?? nf4?.Original ?? info.Type!.Value, rows, columns), () =>
            {
                cancel.ThrowIfCancellationRequested();
                var weight = Dense(files, info, module, mergeBase);
                if (pair is not null)
                {
                    LoraDelta.Add(pair.A, pair.B, pair.Rank, adapter.Config.ScalingOf(module), weight);
                }

                return weight;
            }));
        }

        if (pairs.Count > 0)
        {
            throw new CheckpointException(Path.Combine(adapterFolder, PeftFiles.WeightsName), pairs.Keys.Order().First(), $"adapts a layer that {modelFolder} does not have. The adapter is for another model.");
        }

        Directory.CreateDirectory(folder);
        SafetensorsWriter.Write(Path.Combine(folder, WeightsName), tensors);
        WriteConfig(folder, config.Json, type, quantization: null);
        CopyCompanions(modelFolder, folder);
    }

    /// <summary>
    /// Writes a bitsandbytes-compatible NF4 checkpoint: linear layers quantised, everything else copied. Memory in use is that of one layer: each is quantised twice,
    /// once for the sizes in the header and once to be written.
    /// </summary>
    /// <param name="modelFolder">A dense model.</param>
    /// <param name="folder">Created if absent.</param>
    /// <param name="doubleQuant">Whether block scales are stored in 8 bits.</param>
    /// <param name="computeType">What <c>bnb_4bit_compute_dtype</c> will say.</param>
    /// <param name="cancel">Stops between two layers, and leaves no model.</param>
    /// <exception cref="ArgumentException"><paramref name="folder"/> is <paramref name="modelFolder"/>.</exception>
    /// <exception cref="InvalidDataException">The model's <c>config.json</c> has a missing or unsupported field.</exception>
    /// <exception cref="CheckpointException">A matrix is quantised already, or has a weight that is not finite.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancel"/> asked for it.</exception>
    public static void Quantize(string modelFolder, string folder, bool doubleQuant = true, DType computeType = DType.BF16, CancellationToken cancel = default)
    {
        RequireOther(folder, modelFolder, "model");
        PretrainedModel.RequireFolder(modelFolder);
        var config = ModelConfig.Load(Path.Combine(modelFolder, "config.json"));
        using var files = WeightFiles.Open(modelFolder);
        List<TensorSource> tensors = [];
        foreach (var info in files.Tensors)
        {
            if (!IsLinear(info))
            {
                tensors.Add(TensorSource.Copy(files, info));
                continue;
            }

            string module = info.Name[..^".weight".Length];
            if (BitsAndBytes.IsQuantized(files, module))
            {
                throw new CheckpointException(files.FileOf(info.Name), info.Name, "is quantised already, expected a dense model. Start from the 16-bit or 32-bit weights.");
            }

            tensors.AddRange(BitsAndBytes.Write(module, () =>
            {
                cancel.ThrowIfCancellationRequested();
                return Nf4Tensor.Quantize(files, info, doubleQuant);
            }));
        }

        Directory.CreateDirectory(folder);
        SafetensorsWriter.Write(Path.Combine(folder, WeightsName), tensors);
        WriteConfig(folder, config.Json, null, new BitsAndBytesConfig(doubleQuant, computeType).ToJson());
        CopyCompanions(modelFolder, folder);
    }

    // Weights are mapped while they are read, and a model that is half old and half new cannot be told from a whole one.
    static void RequireOther(string folder, string? source, string what)
    {
        if (source is not null && FolderPath.AreSame(folder, source))
        {
            throw new ArgumentException($"SavedModel: {folder} is the {what} that is read, expected another folder to write to.", nameof(folder));
        }
    }

    static float[] Dense(WeightFiles files, TensorInfo info, string module, WeightStorage mergeBase)
    {
        if (module.Length > 0 && BitsAndBytes.IsQuantized(files, module))
        {
            var stored = BitsAndBytes.Read(files, module);
            var dequantized = new float[stored.Count];
            stored.Dequantize(dequantized);
            return dequantized;
        }

        if (mergeBase != WeightStorage.AsStored)
        {
            var rounded = new float[info.Count];
            Nf4Tensor.Quantize(files, info, doubleQuant: mergeBase == WeightStorage.Nf4Double).Dequantize(rounded);
            return rounded;
        }

        var values = new float[info.Count];
        files.Read(info.Name, values);
        return values;
    }

    // The layers that quantisation applies to: the projections of attention and MLP. Embedding, head and norms keep their type.
    static bool IsLinear(TensorInfo info) => info.Name.EndsWith("_proj.weight", StringComparison.Ordinal) && info.Shape.Count == 2;

    static void WriteConfig(string folder, string json, DType? type, JsonObject? quantization)
    {
        var config = JsonNode.Parse(json)!.AsObject();
        config.Remove("quantization_config");
        if (type is { } stored)
        {
            config[config.ContainsKey("dtype") ? "dtype" : "torch_dtype"] = stored switch { DType.BF16 => "bfloat16", DType.F16 => "float16", _ => "float32" };
        }

        if (quantization is not null)
        {
            config["quantization_config"] = quantization;
        }

        AtomicFile.WriteText(Path.Combine(folder, "config.json"), config.ToJsonString(Indented) + "\n");
    }

    static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    static void CopyCompanions(string? from, string to)
    {
        if (from is null)
        {
            return;
        }

        foreach (string name in Companions.Where(name => File.Exists(Path.Combine(from, name))))
        {
            using var source = File.OpenRead(Path.Combine(from, name)); // byte for byte: tokenizer.model is no text
            AtomicFile.Write(Path.Combine(to, name), source.CopyTo, source.Length);
        }
    }
}
