using IlgpuPeft.Kernels;
using IlgpuPeft.Models;

namespace IlgpuPeft.Checkpoints;

/// <summary>Writes an untrained model folder: the start of training from scratch, and weights of a real model's shape for measuring.</summary>
public static class RandomModel
{
    /// <summary>
    /// Writes <c>config.json</c> and <c>model.safetensors</c>. Matrices are normal with standard deviation <paramref name="deviation"/>, those that write to the residual stream
    /// narrower by √(2 · layers) (Radford et al. 2019, section 2.3); norms are one, biases zero.
    /// </summary>
    /// <param name="configJson">A whole <c>config.json</c>.</param>
    /// <param name="folder">Created if absent.</param>
    /// <param name="type">F32, F16 or BF16.</param>
    /// <param name="seed">The same seed gives the same file.</param>
    /// <param name="deviation">Hugging Face's <c>initializer_range</c>.</param>
    /// <exception cref="InvalidDataException">The configuration has a missing or unsupported field.</exception>
    public static void Write(string configJson, string folder, DType type = DType.F32, ulong seed = 0, double deviation = 0.02)
    {
        // Under a name of its own until the weights are there: a configuration that is refused leaves an earlier model as it was.
        string path = Path.Combine(folder, "config.json"), proposed = path + ".new";
        AtomicFile.WriteText(proposed, configJson);
        try
        {
            var tensors = Tensors(ModelConfig.Load(proposed), type, seed, deviation);
            SafetensorsWriter.Write(Path.Combine(folder, "model.safetensors"), tensors);
            File.Move(proposed, path, overwrite: true);
        }
        catch
        {
            File.Delete(proposed);
            throw;
        }
    }

    static List<TensorSource> Tensors(ModelConfig config, DType type, ulong seed, double deviation)
    {
        List<TensorSource> tensors = [];
        int queries = config.Heads * config.HeadWidth, keys = config.KeyValueHeads * config.HeadWidth;
        double narrow = deviation / Math.Sqrt(2 * config.Layers);

        Matrix("model.embed_tokens.weight", config.Vocabulary, config.Hidden, deviation);
        for (int layer = 0; layer < config.Layers; layer++)
        {
            string prefix = $"model.layers.{layer}.";
            Vector(prefix + "input_layernorm.weight", config.Hidden, 1);
            Linear(prefix + "self_attn.q_proj", queries, config.Hidden, deviation, config.QkvBias);
            Linear(prefix + "self_attn.k_proj", keys, config.Hidden, deviation, config.QkvBias);
            Linear(prefix + "self_attn.v_proj", keys, config.Hidden, deviation, config.QkvBias);
            Linear(prefix + "self_attn.o_proj", config.Hidden, queries, narrow, config.OutputBias);
            if (config.QueryKeyNorm)
            {
                Vector(prefix + "self_attn.q_norm.weight", config.HeadWidth, 1);
                Vector(prefix + "self_attn.k_norm.weight", config.HeadWidth, 1);
            }

            Vector(prefix + "post_attention_layernorm.weight", config.Hidden, 1);
            Linear(prefix + "mlp.gate_proj", config.Intermediate, config.Hidden, deviation, config.MlpBias);
            Linear(prefix + "mlp.up_proj", config.Intermediate, config.Hidden, deviation, config.MlpBias);
            Linear(prefix + "mlp.down_proj", config.Hidden, config.Intermediate, narrow, config.MlpBias);
        }

        Vector("model.norm.weight", config.Hidden, 1);
        if (!config.TiedEmbeddings)
        {
            Matrix("lm_head.weight", config.Vocabulary, config.Hidden, deviation);
        }

        return tensors;

        void Linear(string module, int outputs, int inputs, double spread, bool bias)
        {
            Matrix(module + ".weight", outputs, inputs, spread);
            if (bias)
            {
                Vector(module + ".bias", outputs, 0);
            }
        }

        void Matrix(string name, int rows, int columns, double spread)
        {
            var key = new RandomKey(seed, 0, (uint)tensors.Count);
            tensors.Add(TensorSource.OfFloats(new TensorInfo(name, type, rows, columns), () => Normal(key, (long)rows * columns, spread)));
        }

        void Vector(string name, int length, float value) => tensors.Add(TensorSource.OfFloats(new TensorInfo(name, type, length), () =>
        {
            var values = new float[length];
            Array.Fill(values, value);
            return values;
        }));
    }

    static float[] Normal(RandomKey key, long count, double spread)
    {
        var values = new float[count];
        const int chunk = 1 << 16;
        Parallel.For(0, (int)((count + chunk - 1) / chunk), part =>
        {
            for (long i = (long)part * chunk; i < Math.Min(count, (part + 1L) * chunk); i++)
            {
                values[i] = (float)(key.Normal((ulong)i) * spread);
            }
        });
        return values;
    }
}
