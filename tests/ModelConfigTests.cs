using System.Text.Json.Nodes;
using CsCheck;
using IlgpuPeft.Models;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What is read from <c>config.json</c>, and what is refused.</summary>
public class ModelConfigTests
{
    [Theory]
    [InlineData("model_type", null, "config.json: model_type: the field is missing")]
    [InlineData("model_type", "\"gpt2\"", "config.json: model_type: 'gpt2' is not supported, expected one of: llama, mistral, qwen2, qwen3")]
    [InlineData("model_type", "7", "config.json: model_type: expected text, got 7")]
    [InlineData("hidden_act", "\"gelu\"", "config.json: hidden_act: 'gelu' is not supported, expected one of: silu")]
    [InlineData("partial_rotary_factor", "0.5", "config.json: partial_rotary_factor: '0.5' is not supported")]
    [InlineData("rope_parameters", "{\"rope_type\": \"default\", \"partial_rotary_factor\": 0.25}", "config.json: rope_parameters.partial_rotary_factor: '0.25' is not supported")]
    [InlineData("rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4}", "config.json: rope_scaling.rope_type: 'yarn' is not supported, expected one of: default, linear, llama3")]
    [InlineData("rope_scaling", "{\"type\": \"dynamic\", \"factor\": 4}", "config.json: rope_scaling.rope_type: 'dynamic' is not supported")]
    [InlineData("rope_scaling", "{\"type\": \"linear\"}", "config.json: rope_scaling.factor: the field is missing")]
    [InlineData("rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8}", "config.json: rope_scaling.low_freq_factor: the field is missing")]
    [InlineData("rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}", "config.json: rope_scaling.high_freq_factor: expected more than low_freq_factor = 4, got 4")]
    [InlineData("rope_scaling", "[]", "config.json: expected a JSON object at rope_scaling, got Array")]
    [InlineData("rope_theta", "-1", "config.json: rope_theta: expected a positive number, got -1")]
    [InlineData("rope_theta", "1e999", "config.json: rope_theta: expected a positive number, got 1e999")]
    [InlineData("hidden_size", null, "config.json: hidden_size: the field is missing")]
    [InlineData("hidden_size", "0", "config.json: hidden_size: expected a number from 1 to 16777216, got 0")]
    [InlineData("hidden_size", "16777217", "config.json: hidden_size: expected a number from 1 to 16777216, got 16777217")]
    [InlineData("hidden_size", "20.5", "config.json: hidden_size: expected a whole number, got 20.5")]
    [InlineData("hidden_size", "99999999999", "config.json: hidden_size: expected a whole number, got 99999999999")]
    [InlineData("num_key_value_heads", "3", "config.json: num_key_value_heads: expected a divisor of num_attention_heads = 4, got 3")]
    [InlineData("num_key_value_heads", "8", "config.json: num_key_value_heads: expected a divisor of num_attention_heads = 4, got 8")]
    [InlineData("head_dim", "5", "config.json: head_dim: expected an even number, because RoPE rotates pairs, got 5")]
    [InlineData("head_dim", null, "config.json: head_dim: expected an even number, because RoPE rotates pairs, got 5")]
    [InlineData("num_attention_heads", "8388608", "config.json: num_attention_heads: 8388608 heads of 6 elements are wider than 16777216")]
    [InlineData("tie_word_embeddings", "1", "config.json: tie_word_embeddings: expected true or false, got 1")]
    [InlineData("eos_token_id", "[1, \"2\"]", "config.json: eos_token_id: expected token ids, got [1, \"2\"]")]
    [InlineData("torch_dtype", "\"\\ud800\"", "config.json: not valid JSON")]
    public void Load_fieldThatIsWrong_isNamed(string field, string? json, string message)
    {
        var error = Assert.Throws<InvalidDataException>(() => Read(With("llama", field, json)));

        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("", "config.json: not valid JSON")]
    [InlineData("{\"model_type\": ", "config.json: not valid JSON")]
    [InlineData("[]", "config.json: expected a JSON object, got Array")]
    [InlineData("\"llama\"", "config.json: expected a JSON object, got String")]
    public void Load_fileThatIsNoObject_isRefused(string text, string message) =>
        Assert.Contains(message, Assert.Throws<InvalidDataException>(() => Read(text)).Message, StringComparison.Ordinal);

    [Fact]
    public void GenerationConfig_besideIt_addsItsEndTokens()
    {
        using var temp = new TempFolder();
        File.WriteAllText(temp.File("config.json"), TinyModels.Config);
        File.WriteAllText(temp.File("generation_config.json"), """{"eos_token_id": [7, 2, 9]}""");

        Assert.Equal([2, 7, 9], ModelConfig.Load(temp.File("config.json")).EosIds);
    }

