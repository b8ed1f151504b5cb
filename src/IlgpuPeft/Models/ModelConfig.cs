using System.Text.Json;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Models;

/// <summary>
/// The fields of a Hugging Face <c>config.json</c> in which the Llama family's members differ. A feature that this library lacks is refused by its name,
/// never ignored.
/// </summary>
public sealed record ModelConfig
{
    /// <summary>llama, mistral, qwen2 or qwen3.</summary>
    public required string ModelType { get; init; }

    /// <summary>Width of the residual stream, D.</summary>
    public required int Hidden { get; init; }

    /// <summary>Width of the MLP, F.</summary>
    public required int Intermediate { get; init; }

    /// <summary>Number of decoder blocks.</summary>
    public required int Layers { get; init; }

    /// <summary>Query heads, H.</summary>
    public required int Heads { get; init; }

    /// <summary>Key/value heads, G; divides H.</summary>
    public required int KeyValueHeads { get; init; }

    /// <summary>Elements per head, C; H·C need not equal D.</summary>
    public required int HeadWidth { get; init; }

    /// <summary>Rows of the embedding, V.</summary>
    public required int Vocabulary { get; init; }

    /// <summary>Added to the mean square in every norm.</summary>
    public double RmsNormEpsilon { get; init; } = 1e-6;

    /// <summary>The longest sequence that the model was made for; used for warnings and default lengths only.</summary>
    public int MaxPositions { get; init; } = 2048;

    /// <summary>Whether the output head is the embedding matrix.</summary>
    public bool TiedEmbeddings { get; init; }

    /// <summary>Whether q_proj, k_proj and v_proj have biases.</summary>
    public bool QkvBias { get; init; }

    /// <summary>Whether o_proj has a bias.</summary>
    public bool OutputBias { get; init; }

    /// <summary>Whether the MLP's layers have biases.</summary>
    public bool MlpBias { get; init; }

    /// <summary>Whether queries and keys are normalised per head (Qwen3).</summary>
    public bool QueryKeyNorm { get; init; }

    /// <summary>Rotary embedding: base and scaling.</summary>
    public RopeConfig Rope { get; init; } = new();

    /// <summary>For each layer, how many keys a query sees at most; 0 for all. Empty if no layer has a limit.</summary>
    public IReadOnlyList<int> Windows { get; init; } = [];

    /// <summary>Beginning-of-sequence token, or null.</summary>
    public int? BosId { get; init; }

    /// <summary>Tokens that end generation: those of <c>config.json</c> and of <c>generation_config.json</c> beside it.</summary>
    public IReadOnlyList<int> EosIds { get; init; } = [];

    /// <summary>The element type that the checkpoint was made in, as Hugging Face names it.</summary>
    public string StoredType { get; init; } = "float32";

    /// <summary>The whole file: what is written back beside a merged or quantised model.</summary>
    public string Json { get; init; } = "{}";

    /// <summary>Heads, width, scale and window of one layer's attention.</summary>
    public AttentionShape Attention(int layer) =>
        new(Heads, KeyValueHeads, HeadWidth, 1 / Math.Sqrt(HeadWidth), layer < Windows.Count ? Windows[layer] : 0);

    /// <summary>Reads a <c>config.json</c>.</summary>
    /// <exception cref="InvalidDataException">Not JSON, a field missing or out of range, or a feature that is not supported; the message names file and field.</exception>
    public static ModelConfig Load(string path)
    {
        string text = ReadSmall(path);
        var config = Parse(path, text, Read) with { Json = text };

        // Chat models often name more end tokens there than in config.json.
        string generation = Path.Combine(Path.GetDirectoryName(path)!, "generation_config.json");
        return File.Exists(generation)
            ? config with { EosIds = [.. config.EosIds.Union(Parse(generation, ReadSmall(generation), fields => fields.TokenIds("eos_token_id")))] }
            : config;
    }

    static string ReadSmall(string path)
    {
        const long limit = 16 << 20;
        long length = new FileInfo(path).Length;
        return length <= limit ? File.ReadAllText(path) : throw new InvalidDataException($"{path}: has {length} bytes, expected at most {limit}. It is not a model's configuration.");
    }

