using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tests;

/// <summary>A random two-layer model in a temporary folder, and rows of random tokens for it.</summary>
static class TinyModels
{
    public const int Vocabulary = 41;

    public const string Config = """
        {
          "model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
          "vocab_size": 41, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "eos_token_id": 2
        }
        """;

    /// <summary>Wider weights than a real model starts with, so that a wrong gradient is far from the right one.</summary>
    public static string Write(TempFolder temp)
    {
        string folder = Path.Combine(temp.Path, "model");
        RandomModel.Write(Config, folder, DType.F32, seed: 5, deviation: 0.25);
        return folder;
    }

    /// <summary>Rows of 3 to 3 + <paramref name="spread"/> tokens, the first third of each untrained.</summary>
    public static List<Example> Rows(int count, int seed, int spread = 12)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(i =>
        {
            int[] ids = [.. Enumerable.Range(0, 3 + random.Next(spread + 1)).Select(_ => random.Next(Vocabulary))];
            int[] labels = [.. ids.Select((id, position) => position < ids.Length / 3 ? Example.Untrained : id)];
            return new Example(ids, labels, "rows", i + 1);
        })];
    }
}
