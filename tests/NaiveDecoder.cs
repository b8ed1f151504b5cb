using System.Text.Json;
using IlgpuPeft.Checkpoints;

namespace IlgpuPeft.Tests;

/// <summary>
/// A Llama-family decoder as straight loops in double, written from the published formulas, one token vector at a time. It reads <c>config.json</c> and the weights
/// itself, so that it shares no reading of a field with the library. Cosines and sines are rounded to float, as the library's tables are.
/// </summary>
sealed class NaiveDecoder
{
    readonly JsonElement config;
    readonly Dictionary<string, double[]> weights = [];
    readonly int hidden, heads, groups, width, layers, vocabulary;
    readonly double epsilon;
    readonly string type;
    readonly double[] frequencies;

    public NaiveDecoder(string folder)
    {
        using var document = JsonDocument.Parse(File.ReadAllText(Path.Combine(folder, "config.json")));
        config = document.RootElement.Clone();
        type = config.GetProperty("model_type").GetString()!;
        (hidden, heads, layers, vocabulary) = (Int("hidden_size"), Int("num_attention_heads"), Int("num_hidden_layers"), Int("vocab_size"));
        (groups, width) = (Int("num_key_value_heads"), config.TryGetProperty("head_dim", out _) ? Int("head_dim") : hidden / heads);
        epsilon = config.TryGetProperty("rms_norm_eps", out var eps) ? eps.GetDouble() : 1e-6;
        frequencies = [.. Enumerable.Range(0, width / 2).Select(Frequency)];
        using var files = WeightFiles.Open(folder);
        foreach (var info in files.Tensors)
        {
            var values = new float[info.Count];
            files.Read(info.Name, values);
            weights.Add(info.Name, Array.ConvertAll(values, x => (double)x));
        }
    }

    /// <summary>Logits of every position of one sequence, [T, V] row-major.</summary>
    public double[] Logits(int[] ids)
    {
        var rows = ids.Select(id => weights["model.embed_tokens.weight"].AsSpan(id * hidden, hidden).ToArray()).ToList();
        for (int layer = 0; layer < layers; layer++)
        {
            string prefix = $"model.layers.{layer}.";
            var normed = rows.ConvertAll(x => Norm(x, prefix + "input_layernorm.weight"));
            var attended = Attention(layer, normed);
            for (int t = 0; t < rows.Count; t++)
            {
                var middle = Add(rows[t], attended[t]);
                var x = Norm(middle, prefix + "post_attention_layernorm.weight");
                double[] gate = Linear(x, prefix + "mlp.gate_proj"), up = Linear(x, prefix + "mlp.up_proj");
                rows[t] = Add(middle, Linear([.. gate.Zip(up, (g, u) => g / (1 + Math.Exp(-g)) * u)], prefix + "mlp.down_proj"));
            }
        }

        string head = config.TryGetProperty("tie_word_embeddings", out var tied) && tied.GetBoolean() ? "model.embed_tokens" : "lm_head";
        return [.. rows.SelectMany(x => Linear(Norm(x, "model.norm.weight"), head))];
    }

    /// <summary>Log-probability of each token of a sequence after the first, given those before it.</summary>
    public double[] LogProbs(int[] ids)
    {
        double[] logits = Logits(ids);
        return [.. Enumerable.Range(0, ids.Length - 1).Select(t =>
        {
            double[] row = logits[(t * vocabulary)..((t + 1) * vocabulary)];
            double most = row.Max();
            return row[ids[t + 1]] - most - Math.Log(row.Sum(x => Math.Exp(x - most)));
        })];
    }

