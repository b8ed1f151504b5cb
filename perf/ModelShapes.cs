namespace IlgpuPeft.Perf;

/// <summary>Shapes of published models, and a tiny one for slow devices, as the <c>config.json</c> of a folder with random weights.</summary>
static class ModelShapes
{
    public static readonly IReadOnlyDictionary<string, string> All = new SortedDictionary<string, string>
    {
        ["tiny"] = Llama(hidden: 128, ffn: 256, layers: 2, heads: 2, keyValueHeads: 1, vocabulary: 512, theta: 10000, tied: true),
        ["smollm2-135m"] = Llama(hidden: 576, ffn: 1536, layers: 30, heads: 9, keyValueHeads: 3, vocabulary: 49152, theta: 100000, tied: true),
        ["smollm2-360m"] = Llama(hidden: 960, ffn: 2560, layers: 32, heads: 15, keyValueHeads: 5, vocabulary: 49152, theta: 100000, tied: true),
        ["tinyllama-1.1b"] = Llama(hidden: 2048, ffn: 5632, layers: 22, heads: 32, keyValueHeads: 4, vocabulary: 32000, theta: 10000, tied: false),
        ["llama3.2-1b"] = Llama(hidden: 2048, ffn: 8192, layers: 16, heads: 32, keyValueHeads: 8, vocabulary: 128256, theta: 500000, tied: true),
        ["llama3.1-8b"] = Llama(hidden: 4096, ffn: 14336, layers: 32, heads: 32, keyValueHeads: 8, vocabulary: 128256, theta: 500000, tied: false),
    };

    static string Llama(int hidden, int ffn, int layers, int heads, int keyValueHeads, int vocabulary, int theta, bool tied) => $$"""
        {
          "architectures": ["LlamaForCausalLM"],
          "model_type": "llama",
          "hidden_act": "silu",
          "hidden_size": {{hidden}},
          "intermediate_size": {{ffn}},
          "num_hidden_layers": {{layers}},
          "num_attention_heads": {{heads}},
          "num_key_value_heads": {{keyValueHeads}},
          "vocab_size": {{vocabulary}},
          "max_position_embeddings": 8192,
          "rms_norm_eps": 1e-05,
          "rope_theta": {{theta}},
          "tie_word_embeddings": {{(tied ? "true" : "false")}},
          "bos_token_id": 1,
          "eos_token_id": 2,
          "torch_dtype": "bfloat16"
        }
        """;
}
