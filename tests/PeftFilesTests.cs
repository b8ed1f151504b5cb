using System.Text.Json.Nodes;
using CsCheck;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

public class PeftFilesTests
{
    const string Module = "model.layers.0.self_attn.q_proj", KeyA = $"base_model.model.{Module}.lora_A.weight", KeyB = $"base_model.model.{Module}.lora_B.weight";

    [Fact]
    public void Read_an_adapter_in_PEFT_format_gives_its_configuration_and_matrices()
    {
        string folder = TestAssets.Path("golden/cases/lora/adapter");
        var (adapter, warnings) = PeftFiles.Read(folder);
        Assert.Empty(warnings);
        Assert.Equal(8, adapter.Config.R);
        Assert.Equal(16, adapter.Config.LoraAlpha);
        Assert.Equal(2, adapter.Config.ScalingOf(Module));
        Assert.Equal(["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"], adapter.Config.TargetModules!.Names!);
        Assert.Equal("../model", adapter.Config.BaseModelNameOrPath);
        var down = adapter.Pairs[0];
        Assert.Equal(("model.layers.0.mlp.down_proj", 8, 160, 64), (down.Module, down.Rank, down.Inputs, down.Outputs));
        using var file = Safetensors.Open(Path.Combine(folder, PeftFiles.WeightsName));
        Assert.Equal(file.Tensors.Count, adapter.Pairs.Count * 2);
        var expected = new float[8 * 160];
        file.Read("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight", expected);
        Assert.Equal(expected, down.A);
    }

    [Fact]
    public void Write_an_adapter_that_was_read_gives_the_same_weight_file()
    {
        string source = TestAssets.Path("golden/cases/lora/adapter");
        using var folder = new TempFolder();
        PeftFiles.Write(folder.Path, PeftFiles.Read(source).Adapter);
        Assert.Equal(File.ReadAllBytes(Path.Combine(source, PeftFiles.WeightsName)), File.ReadAllBytes(folder.File(PeftFiles.WeightsName)));
    }

    [Fact]
    public void Write_puts_only_the_keys_of_PEFT_0_4_in_sorted_order()
    {
        using var folder = new TempFolder();
        PeftFiles.Write(folder.Path, Sample());
        const string expected = """
            {
              "base_model_name_or_path": "base",
              "bias": "none",
              "fan_in_fan_out": false,
              "inference_mode": true,
              "init_lora_weights": true,
              "lora_alpha": 16,
              "lora_dropout": 0.05,
              "modules_to_save": null,
              "peft_type": "LORA",
              "r": 2,
              "revision": null,
              "target_modules": [
                "k_proj",
                "q_proj"
              ],
              "task_type": "CAUSAL_LM"
            }

            """;
        Assert.Equal(expected.ReplaceLineEndings("\n"), File.ReadAllText(folder.File(PeftFiles.ConfigName)));
        using var file = Safetensors.Open(folder.File(PeftFiles.WeightsName));
        Assert.Equal("pt", file.Metadata["format"]);
        Assert.Equal([KeyA, KeyB], file.Tensors.Select(info => info.Name));
        Assert.Equal([2, 3], file.Find(KeyA)!.Shape);
        Assert.Equal([4, 2], file.Find(KeyB)!.Shape);
    }

    [Fact]
    public void Write_then_read_keeps_every_setting()
    {
        using var folder = new TempFolder();
        var adapter = Sample(config => config with
        {
            UseRsLora = true,
            FanInFanOut = true,
            InitLoraWeights = "gaussian",
            LoraAlpha = 12.5,
            RankPattern = new Dictionary<string, double> { ["q_proj"] = 2, [@"layers\.1\..*"] = 4 },
            AlphaPattern = new Dictionary<string, double> { ["layers.0.self_attn.q_proj"] = 3 },
            R = 8,
            TargetModules = new ModuleSelection(null, @".*\.(q|k)_proj"),
            ExcludeModules = new ModuleSelection(["lm_head"]),
            LayersToTransform = [0, 1],
            LayersPattern = new ModuleSelection(null, "layers"),
            Revision = "main",
            TaskType = null,
            BaseModelNameOrPath = "modelle/größe",
        });
        PeftFiles.Write(folder.Path, adapter);
        Assert.All(File.ReadAllBytes(folder.File(PeftFiles.ConfigName)), value => Assert.InRange(value, 0, 127));
        var (read, warnings) = PeftFiles.Read(folder.Path);
        Assert.Empty(warnings);
        Assert.Equivalent(adapter, read, strict: true);
        Assert.Equal(3 / Math.Sqrt(2), read.Config.ScalingOf(Module));
    }