    List<double[]> Attention(int layer, List<double[]> x)
    {
        string prefix = $"model.layers.{layer}.self_attn.";
        int window = Window(layer);
        var q = Heads("q", heads, rotate: true);
        var k = Heads("k", groups, rotate: true);
        var v = Heads("v", groups, rotate: false);
        var result = new List<double[]>();
        for (int i = 0; i < x.Count; i++)
        {
            var concatenated = new double[heads * width];
            for (int h = 0; h < heads; h++)
            {
                int g = h / (heads / groups), first = window == 0 ? 0 : Math.Max(0, i - window + 1);
                double[] scores = [.. Enumerable.Range(first, i - first + 1).Select(j => Dot(q[i][h], k[j][g]) / Math.Sqrt(width))];
                double most = scores.Max(), sum = scores.Sum(s => Math.Exp(s - most));
                for (int j = first; j <= i; j++)
                {
                    for (int c = 0; c < width; c++)
                    {
                        concatenated[h * width + c] += Math.Exp(scores[j - first] - most) / sum * v[j][g][c];
                    }
                }
            }

            result.Add(Linear(concatenated, prefix + "o_proj"));
        }

        return result;

        List<double[][]> Heads(string which, int count, bool rotate) => [.. x.Select((row, position) =>
        {
            double[][] split = [.. Linear(row, $"{prefix}{which}_proj").Chunk(width)];
            string norm = $"{prefix}{which}_norm.weight";
            return split.Select(head => weights.ContainsKey(norm) ? Norm(head, norm) : head).Select(head => rotate ? Rotate(head, position) : head).ToArray();
        })];
    }

    // Hugging Face's layout: element c turns together with element c + width / 2.
    double[] Rotate(double[] head, int position)
    {
        var turned = new double[width];
        for (int c = 0; c < width / 2; c++)
        {
            double angle = position * frequencies[c], cos = (float)Math.Cos(angle), sin = (float)Math.Sin(angle);
            turned[c] = head[c] * cos - head[c + width / 2] * sin;
            turned[c + width / 2] = head[c + width / 2] * cos + head[c] * sin;
        }

        return turned;
    }

    double Frequency(int pair)
    {
        bool scaled = config.TryGetProperty("rope_parameters", out var rope) || config.TryGetProperty("rope_scaling", out rope);
        double theta = scaled && rope.TryGetProperty("rope_theta", out var nested) ? nested.GetDouble()
            : config.TryGetProperty("rope_theta", out var outer) ? outer.GetDouble() : 10000;
        double frequency = 1 / Math.Pow(theta, 2.0 * pair / width);
        string kind = !scaled ? "default" : (rope.TryGetProperty("rope_type", out var name) ? name : rope.GetProperty("type")).GetString()!;
        if (kind == "linear")
        {
            return frequency / rope.GetProperty("factor").GetDouble();
        }

        if (kind == "default")
        {
            return frequency;
        }

        // How many turns the pair makes over the original context decides: few turns are stretched, many are kept, and in between is a blend.
        double turns = rope.GetProperty("original_max_position_embeddings").GetDouble() * frequency / (2 * Math.PI), low = rope.GetProperty("low_freq_factor").GetDouble();
        double keep = Math.Clamp((turns - low) / (rope.GetProperty("high_freq_factor").GetDouble() - low), 0, 1);
        return keep * frequency + (1 - keep) * frequency / rope.GetProperty("factor").GetDouble();
    }

    int Window(int layer)
    {
        if (!config.TryGetProperty("sliding_window", out var window) || window.ValueKind == JsonValueKind.Null || (type != "mistral" && !config.GetProperty("use_sliding_window").GetBoolean()))
        {
            return 0;
        }

        bool here = config.TryGetProperty("layer_types", out var kinds) ? kinds[layer].GetString() == "sliding_attention" : type == "mistral" || layer >= Int("max_window_layers");
        return here ? window.GetInt32() : 0;
    }

    double[] Norm(double[] x, string name)
    {
        double scale = 1 / Math.Sqrt(x.Average(v => v * v) + epsilon);
        return [.. x.Zip(weights[name], (v, w) => v * scale * w)];
    }

    double[] Linear(double[] x, string module)
    {
        double[] weight = weights[module + ".weight"], y = new double[weight.Length / x.Length];
        for (int o = 0; o < y.Length; o++)
        {
            y[o] = Dot(weight.AsSpan(o * x.Length, x.Length), x);
        }

        return weights.TryGetValue(module + ".bias", out double[]? bias) ? Add(y, bias) : y;
    }

    static double[] Add(double[] a, double[] b) => [.. a.Zip(b, (x, y) => x + y)];

    static double Dot(ReadOnlySpan<double> a, ReadOnlySpan<double> b)
    {
        double sum = 0;
        for (int i = 0; i < a.Length; i++)
        {
            sum += a[i] * b[i];
        }

        return sum;
    }

    int Int(string name) => config.GetProperty(name).GetInt32();
}
