using System.Text.Json;
using System.Text.Json.Nodes;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Random models of every supported architecture, a few thousand weights each, in sizes that are no multiples of anything.</summary>
static class Architectures
{
    const string Sizes = """
        "hidden_size": 20, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 37, "hidden_act": "silu"
        """;

    /// <summary><c>config.json</c> by the name of what is special about the model.</summary>
    public static readonly IReadOnlyDictionary<string, string> Configs = new Dictionary<string, string>
    {
        ["llama"] = $$"""{ "model_type": "llama", {{Sizes}}, "rms_norm_eps": 1e-5, "eos_token_id": 36 }""",
        ["llama, llama3 rope"] = $$"""
            { "model_type": "llama", {{Sizes}}, "rope_theta": 100,
              "rope_scaling": { "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 32 } }
            """,
        ["llama, linear rope"] = $$"""{ "model_type": "llama", {{Sizes}}, "rope_theta": 500, "rope_scaling": { "type": "linear", "factor": 4 } }""",
        ["llama, rope_parameters"] = $$"""{ "model_type": "llama", {{Sizes}}, "rope_parameters": { "rope_type": "default", "rope_theta": 70 } }""",
        ["llama, biases"] = $$"""{ "model_type": "llama", {{Sizes}}, "attention_bias": true, "mlp_bias": true }""",
        ["smollm, tied"] = """
            { "model_type": "llama", "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1,
              "vocab_size": 37, "hidden_act": "silu", "rms_norm_eps": 1e-5, "tie_word_embeddings": true }
            """,
        ["mistral, window"] = $$"""{ "model_type": "mistral", {{Sizes}}, "sliding_window": 5 }""",
        ["mistral, no window"] = $$"""{ "model_type": "mistral", {{Sizes}}, "sliding_window": null }""",
        ["qwen2"] = $$"""{ "model_type": "qwen2", {{Sizes}}, "sliding_window": 4, "use_sliding_window": false, "max_window_layers": 0 }""",
        ["qwen2, window from layer 1"] = $$"""{ "model_type": "qwen2", {{Sizes}}, "sliding_window": 4, "use_sliding_window": true, "max_window_layers": 1 }""",
        ["qwen2, layer_types"] = $$"""
            { "model_type": "qwen2", {{Sizes}}, "sliding_window": 4, "use_sliding_window": true, "max_window_layers": 0, "layer_types": ["sliding_attention", "full_attention"] }
            """,
        ["qwen3"] = $$"""{ "model_type": "qwen3", {{Sizes}}, "rms_norm_eps": 1e-6, "tie_word_embeddings": true }""",
        ["qwen3, biases"] = $$"""{ "model_type": "qwen3", {{Sizes}}, "attention_bias": true }""",
    };

    public static TheoryData<string> Names => [.. Configs.Keys];

    public static Backend Open(string device) => TestDevices.Open(device);

    /// <summary>Writes the folder. Norm weights lie about one and biases about zero, so that leaving one out shows.</summary>
    public static void Write(string folder, string name, DType type = DType.F32, ulong seed = 1)
    {
        RandomModel.Write(Configs[name], folder, DType.F32, seed, deviation: 0.3);
        List<(TensorInfo Info, float[] Values)> tensors = [];
        using (var files = WeightFiles.Open(folder))
        {
            foreach (var info in files.Tensors)
            {
                var values = new float[info.Count];
                files.Read(info.Name, values);
                if (info.Shape.Count == 1)
                {
                    var key = new RandomKey(seed, 1, (uint)tensors.Count);
                    for (int i = 0; i < values.Length; i++)
                    {
                        values[i] += (float)(0.3 * key.Normal((ulong)i));
                    }
                }

                tensors.Add((new TensorInfo(info.Name, type, [.. info.Shape]), values));
            }
        }

        SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), [.. tensors.Select(x => TensorSource.OfFloats(x.Info, () => x.Values))]);
    }

    public static CausalLm Load(TempFolder folder, string name, Backend backend, DType type = DType.F32)
    {
        Write(folder.Path, name, type);
        return PretrainedModel.Load(folder.Path, backend);
    }

    /// <summary>Distributes the tensors of <paramref name="folder"/> over shards with an index, tensor by tensor in turn.</summary>
    public static void Shard(string folder, int count)
    {
        string single = Path.Combine(folder, "model.safetensors");
        var map = new JsonObject();
        using (var files = WeightFiles.Open(single))
        {
            for (int s = 0; s < count; s++)
            {
                string name = $"model-{s + 1:00000}-of-{count:00000}.safetensors";
                List<TensorInfo> part = [.. files.Tensors.Where((_, i) => i % count == s)];
                part.ForEach(info => map[info.Name] = name);
                SafetensorsWriter.Write(Path.Combine(folder, name), [.. part.Select(info => TensorSource.Copy(files, info))]);
            }
        }

        File.Delete(single);
        File.WriteAllText(single + ".index.json", new JsonObject { ["weight_map"] = map }.ToJsonString(JsonSerializerOptions.Default));
    }

    /// <summary>The same token ids every time, spread over the vocabulary.</summary>
    public static int[] Ids(int count, int seed = 0)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(_ => random.Next(36))];
    }
}