    [Fact]
    public void RankOf_matches_whole_parts_at_the_end_of_the_path()
    {
        var config = new PeftConfig { R = 8, LoraAlpha = 16, RankPattern = new Dictionary<string, double> { ["q_proj"] = 4, [@"layers\.1[01]\.mlp\.up_proj"] = 2, ["a|b"] = 1 } };
        Assert.Equal(4, config.RankOf("model.layers.0.self_attn.q_proj"));
        Assert.Equal(4, config.RankOf("q_proj"));
        Assert.Equal(8, config.RankOf("model.layers.0.self_attn.xq_proj"));
        Assert.Equal(8, config.RankOf("model.q_proj.inner"));
        Assert.Equal(2, config.RankOf("model.layers.11.mlp.up_proj"));
        Assert.Equal(8, config.RankOf("model.layers.1.mlp.up_proj"));
        Assert.Equal(1, config.RankOf("x.b"));
        Assert.Equal(4.0, config.ScalingOf("q_proj"));
        Assert.Equal(4.0, (config with { UseRsLora = true, RankPattern = new Dictionary<string, double>(), R = 16 }).ScalingOf("q_proj"));
    }

    [Fact]
    public void Read_unknown_keys_become_warnings_and_newer_defaults_do_not()
    {
        using var folder = Saved();
        Edit(folder, json =>
        {
            json["some_new_thing"] = 1;
            foreach (string key in (string[])["use_dora", "lora_bias", "use_qalora"])
            {
                json[key] = false;
            }

            foreach (string key in (string[])["auto_mapping", "layer_replication", "alora_invocation_tokens", "arrow_config", "corda_config", "megatron_config", "trainable_token_indices"])
            {
                json[key] = null;
            }

            json["modules_to_save"] = new JsonArray();
            json["loftq_config"] = new JsonObject();
            json["peft_version"] = "0.19.1";
            json["megatron_core"] = "megatron.core";
        });
        var (_, warnings) = PeftFiles.Read(folder.Path);
        Assert.Contains("key some_new_thing is not known", Assert.Single(warnings));
    }

    [Theory]
    [InlineData("peft_type", "\"IA3\"", "peft_type is IA3, expected LORA")]
    [InlineData("peft_type", "null", "peft_type is absent, expected LORA")]
    [InlineData("use_dora", "true", "DoRA")]
    [InlineData("bias", "\"all\"", "bias is all, expected none")]
    [InlineData("modules_to_save", "[\"lm_head\"]", "whole modules trained beside the adapter")]
    [InlineData("lora_bias", "true", "a bias on lora_B")]
    [InlineData("layer_replication", "[[0,4],[2,5]]", "layer replication")]
    [InlineData("alora_invocation_tokens", "[1,2]", "activated LoRA")]
    [InlineData("trainable_token_indices", "[1]", "trainable tokens")]
    [InlineData("target_parameters", "[\"experts\"]", "LoRA on bare parameters")]
    [InlineData("init_lora_weights", "\"pissa_niter_16\"", "init_lora_weights is pissa_niter_16, which also changes the base weights")]
    [InlineData("init_lora_weights", "3", "init_lora_weights is 3, expected true, false or")]
    [InlineData("r", "0", "r is 0, expected a positive rank")]
    [InlineData("r", "\"8\"", "r is \"8\", expected a 32-bit integer")]
    [InlineData("lora_alpha", "[]", "expected a finite number")]
    [InlineData("lora_alpha", "1e999", "expected a finite number")]
    [InlineData("lora_dropout", "1", "lora_dropout is 1, expected a probability")]
    [InlineData("target_modules", "{}", "expected a list of strings")]
    [InlineData("rank_pattern", "{\"q_proj\": 2.5}", "expected a positive rank")]
    [InlineData("rank_pattern", "{\"(\": 2}", "which is not a regular expression")]
    [InlineData("rank_pattern", "{\"(([a-z._0-9]+)+)+!\": 2}", "takes more than 1 s")]
    [InlineData("alpha_pattern", "{\"(([a-z._0-9]+)+)+!\": 2}", "takes more than 1 s")]
    [InlineData("rank_pattern", "{\"q_proj\": 3}", "expected [3, in] and [out, 3]")]
    [InlineData("use_rslora", "1", "expected true or false")]
    public void Read_what_is_not_supported_or_wrong_is_refused_by_name(string key, string value, string message)
    {
        using var folder = Saved();
        string file = folder.File(PeftFiles.ConfigName);
        var json = JsonNode.Parse(File.ReadAllText(file))!.AsObject();
        json.Remove(key);
        string text = json.ToJsonString();
        File.WriteAllText(file, $"{text[..^1]},\"{key}\":{value}}}");
        Assert.Contains(message, Assert.Throws<CheckpointException>(() => PeftFiles.Read(folder.Path)).Message);
    }

