using System.Text.Json;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.BuiltIn;

/// <summary>The recipe of the built-in model: from nothing to a Hugging Face folder.</summary>
public static class Pretraining
{
    /// <summary>Optimizer steps of the model that comes with the library.</summary>
    public const int DefaultSteps = 2400;

    // Characters of the corpus per optimizer step: 8 bins.
    const int BinLength = 256, BinsPerStep = 8;

    static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    /// <summary>Trains all weights of a random model on the corpus and writes it in bf16, with its tokenizer.</summary>
    /// <param name="folder">Created if absent.</param>
    /// <param name="backend">The device.</param>
    /// <param name="steps">Optimizer steps.</param>
    /// <param name="seed">Of the corpus, the initial weights and the order.</param>
    /// <param name="progress">Hears of every step.</param>
    /// <param name="cancel">Stops the run, and nothing is written.</param>
    public static async Task<TrainingResult> RunAsync(string folder, Backend backend, int steps = DefaultSteps, ulong seed = 1, IProgress<StepMetrics>? progress = null, CancellationToken cancel = default)
    {
        string start = Path.Combine(folder, "untrained");
        try
        {
            CharacterTokenizer.Write(start, Corpus.Symbols.Select(symbol => symbol.ToString()));
            var tokenizer = Tokenizer.Load(start);
            RandomModel.Write(Config(tokenizer), start, DType.F32, seed);
            using var model = PretrainedModel.Load(start, backend);
            model.MakeTrainable();
            using var trainer = new SftTrainer(model, TrainedWeights.Of(model, start), Examples(tokenizer, seed, (long)steps * BinsPerStep * BinLength), Options(steps, seed));
            var result = await trainer.RunAsync(progress, cancel: cancel).ConfigureAwait(false);
            SavedModel.Write(model, folder, DType.BF16, start);
            return result;
        }
        finally
        {
            Directory.Delete(start, recursive: true);
        }
    }

    static SftOptions Options(int steps, ulong seed) => new()
    {
        MaxSteps = steps,
        MicroBatchSize = BinsPerStep,
        SequenceLength = BinLength,
        Packing = true,
        LearningRate = 2e-3,
        WarmupRatio = 0.05,
        MinimumLearningRateRatio = 0.02,
        Optimizer = new AdamWOptions { Beta2 = 0.98, WeightDecay = 0.1 },
        Seed = seed,
    };

    // As many documents as the run reads once.
    static List<Example> Examples(Tokenizer tokenizer, ulong seed, long characters)
    {
        List<Example> examples = [];
        foreach (string document in Corpus.Documents(seed))
        {
            int[] ids = [.. tokenizer.Encode(document), tokenizer.Eos!.Value.Id];
            examples.Add(new Example(ids, ids, "corpus", examples.Count + 1));
            characters -= ids.Length;
            if (characters <= 0)
            {
                break;
            }
        }

        return examples;
    }

    static string Config(Tokenizer tokenizer) => JsonSerializer.Serialize(new
    {
        architectures = new[] { "LlamaForCausalLM" },
        model_type = "llama",
        vocab_size = tokenizer.VocabularySize,
        hidden_size = 128,
        intermediate_size = 384,
        num_hidden_layers = 4,
        num_attention_heads = 4,
        num_key_value_heads = 2,
        max_position_embeddings = 512,
        rms_norm_eps = 1e-5,
        rope_theta = 10000.0,
        tie_word_embeddings = true,
        hidden_act = "silu",
        attention_bias = false,
        mlp_bias = false,
        bos_token_id = tokenizer.Bos!.Value.Id,
        eos_token_id = tokenizer.Eos!.Value.Id,
        pad_token_id = tokenizer.Pad!.Value.Id,
        torch_dtype = "float32",
    }, Indented);
}