    static T Parse<T>(string path, string text, Func<ConfigFields, T> read)
    {
        try
        {
            using var document = JsonDocument.Parse(text);
            return read(new ConfigFields(path, document.RootElement));
        }
        catch (Exception cause) when (cause is JsonException or InvalidOperationException) // the latter: an escaped lone surrogate
        {
            throw new InvalidDataException($"{path}: not valid JSON: {cause.Message} Copy the file again from the model's repository.", cause);
        }
    }

    static ModelConfig Read(ConfigFields fields)
    {
        string type = fields.Text("model_type");
        if (type is not ("llama" or "mistral" or "qwen2" or "qwen3"))
        {
            throw fields.Unsupported("model_type", type, "llama, mistral, qwen2, qwen3");
        }

        fields.Require("hidden_act", "silu");
        fields.RequireAbsentOr("partial_rotary_factor", 1);
        int hidden = fields.Positive("hidden_size");
        int heads = fields.Positive("num_attention_heads");
        int groups = fields.Positive("num_key_value_heads", heads);
        int layers = fields.Positive("num_hidden_layers");
        if (heads % groups != 0)
        {
            throw fields.Wrong("num_key_value_heads", $"expected a divisor of num_attention_heads = {heads}, got {groups}");
        }

        if (!fields.Has("head_dim") && type != "qwen3" && hidden % heads != 0)
        {
            throw fields.Wrong("head_dim", $"absent, and hidden_size = {hidden} is not a multiple of num_attention_heads = {heads}");
        }

        int headWidth = fields.Positive("head_dim", type == "qwen3" ? 128 : hidden / heads);
        if (headWidth % 2 != 0)
        {
            throw fields.Wrong("head_dim", $"expected an even number, because RoPE rotates pairs, got {headWidth}");
        }

        if ((long)heads * headWidth > ConfigFields.Largest)
        {
            throw fields.Wrong("num_attention_heads", $"{heads} heads of {headWidth} elements are wider than {ConfigFields.Largest}");
        }

        // Mistral has no biases and Qwen2 its own rule, whatever these fields say.
        bool attentionBias = type is "llama" or "qwen3" && fields.Flag("attention_bias", false);
        return new ModelConfig
        {
            ModelType = type,
            Hidden = hidden,
            Intermediate = fields.Positive("intermediate_size"),
            Layers = layers,
            Heads = heads,
            KeyValueHeads = groups,
            HeadWidth = headWidth,
            Vocabulary = fields.Positive("vocab_size"),
            RmsNormEpsilon = fields.Number("rms_norm_eps", 1e-6),
            MaxPositions = fields.Positive("max_position_embeddings", 2048),
            TiedEmbeddings = fields.Flag("tie_word_embeddings", false),
            QkvBias = type == "qwen2" || attentionBias,
            OutputBias = attentionBias,
            MlpBias = type == "llama" && fields.Flag("mlp_bias", false),
            QueryKeyNorm = type == "qwen3",
            Rope = RopeConfig.Read(fields),
            Windows = ReadWindows(fields, type, layers),
            BosId = fields.TokenIds("bos_token_id").Cast<int?>().FirstOrDefault(),
            EosIds = fields.TokenIds("eos_token_id"),
            StoredType = fields.Text("torch_dtype", fields.Text("dtype", "float32")),
        };
    }

    // Mistral windows every layer. Qwen has the field but windows only if use_sliding_window says so, and then only the layers from max_window_layers on.
    // Absent fields have the defaults of transformers; a window of null means none.
    static int[] ReadWindows(ConfigFields fields, string type, int layers)
    {
        bool used = type == "mistral" || (type is "qwen2" or "qwen3" && fields.Flag("use_sliding_window", false));
        if (!used || fields.IsNull("sliding_window"))
        {
            return [];
        }

        int window = fields.Positive("sliding_window", 4096), full = type == "mistral" ? 0 : fields.Whole("max_window_layers", 28);
        var kinds = fields.Texts("layer_types");
        var windows = new int[layers];
        for (int layer = 0; layer < layers; layer++)
        {
            bool here = kinds.Count == layers ? kinds[layer] == "sliding_attention" : layer >= full;
            windows[layer] = here ? window : 0;
        }

        return windows;
    }
}