    [Theory]
    [InlineData("base_model.model.x.lora_magnitude_vector", "belongs to DoRA")]
    [InlineData("base_model.model.model.embed_tokens.lora_embedding_A", "adapts an embedding")]
    [InlineData("base_model.model.x.lora_B.bias", "is a bias of lora_B")]
    [InlineData("base_model.model.x.lora_A.default.weight", "does not have the form")]
    [InlineData("model.x.lora_A.weight", "does not have the form")]
    [InlineData("base_model.model.lora_A.weight", "does not have the form")]
    [InlineData("base_model.model.lm_head.weight", "is a whole weight")]
    public void Read_tensors_that_would_be_ignored_are_refused_by_name(string name, string message)
    {
        using var folder = Saved(Floats(KeyA, 2, 3), Floats(KeyB, 4, 2), Floats(name, 2, 2));
        Assert.Contains($"{name}: {message}", Assert.Throws<CheckpointException>(() => PeftFiles.Read(folder.Path)).Message);
    }

    [Fact]
    public void Read_half_pairs_and_wrong_shapes_are_refused_by_name()
    {
        foreach (var (tensors, message) in new (TensorSource[], string)[]
        {
            ([Floats(KeyA, 2, 3)], $"{KeyB}: is missing beside lora_A.weight"),
            ([Floats(KeyB, 4, 2)], $"{KeyA}: is missing beside lora_B.weight"),
            ([Floats(KeyA, 3, 3), Floats(KeyB, 4, 3)], "has A [3, 3] and B [4, 3], expected [2, in] and [out, 2]"),
            ([Floats(KeyA, 2, 3), Floats(KeyB, 2, 4)], "has A [2, 3] and B [2, 4]"),
            ([Floats(KeyA, 2, 3, 1), Floats(KeyB, 4, 2)], "has A [2, 3, 1]"),
            ([Floats(KeyA, 2, 0), Floats(KeyB, 4, 2)], "has A [2, 0]"),
            ([TensorSource.OfBytes(new TensorInfo(KeyA, DType.U8, 2, 3), new byte[6]), Floats(KeyB, 4, 2)], "is U8, expected F32"),
            ([], "has no LoRA tensors"),
        })
        {
            using var folder = Saved(tensors);
            Assert.Contains(message, Assert.Throws<CheckpointException>(() => PeftFiles.Read(folder.Path)).Message);
        }
    }

    [Fact]
    public void Read_half_precision_adapters_as_floats()
    {
        using var folder = Saved(
            TensorSource.OfFloats(new TensorInfo(KeyA, DType.BF16, 2, 3), () => new float[] { 1, 2, 3, 4, 5, 6 }),
            TensorSource.OfFloats(new TensorInfo(KeyB, DType.F16, 4, 2), () => new float[] { 0.5f, 1, 2, 3, 4, 5, 6, 7 }));
        var pair = Assert.Single(PeftFiles.Read(folder.Path).Adapter.Pairs);
        Assert.Equal([1, 2, 3, 4, 5, 6], pair.A);
        Assert.Equal([0.5f, 1, 2, 3, 4, 5, 6, 7], pair.B);
    }

    [Fact]
    public void Read_a_folder_without_one_of_the_files_says_which()
    {
        using var folder = Saved();
        File.Delete(folder.File(PeftFiles.WeightsName));
        Assert.Contains($"{PeftFiles.WeightsName}: no such file", Assert.Throws<CheckpointException>(() => PeftFiles.Read(folder.Path)).Message);
        File.WriteAllText(folder.File("adapter_model.bin"), "");
        Assert.Contains("safe_serialization=True", Assert.Throws<CheckpointException>(() => PeftFiles.Read(folder.Path)).Message);
        File.Delete(folder.File(PeftFiles.ConfigName));
        Assert.Contains($"{PeftFiles.ConfigName}: no such file", Assert.Throws<CheckpointException>(() => PeftFiles.Read(folder.Path)).Message);
    }

