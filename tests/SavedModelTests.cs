using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Model folders that are written: what goes along, and what is refused before anything is overwritten.</summary>
public sealed class SavedModelTests : IDisposable
{
    const string Up = "model.layers.0.mlp.up_proj.weight";

    readonly TempFolder temp = new();
    readonly HostBackend<float> backend = new();

    string Model => temp.File("model");

    string Adapter => temp.File("adapter");

    public void Dispose()
    {
        backend.Dispose();
        temp.Dispose();
    }

    [Fact]
    public void Companions_ofAModel_areCopiedByteForByte()
    {
        TinyModels.Write(temp);
        byte[] binary = [0, 255, 254, 0x80, 0xc3, 0x28, 13, 10, 0xef, 0xbb, 0xbf, 1]; // no UTF-8 text
        string[] names = ["tokenizer.model", "added_tokens.json", "tokenizer.json", "merges.txt"];
        foreach (string name in names)
        {
            File.WriteAllBytes(Path.Combine(Model, name), [.. binary, (byte)name.Length]);
        }

        SavedModel.Quantize(Model, temp.File("out"), cancel: TestContext.Current.CancellationToken);

        Assert.All(names, name => Assert.Equal([.. binary, (byte)name.Length], File.ReadAllBytes(Path.Combine(temp.File("out"), name))));
    }

    [Theory]
    [InlineData(float.NaN)]
    [InlineData(float.NegativeInfinity)]
    public void Quantisation_ofAWeightThatIsNotFinite_namesFileAndTensor(float value)
    {
        TinyModels.Write(temp);
        Change(Up, values => values[7] = value);
        Action[] calls =
        [
            () => PretrainedModel.Load(Model, backend, WeightStorage.Nf4Double),
            () => SavedModel.Quantize(Model, temp.File("out"), cancel: TestContext.Current.CancellationToken),
            () => Merge(WeightStorage.Nf4),
        ];
        foreach (var call in calls)
        {
            var error = Assert.Throws<CheckpointException>(call);
            Assert.Equal((Path.Combine(Model, "model.safetensors"), Up), (error.File, error.Tensor));
            Assert.Contains("weight 7 is", error.Message, StringComparison.Ordinal);
        }

        Assert.Equal(0, backend.Memory.Live);
    }

