using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Checkpoints;

/// <summary>How the linear layers of a model are held in memory. Embedding, norms and head always stay as they are stored.</summary>
public enum WeightStorage
{
    /// <summary>As in the checkpoint: dense in its own type, or NF4 if it was saved so.</summary>
    AsStored,

    /// <summary>NF4 with block scales in F32: 4.5 bits per weight.</summary>
    Nf4,

    /// <summary>NF4 with block scales in 8 bits too: 4.13 bits per weight.</summary>
    Nf4Double,
}

/// <summary>Builds a <see cref="CausalLm"/> from a Hugging Face folder, one tensor at a time: memory in use is the model as held, and one tensor.</summary>
public static class PretrainedModel
{
    /// <summary>Reads <c>config.json</c> and the weights (<c>model.safetensors</c>, or shards by <c>model.safetensors.index.json</c>).</summary>
    /// <param name="folder">The model's folder.</param>
    /// <param name="backend">The device; it must outlive the model.</param>
    /// <param name="storage">Whether to quantise while loading.</param>
    /// <exception cref="InvalidDataException"><c>config.json</c> has a missing or unsupported field.</exception>
    /// <exception cref="CheckpointException">A tensor is missing, unexpected, or of a wrong shape or type.</exception>
    public static CausalLm Load(string folder, Backend backend, WeightStorage storage = WeightStorage.AsStored)
    {
        RequireFolder(folder);
        string configPath = Path.Combine(folder, "config.json");
        var config = ModelConfig.Load(configPath);
        _ = BitsAndBytesConfig.Parse(JsonFile.ReadObject(configPath), configPath); // refuses quantisation methods that we lack, by name
        using var files = WeightFiles.Open(folder);
        var loader = new Loader(files, backend, storage);
        try
        {
            return loader.Build(config);
        }
        catch
        {
            loader.Abandon();
            throw;
        }
    }

    /// <summary>Checks that a model folder is there, and says what to do where it is not.</summary>
    internal static void RequireFolder(string folder)
    {
        if (!File.Exists(Path.Combine(folder, "config.json")))
        {
            throw new DirectoryNotFoundException($"{folder}: expected a Hugging Face model folder, found {(Directory.Exists(folder) ? "a folder without config.json" : File.Exists(folder) ? "a file" : "nothing")}. " +
                "Give the path of a downloaded model; this version downloads none.");
        }
    }

    sealed class Loader(WeightFiles files, Backend backend, WeightStorage storage)
    {
        const string Owner = "weights";
        readonly List<Slice> owned = [];
        readonly HashSet<string> used = new(StringComparer.Ordinal);

        public CausalLm Build(ModelConfig config)
        {
            var embedding = Dense("model.embed_tokens.weight", config.Vocabulary, config.Hidden);
            List<DecoderBlock> blocks = [.. Enumerable.Range(0, config.Layers).Select(layer => Block(config, layer))];
            var norm = Vector("model.norm.weight", config.Hidden);
            var head = config.TiedEmbeddings ? null : Dense("lm_head.weight", config.Vocabulary, config.Hidden);
            RefuseLeftovers(config);
            return new CausalLm(backend, config, embedding, blocks, norm, head, owned);
        }

        public void Abandon() => owned.ForEach(backend.Free);

        DecoderBlock Block(ModelConfig config, int layer)
        {
            string prefix = $"model.layers.{layer}.";
            int queries = config.Heads * config.HeadWidth, keys = config.KeyValueHeads * config.HeadWidth;
            return new DecoderBlock
            {
                Index = layer,
                InputNorm = Vector(prefix + "input_layernorm.weight", config.Hidden),
                Query = Linear(prefix + "self_attn.q_proj", queries, config.Hidden, config.QkvBias),
                Key = Linear(prefix + "self_attn.k_proj", keys, config.Hidden, config.QkvBias),
                Value = Linear(prefix + "self_attn.v_proj", keys, config.Hidden, config.QkvBias),
                Output = Linear(prefix + "self_attn.o_proj", config.Hidden, queries, config.OutputBias),
                QueryNorm = config.QueryKeyNorm ? Vector(prefix + "self_attn.q_norm.weight", config.HeadWidth) : null,
                KeyNorm = config.QueryKeyNorm ? Vector(prefix + "self_attn.k_norm.weight", config.HeadWidth) : null,
                MlpNorm = Vector(prefix + "post_attention_layernorm.weight", config.Hidden),
                Gate = Linear(prefix + "mlp.gate_proj", config.Intermediate, config.Hidden, config.MlpBias),
                Up = Linear(prefix + "mlp.up_proj", config.Intermediate, config.Hidden, config.MlpBias),
                Down = Linear(prefix + "mlp.down_proj", config.Hidden, config.Intermediate, config.MlpBias),
                Attention = config.Attention(layer),
                Epsilon = config.RmsNormEpsilon,
            };
        }