    [Fact]
    public void Write_refuses_sizes_that_do_not_fit_and_absent_targets_before_it_touches_the_folder()
    {
        using var folder = Saved();
        byte[] weights = File.ReadAllBytes(folder.File(PeftFiles.WeightsName)), config = File.ReadAllBytes(folder.File(PeftFiles.ConfigName));
        var sample = Sample();
        Assert.Contains("expected A [2, 3]", Assert.Throws<ArgumentException>(() => PeftFiles.Write(folder.Path, sample with { Pairs = [sample.Pairs[0] with { A = new float[5] }] })).Message);
        Assert.Contains("target_modules is absent", Assert.Throws<ArgumentException>(() => PeftFiles.Write(folder.Path, Sample(c => c with { TargetModules = null }))).Message);
        Assert.Equal(weights, File.ReadAllBytes(folder.File(PeftFiles.WeightsName)));
        Assert.Equal(config, File.ReadAllBytes(folder.File(PeftFiles.ConfigName)));
    }

    [Fact]
    public void Write_that_fails_at_the_configuration_leaves_an_adapter_that_loads()
    {
        using var folder = new TempFolder();
        Directory.CreateDirectory(folder.File(PeftFiles.ConfigName)); // the rename over a folder fails
        Assert.Throws<IOException>(() => PeftFiles.Write(folder.Path, Sample()));
        Directory.Delete(folder.File(PeftFiles.ConfigName));
        using var earlier = Saved();
        File.Copy(earlier.File(PeftFiles.ConfigName), folder.File(PeftFiles.ConfigName));
        Assert.Equal(Sample().Pairs[0].B, PeftFiles.Read(folder.Path).Adapter.Pairs[0].B);
        Assert.Equal(2, Directory.EnumerateFileSystemEntries(folder.Path).Count());
    }

    [Fact]
    public void Read_any_mutated_configuration_works_or_throws_CheckpointException()
    {
        using var folder = Saved();
        byte[] weights = File.ReadAllBytes(folder.File(PeftFiles.WeightsName)), config = File.ReadAllBytes(folder.File(PeftFiles.ConfigName));
        int refused = 0;
        Gen.Select(Gen.Select(Gen.Int[0, config.Length - 1], Gen.Byte[32, 126]).Array[0, 3], Gen.OneOf(Gen.Const(config.Length), Gen.Int[0, config.Length])).Sample((changes, length) =>
        {
            byte[] changed = [.. config];
            foreach (var (index, value) in changes)
            {
                changed[index] = value;
            }

            string path = folder.File(Guid.NewGuid().ToString("N"));
            Directory.CreateDirectory(path);
            File.WriteAllBytes(Path.Combine(path, PeftFiles.ConfigName), changed[..length]);
            File.WriteAllBytes(Path.Combine(path, PeftFiles.WeightsName), weights);
            try
            {
                _ = PeftFiles.Read(path);
            }
            catch (CheckpointException)
            {
                Interlocked.Increment(ref refused);
            }
            finally
            {
                Directory.Delete(path, recursive: true);
            }
        }, iter: 1000);
        Assert.InRange(refused, 300, 999);
    }

    static PeftAdapter Sample(Func<PeftConfig, PeftConfig>? change = null)
    {
        var config = new PeftConfig { R = 2, LoraAlpha = 16, LoraDropout = 0.05, TargetModules = new ModuleSelection(["k_proj", "q_proj"]), BaseModelNameOrPath = "base" };
        return new PeftAdapter(change?.Invoke(config) ?? config, [new LoraPair(Module, 2, 3, 4, [1, 2, 3, 4, 5, 6], [.. Enumerable.Range(0, 8).Select(i => i * 0.1f)])]);
    }

    static TempFolder Saved()
    {
        var folder = new TempFolder();
        PeftFiles.Write(folder.Path, Sample());
        return folder;
    }

    static TempFolder Saved(params TensorSource[] tensors)
    {
        var folder = Saved();
        SafetensorsWriter.Write(folder.File(PeftFiles.WeightsName), tensors);
        return folder;
    }

    static TensorSource Floats(string name, params long[] shape)
    {
        var info = new TensorInfo(name, DType.F32, shape);
        return TensorSource.OfFloats(info, () => new float[info.Count]);
    }

    static void Edit(TempFolder folder, Action<JsonObject> edit)
    {
        string file = folder.File(PeftFiles.ConfigName);
        var json = JsonNode.Parse(File.ReadAllText(file))!.AsObject();
        edit(json);
        File.WriteAllText(file, json.ToJsonString());
    }
}