    [Fact]
    public void Output_thatIsAFolderBeingRead_isRefusedAndLeftAsItWas()
    {
        TinyModels.Write(temp);
        using var model = PretrainedModel.Load(Model, backend);
        SaveAdapter();
        byte[] before = File.ReadAllBytes(Path.Combine(Model, "model.safetensors"));
        string again = Model + Path.DirectorySeparatorChar, around = Path.Combine(Model, "..", "model");
        Action[] calls =
        [
            () => SavedModel.Quantize(Model, again, cancel: TestContext.Current.CancellationToken),
            () => SavedModel.Merge(Model, Adapter, around, cancel: TestContext.Current.CancellationToken),
            () => SavedModel.Write(model, around, DType.BF16, Model),
        ];

        Assert.All(calls, call => Assert.Contains("is the model that is read", Assert.Throws<ArgumentException>(call).Message, StringComparison.Ordinal));
        Assert.Contains("is the adapter that is read", Assert.Throws<ArgumentException>(() => SavedModel.Merge(Model, Adapter, Adapter, cancel: TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
        Assert.Equal(before, File.ReadAllBytes(Path.Combine(Model, "model.safetensors")));
        Assert.Equal(2, Directory.GetFiles(Adapter).Length);
    }

    [Fact]
    public void Output_thatIsALinkToAFolderBeingRead_isRefusedAndLeftAsItWas()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "making links needs a privilege there");
        TinyModels.Write(temp);
        using var model = PretrainedModel.Load(Model, backend);
        SaveAdapter();
        byte[] before = File.ReadAllBytes(Path.Combine(Model, "model.safetensors"));
        string link = Directory.CreateSymbolicLink(temp.File("link"), Model).FullName, toAdapter = Directory.CreateSymbolicLink(temp.File("second"), Adapter).FullName;
        (Action Call, string Read)[] calls =
        [
            (() => SavedModel.Quantize(Model, link), "model"),
            (() => SavedModel.Quantize(link, Model), "model"),
            (() => SavedModel.Merge(Model, Adapter, link), "model"),
            (() => SavedModel.Write(model, link, DType.BF16, Model), "model"),
            (() => SavedModel.Merge(Model, Adapter, toAdapter), "adapter"),
        ];

        Assert.All(calls, row => Assert.Contains($"is the {row.Read} that is read", Assert.Throws<ArgumentException>(row.Call).Message, StringComparison.Ordinal));
        Assert.Equal(before, File.ReadAllBytes(Path.Combine(Model, "model.safetensors")));
        Assert.Equal(2, Directory.GetFiles(Adapter).Length);
    }

    [Fact]
    public void Merge_ofAModelWhoseConfigurationIsDamaged_writesNothing()
    {
        TinyModels.Write(temp);
        SaveAdapter();
        File.WriteAllText(Path.Combine(Model, "config.json"), "{ \"model_type\": ");

        Assert.Throws<InvalidDataException>(() => Merge(WeightStorage.AsStored));

        Assert.False(Directory.Exists(temp.File("out")));
    }

    [Fact]
    public void Write_ofANf4Model_isRefusedAndWritesNothing()
    {
        TinyModels.Write(temp);
        using var model = PretrainedModel.Load(Model, backend, WeightStorage.Nf4);

        Assert.Contains("is NF4, expected a dense matrix", Assert.Throws<ArgumentException>(() => SavedModel.Write(model, temp.File("out"), DType.F32, null)).Message, StringComparison.Ordinal);

        Assert.False(Directory.Exists(temp.File("out")));
    }

    [Fact]
    public void Write_inF32_givesTheBytesOfTheModelThatWasLoaded()
    {
        TinyModels.Write(temp);
        using var model = PretrainedModel.Load(Model, backend);

        SavedModel.Write(model, temp.File("out"), DType.F32, Model);

        using var expected = WeightFiles.Open(Model);
        using var actual = WeightFiles.Open(temp.File("out"));
        Assert.Equal(expected.Tensors.Select(info => info.Name).Order(), actual.Tensors.Select(info => info.Name).Order());
        Assert.All(expected.Tensors, info => Assert.True(expected.Bytes(info.Name).SequenceEqual(actual.Bytes(info.Name)), info.Name));
    }

    [Fact]
    public void RandomModel_ofAConfigurationThatIsRefused_leavesTheEarlierModel()
    {
        TinyModels.Write(temp);

        Assert.Throws<InvalidDataException>(() => RandomModel.Write("""{ "model_type": "gpt2" }""", Model));

        Assert.Equal(TinyModels.Config, File.ReadAllText(Path.Combine(Model, "config.json")));
        Assert.Equal(["config.json", "model.safetensors"], Directory.GetFiles(Model).Select(Path.GetFileName).Order());
    }

    void Merge(WeightStorage storage)
    {
        if (!Directory.Exists(Adapter))
        {
            SaveAdapter();
        }

        SavedModel.Merge(Model, Adapter, temp.File("out"), mergeBase: storage, cancel: TestContext.Current.CancellationToken);
    }

    void SaveAdapter()
    {
        using var device = new HostBackend<float>();
        using var model = PretrainedModel.Load(Model, device);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 2 });
        PretrainedAdapter.Save(adapter, Adapter, "base");
    }

    void Change(string name, Action<float[]> change)
    {
        using (var files = WeightFiles.Open(Model))
        {
            SafetensorsWriter.Write(temp.File("changed"), [.. files.Tensors.Select(info =>
            {
                var values = new float[info.Count];
                files.Read(info.Name, values);
                if (info.Name == name)
                {
                    change(values);
                }

                return TensorSource.OfFloats(info, () => values);
            })]);
        }

        File.Move(temp.File("changed"), Path.Combine(Model, "model.safetensors"), overwrite: true);
    }
}