        Linear Linear(string module, int outputs, int inputs, bool hasBias)
        {
            string name = module + ".weight";
            Weight weight;
            if (BitsAndBytes.IsQuantized(files, module))
            {
                used.Add(name);
                weight = Upload(BitsAndBytes.Read(files, module), name, outputs, inputs);
            }
            else if (storage == WeightStorage.AsStored)
            {
                weight = Dense(name, outputs, inputs);
            }
            else
            {
                var info = Find(name, outputs, inputs);
                weight = Upload(Nf4Tensor.Quantize(files, info, storage == WeightStorage.Nf4Double), name, outputs, inputs);
            }

            return new Linear(module, weight, hasBias ? Vector(module + ".bias", outputs) : null);
        }

        Weight Upload(Nf4Tensor tensor, string name, int rows, int columns)
        {
            if (tensor.Rows != rows || tensor.Columns != columns)
            {
                throw new CheckpointException(files.FileOf(name), name, $"has shape [{tensor.Rows}, {tensor.Columns}], expected [{rows}, {columns}] from config.json.");
            }

            var packed = Own(backend.Place<byte>(tensor.Packed, Owner));
            var scales = tensor.Nested is { } nested
                ? new Nf4Scales(Own(backend.Place<byte>(nested.Codes, Owner)), Own(backend.Place<float>(nested.Scales, Owner)), Own(backend.Place<float>(nested.Map, Owner)),
                    nested.Offset, tensor.BlockSize)
                : new Nf4Scales(Own(backend.Place<float>(tensor.AbsMax, Owner)), BlockSize: tensor.BlockSize);
            return new Weight(rows, columns, packed, scales);
        }

        Weight Dense(string name, int rows, int columns)
        {
            var info = Find(name, rows, columns);
            var values = Own(backend.Allocate(info.Type!.Value, info.Count, Owner));
            files.Upload(name, backend, values);
            files.Release(name);
            return new Weight(rows, columns, values);
        }

        Parameter Vector(string name, int length)
        {
            _ = Find(name, length);
            var slice = Own(backend.Allocate(backend.Parameter, length, Owner));
            files.Upload(name, backend, slice);
            return new Parameter(name, 1, length, slice);
        }

        TensorInfo Find(string name, params ReadOnlySpan<int> shape)
        {
            var info = files.Find(name) ?? throw new CheckpointException(files.Path, name, "is missing, but config.json calls for it. The folder is incomplete, or its config.json belongs to another model.");
            var expected = shape.ToArray().Select(x => (long)x);
            if (!info.Shape.SequenceEqual(expected))
            {
                throw new CheckpointException(files.FileOf(name), name, $"has shape {info.ShapeText}, expected [{string.Join(", ", expected)}] from config.json.");
            }

            if (!FloatCodec.IsFloat(info.Type))
            {
                throw new CheckpointException(files.FileOf(name), name, $"has element type {info.TypeName}, expected F32, F16, BF16 or F64.");
            }

            used.Add(name);
            return info;
        }

        Slice Own(Slice slice)
        {
            owned.Add(slice);
            return slice;
        }

        // A tensor without a place means that the architecture is not the one config.json describes, and the results would be quietly wrong.
        void RefuseLeftovers(ModelConfig config)
        {
            List<string> strangers = [.. files.Tensors.Select(info => info.Name)
                .Where(name => !used.Contains(name) && !BitsAndBytes.IsPart(name) && !name.EndsWith("rotary_emb.inv_freq", StringComparison.Ordinal)
                    && !(config.TiedEmbeddings && name == "lm_head.weight"))];
            if (strangers.Count > 0)
            {
                throw new CheckpointException(files.Path, strangers[0], $"has no place in a {config.ModelType} model ({strangers.Count} such tensors). " +
                    "config.json does not describe these weights, or the model has a part that this version lacks.");
            }
        }
    }
}