    [Fact]
    public void Load_headDimAbsent_isHiddenOverHeads_butWhereTheyDoNotDivideItIsMissed()
    {
        Assert.Equal(10, Read(With("llama", "num_attention_heads", "2", "head_dim", null)).HeadWidth);
        var error = Assert.Throws<InvalidDataException>(() => Read(With("llama", "num_attention_heads", "6", "head_dim", null)));
        Assert.Contains("head_dim: absent, and hidden_size = 20 is not a multiple of num_attention_heads = 6", error.Message, StringComparison.Ordinal);
        Assert.Equal(128, Read(With("qwen3", "head_dim", null)).HeadWidth); // transformers' default
    }

    [Fact]
    public void Load_absentFields_haveTheDefaultsOfTransformers()
    {
        var config = Read(With("llama", "rms_norm_eps", null, "num_key_value_heads", null));

        Assert.Equal((1e-6, 10000.0, 4), (config.RmsNormEpsilon, config.Rope.Theta, config.KeyValueHeads));
        Assert.False(config.TiedEmbeddings);
        Assert.Null(config.BosId);
        Assert.Equal([36], config.EosIds);
    }

    [Fact]
    public void Load_eosTokenIds_areOneOrAList()
    {
        Assert.Equal([2, 5], Read(With("llama", "eos_token_id", "[2, 5]")).EosIds);
        Assert.Empty(Read(With("llama", "eos_token_id", "null")).EosIds);
    }

    [Theory]
    [InlineData("mistral, window", "sliding_window", "9", "9 9")]
    [InlineData("mistral, window", "sliding_window", null, "4096 4096")]
    [InlineData("mistral, window", "sliding_window", "null", "0 0")]
    [InlineData("qwen2", "use_sliding_window", "true", "4 4")]
    [InlineData("qwen2, window from layer 1", "max_window_layers", "1", "0 4")]
    [InlineData("qwen2, window from layer 1", "max_window_layers", null, "0 0")]
    [InlineData("qwen2, window from layer 1", "sliding_window", null, "0 4096")]
    [InlineData("qwen2, window from layer 1", "layer_types", "[\"sliding_attention\", \"full_attention\"]", "4 0")]
    [InlineData("qwen2, window from layer 1", "use_sliding_window", null, "0 0")]
    [InlineData("llama", "sliding_window", "4", "0 0")]
    public void Load_slidingWindow_appliesToTheLayersThatItNames(string name, string field, string? json, string expected)
    {
        var config = Read(With(name, field, json));

        Assert.Equal(expected, $"{config.Attention(0).Window} {config.Attention(1).Window}");
    }

    [Theory]
    [InlineData("llama", true, true, true)]
    [InlineData("mistral, window", false, false, false)]
    [InlineData("qwen2", true, false, false)]
    [InlineData("qwen3", true, true, false)]
    public void Load_biasFields_holdWhereTheArchitectureHasThem(string name, bool qkv, bool output, bool mlp)
    {
        var config = Read(With(name, "attention_bias", "true", "mlp_bias", "true"));

        Assert.Equal((qkv, output, mlp), (config.QkvBias, config.OutputBias, config.MlpBias));
    }

    [Fact]
    public void Load_damagedFile_throwsInvalidDataExceptionOrNothing()
    {
        using var folder = new TempFolder();
        int read = 0, refused = 0;
        string[] texts = [.. Architectures.Configs.Values];
        Gen.Int[0, texts.Length - 1].SelectMany(i => Mutations.Of(texts[i])).Sample(text =>
        {
            string path = folder.File($"{Environment.CurrentManagedThreadId}.json");
            File.WriteAllText(path, text);
            try
            {
                ModelConfig.Load(path);
                Interlocked.Increment(ref read);
            }
            catch (InvalidDataException error)
            {
                Assert.StartsWith(path, error.Message, StringComparison.Ordinal);
                Interlocked.Increment(ref refused);
            }
        }, iter: 5000);

        Assert.True(read > 100 && refused > 100, $"{read} read and {refused} refused: the damage is too small or too large to say anything");
    }

    static string With(string name, params string?[] fields)
    {
        var config = JsonNode.Parse(Architectures.Configs[name])!.AsObject();
        string text = config.ToJsonString();
        for (int i = 0; i < fields.Length; i += 2)
        {
            config.Remove(fields[i]!);
            text = config.ToJsonString();
        }

        // Spliced in as text, because a JSON tree refuses what some tests are about.
        var added = Enumerable.Range(0, fields.Length / 2).Where(i => fields[2 * i + 1] is not null).Select(i => $"\"{fields[2 * i]}\": {fields[2 * i + 1]}, ");
        return "{" + string.Concat(added) + text[1..];
    }

    static ModelConfig Read(string text)
    {
        using var folder = new TempFolder();
        File.WriteAllText(folder.File("config.json"), text);
        return ModelConfig.Load(folder.File("config.json"));
    }
}
