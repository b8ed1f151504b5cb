using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Model folders that are incomplete, damaged or of another model than their configuration says.</summary>
public class PretrainedModelTests
{
    const string Query = "model.layers.1.self_attn.q_proj.weight";

    [Fact]
    public void Load_folderWithoutConfig_saysWhatIsExpected()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();

        Assert.Contains("expected a Hugging Face model folder, found nothing", Assert.Throws<DirectoryNotFoundException>(() => PretrainedModel.Load(folder.File("none"), backend)).Message, StringComparison.Ordinal);
        Assert.Contains("found a folder without config.json", Assert.Throws<DirectoryNotFoundException>(() => PretrainedModel.Load(folder.Path, backend)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_folderWithoutWeights_saysWhatIsExpected()
    {
        using var folder = new TempFolder();
        Architectures.Write(folder.Path, "llama");
        File.Delete(folder.File("model.safetensors"));

        Assert.Contains("has neither model.safetensors nor model.safetensors.index.json", Refusal(folder).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_missingTensor_isNamed()
    {
        using var folder = new TempFolder();
        Rewrite(folder, "llama", (info, values) => info.Name == Query ? null : (info, values));

        var error = Refusal(folder);

        Assert.Equal(Query, error.Tensor);
        Assert.Contains("is missing, but config.json calls for it", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(Query, 20, 24)] // the transposed matrix
    [InlineData("model.embed_tokens.weight", 36, 20)]
    [InlineData("lm_head.weight", 37, 21)]
    [InlineData("model.norm.weight", 19, 1)]
    [InlineData("model.layers.0.mlp.down_proj.weight", 880, 1)]
    public void Load_tensorOfAnotherShape_isNamedWithBothShapes(string name, int rows, int columns)
    {
        using var folder = new TempFolder();
        string was = "";
        Rewrite(folder, "llama", (info, values) =>
        {
            if (info.Name != name)
            {
                return (info, values);
            }

            was = info.ShapeText;
            return (new TensorInfo(name, DType.F32, columns == 1 ? [rows] : [rows, columns]), new float[rows * columns]);
        });

        var error = Refusal(folder);

        Assert.Equal(name, error.Tensor);
        Assert.Contains($"has shape {(columns == 1 ? $"[{rows}]" : $"[{rows}, {columns}]")}, expected {was} from config.json", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_tensorOfIntegers_isNamedWithItsType()
    {
        using var folder = new TempFolder();
        Architectures.Write(folder.Path, "llama");
        using (var files = WeightFiles.Open(folder.Path))
        {
            List<TensorSource> tensors = [.. files.Tensors.Select(info => info.Name == Query
                ? TensorSource.OfBytes(new TensorInfo(Query, DType.I64, [.. info.Shape]), new byte[8 * info.Count])
                : TensorSource.Copy(files, info))];
            SafetensorsWriter.Write(folder.File("other.safetensors"), tensors);
        }

        File.Move(folder.File("other.safetensors"), folder.File("model.safetensors"), overwrite: true);

        Assert.Contains($"{Query}: has element type I64, expected F32, F16, BF16 or F64", Refusal(folder).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("qwen2", "llama")] // biases that llama lacks
    [InlineData("qwen3", "qwen2")]
    [InlineData("llama", "smollm, tied")]
    public void Load_weightsOfAnotherArchitecture_areRefused(string weights, string config)
    {
        using var folder = new TempFolder();
        Architectures.Write(folder.Path, weights);
        File.WriteAllText(folder.File("config.json"), Architectures.Configs[config]);

        Assert.NotNull(Refusal(folder).Tensor);
    }

    [Fact]
    public void Load_unexpectedTensor_isRefused_butAStoredRopeTableOrATiedHeadIsNot()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        Add("model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight");
        PretrainedModel.Load(folder.Path, backend).Dispose();

        Add("model.layers.0.self_attn.gate.weight");
        var error = Refusal(folder);

        Assert.Equal("model.layers.0.self_attn.gate.weight", error.Tensor);
        Assert.Contains("has no place in a llama model (1 such tensors)", error.Message, StringComparison.Ordinal);

        void Add(params string[] names)
        {
            Architectures.Write(folder.Path, "smollm, tied");
            using (var files = WeightFiles.Open(folder.Path))
            {
                SafetensorsWriter.Write(folder.File("other.safetensors"),
                    [.. files.Tensors.Select(info => TensorSource.Copy(files, info)), .. names.Select(name => TensorSource.OfFloats(new TensorInfo(name, DType.F32, 4), () => new float[4]))]);
            }

            File.Move(folder.File("other.safetensors"), folder.File("model.safetensors"), overwrite: true);
        }
    }

    [Theory]
    [InlineData("hidden_size", 20)]
    [InlineData("vocab_size", 37)]
    [InlineData("intermediate_size", 44)]
    [InlineData("num_hidden_layers", 2)]
    public void Load_sizesThatNoFileCouldHold_areRefusedBeforeMemoryIsTaken(string field, int value)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        Architectures.Write(folder.Path, "mistral, window");
        string config = File.ReadAllText(folder.File("config.json"));
        File.WriteAllText(folder.File("config.json"), config.Replace($"\"{field}\": {value}", $"\"{field}\": 16777216", StringComparison.Ordinal));

        var error = Assert.Throws<CheckpointException>(() => PretrainedModel.Load(folder.Path, backend));

        Assert.Contains(field == "num_hidden_layers" ? "model.layers.2.input_layernorm.weight: is missing" : "16777216", error.Message, StringComparison.Ordinal);
        Assert.True(backend.Memory.Peak < 1 << 20, $"{backend.Memory.Peak:n0} bytes were taken");
    }

    [Theory]
    [InlineData("{\"quant_method\": \"gptq\"}", "quant_method is gptq, expected bitsandbytes")]
    [InlineData("{\"load_in_8bit\": true}", "is not a 4-bit configuration")]
    public void Load_anotherQuantisation_isRefusedByName(string section, string message)
    {
        using var folder = new TempFolder();
        Architectures.Write(folder.Path, "llama");
        string config = File.ReadAllText(folder.File("config.json"));
        File.WriteAllText(folder.File("config.json"), "{\"quantization_config\": " + section + "," + config.TrimStart()[1..]);

        Assert.Contains(message, Refusal(folder).Message, StringComparison.Ordinal);
    }

    static CheckpointException Refusal(TempFolder folder)
    {
        using var backend = new HostBackend<float>();
        var error = Assert.Throws<CheckpointException>(() => PretrainedModel.Load(folder.Path, backend));
        Assert.Equal(0, backend.Memory.Live);
        return error;
    }

    static void Rewrite(TempFolder folder, string name, Func<TensorInfo, float[], (TensorInfo, float[])?> change)
    {
        Architectures.Write(folder.Path, name);
        List<(TensorInfo Info, float[] Values)> tensors = [];
        using (var files = WeightFiles.Open(folder.Path))
        {
            foreach (var info in files.Tensors)
            {
                var values = new float[info.Count];
                files.Read(info.Name, values);
                if (change(info, values) is { } kept)
                {
                    tensors.Add(kept);
                }
            }
        }

        SafetensorsWriter.Write(folder.File("model.safetensors"), [.. tensors.Select(x => TensorSource.OfFloats(x.Info, () => x.Values))]);
    }
}
