using IlgpuPeft.Checkpoints;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Perf;

/// <summary>A model of a published shape whose random NF4 weights are made on the device: what a benchmark needs of 8 billion weights, without 16 GB on a disk.</summary>
static class RandomNf4Model
{
    /// <summary>A model of one of <see cref="ModelShapes"/>. Its weights belong to <paramref name="weights"/>.</summary>
    /// <exception cref="ArgumentException">There is no such shape.</exception>
    public static CausalLm OfShape(string shape, CaseMemory weights) => ModelShapes.All.TryGetValue(shape, out string? config)
        ? Make(config, weights)
        : throw new ArgumentException($"expected a shape, one of {string.Join(", ", ModelShapes.All.Keys)}, got '{shape}'.");

    /// <summary>Builds a Llama of double-quantised NF4, with embedding and head in BF16.</summary>
    static CausalLm Make(string configJson, CaseMemory weights)
    {
        string path = Path.GetTempFileName();
        File.WriteAllText(path, configJson);
        var config = ModelConfig.Load(path);
        File.Delete(path);

        var embedding = weights.Weight(config.Vocabulary, config.Hidden, WeightStorage.AsStored);
        List<DecoderBlock> blocks = [.. Enumerable.Range(0, config.Layers).Select(Block)];
        var head = config.TiedEmbeddings ? null : weights.Weight(config.Vocabulary, config.Hidden, WeightStorage.AsStored);
        return new CausalLm(weights.Backend, config, embedding, blocks, Norm("model.norm"), head, owned: []);

        DecoderBlock Block(int layer)
        {
            string prefix = $"model.layers.{layer}.";
            int queries = config.Heads * config.HeadWidth, keys = config.KeyValueHeads * config.HeadWidth;
            return new DecoderBlock
            {
                Index = layer,
                InputNorm = Norm(prefix + "input_layernorm"),
                Query = Projection(prefix + "self_attn.q_proj", queries, config.Hidden),
                Key = Projection(prefix + "self_attn.k_proj", keys, config.Hidden),
                Value = Projection(prefix + "self_attn.v_proj", keys, config.Hidden),
                Output = Projection(prefix + "self_attn.o_proj", config.Hidden, queries),
                MlpNorm = Norm(prefix + "post_attention_layernorm"),
                Gate = Projection(prefix + "mlp.gate_proj", config.Intermediate, config.Hidden),
                Up = Projection(prefix + "mlp.up_proj", config.Intermediate, config.Hidden),
                Down = Projection(prefix + "mlp.down_proj", config.Hidden, config.Intermediate),
                Attention = config.Attention(layer),
                Epsilon = config.RmsNormEpsilon,
            };
        }

        Linear Projection(string module, int outputs, int inputs) => new(module, weights.Weight(outputs, inputs, WeightStorage.Nf4Double), null);

        Parameter Norm(string module)
        {
            var values = weights.Parameter(config.Hidden);
            weights.Backend.Fill(values, 1);
            return new Parameter(module + ".weight", 1, config.Hidden, values);
        }
    }
}
