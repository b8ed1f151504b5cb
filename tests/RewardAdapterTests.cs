using System.Text.Json.Nodes;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The scalar head of a reward model lies in the adapter's own files, as PEFT puts it there, and is never lost, made up or mistaken.</summary>
public sealed class RewardAdapterTests : IDisposable
{
    const string HeadKey = "base_model.model.score.weight";
    const int Hidden = 20;

    readonly TempFolder temp = new();
    readonly HostBackend<float> backend = new();
    readonly CausalLm model;

    public RewardAdapterTests()
    {
        Architectures.Write(temp.File("model"), "llama");
        model = PretrainedModel.Load(temp.File("model"), backend);
    }

    public void Dispose()
    {
        model.Dispose();
        backend.Dispose();
        temp.Dispose();
    }

    string Folder => temp.File("adapter");

    string ConfigFile => Path.Combine(Folder, PeftFiles.ConfigName);

    AdapterSet NewSet(bool scalarHead = true) => new(model, new LoraConfig { Rank = 3, Targets = ["q_proj", "v_proj"] }, seed: 6, scalarHead);

    float[] SavedHead(bool scalarHead = true)
    {
        using var set = NewSet(scalarHead);
        PretrainedAdapter.Save(set, Folder, "some/base");
        return set.Head is { } head ? backend.ReadFloats(head.Value) : [];
    }

    CheckpointException Refused(bool scalarHead = true) => Assert.Throws<CheckpointException>(() => PretrainedAdapter.Load(model, Folder, scalarHead: scalarHead));

    [Fact]
    public void Save_writesTheHeadWhereAndHowPeftDoes()
    {
        float[] head = SavedHead();

        var config = JsonNode.Parse(File.ReadAllText(ConfigFile))!;
        Assert.Equal("SEQ_CLS", (string?)config["task_type"]);
        Assert.Equal(["classifier", "score"], config["modules_to_save"]!.AsArray().Select(name => (string?)name));
        using var file = Safetensors.Open(Path.Combine(Folder, PeftFiles.WeightsName));
        Assert.Equal((DType.F32, "[1, 20]"), (file.Find(HeadKey)!.Type, file.Find(HeadKey)!.ShapeText));
        var stored = new float[Hidden];
        file.Read(HeadKey, stored);
        Assert.Equal(head, stored);
        Assert.Equal(9, file.Tensors.Count);
    }

    [Fact]
    public void Save_thenLoadOrRestore_keepsEveryBit()
    {
        using var saved = NewSet();
        PretrainedAdapter.Save(saved, Folder, "some/base");
        float[] expected = backend.ReadFloats(saved.Parameters.Values);
        Assert.Equal(Hidden, backend.ReadFloats(saved.Head!.Value).Where(x => x != 0).Distinct().Count());

        using var loaded = PretrainedAdapter.Load(model, Folder, scalarHead: true);
        using var other = new AdapterSet(model, saved.Config, seed: 99, scalarHead: true);
        PretrainedAdapter.Restore(other, Folder);

        Assert.Equal(expected, backend.ReadFloats(loaded.Parameters.Values));
        Assert.Equal(expected, backend.ReadFloats(other.Parameters.Values));
        PretrainedAdapter.Save(loaded, temp.File("again"), "some/base");
        foreach (string name in (string[])[PeftFiles.ConfigName, PeftFiles.WeightsName])
        {
            Assert.Equal(File.ReadAllBytes(Path.Combine(Folder, name)), File.ReadAllBytes(Path.Combine(temp.File("again"), name)));
        }
    }

    [Theory]
    [InlineData("SEQ_CLS", "[\"score\"]")]
    [InlineData("SEQ_CLS", "[\"score\", \"classifier\", \"score\"]")] // what PEFT writes where the caller named the head too
    [InlineData("SEQ_CLS", "null")]
    [InlineData(null, "[\"score\"]")]
    public void Load_takesEveryFormThatPeftWrites(string? task, string modules)
    {
        float[] head = SavedHead();
        Edit("task_type", task is null ? null : JsonValue.Create(task));
        Edit("modules_to_save", JsonNode.Parse(modules));
        using var loaded = PretrainedAdapter.Load(model, Folder, scalarHead: true);
        Assert.Equal(head, backend.ReadFloats(loaded.Head!.Value));
    }

    [Fact]
    public void Load_withoutItsHead_isRefusedRatherThanMadeUp()
    {
        SavedHead();
        Rewrite(HeadKey, null);
        string message = Refused().Message;
        Assert.Contains($"{HeadKey}: is missing, expected the head [1, D] of an adapter with task_type SEQ_CLS", message, StringComparison.Ordinal);
        Assert.Contains("modules_to_save: [\"score\"]", message, StringComparison.Ordinal);
        using var set = NewSet();
        Assert.Contains("is missing", Assert.Throws<CheckpointException>(() => PretrainedAdapter.Restore(set, Folder)).Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(2, Hidden, "has shape [2, 20], expected [1, D]: one score")]
    [InlineData(1, Hidden + 1, "score.weight: has 21 weights, expected 20. The adapter is for another model")]
    public void Load_headOfAnotherShape_isRefused(int rows, int columns, string message)
    {
        SavedHead();
        Rewrite(HeadKey, TensorSource.OfFloats(new TensorInfo(HeadKey, DType.F32, rows, columns), () => new float[rows * columns]));
        Assert.Contains(message, Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_headThatTheConfigurationDenies_isRefused()
    {
        SavedHead();
        Edit("task_type", JsonValue.Create("CAUSAL_LM"));
        Edit("modules_to_save", null);
        Assert.Contains("is a head that scores texts, but adapter_config.json has task_type CAUSAL_LM, expected SEQ_CLS", Refused(scalarHead: false).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_adapterOfTheOtherKind_isRefused()
    {
        SavedHead();
        Assert.Contains("scores texts and cannot continue them, expected one of a language model", Refused(scalarHead: false).Message, StringComparison.Ordinal);
        using (var plain = NewSet(scalarHead: false))
        {
            Assert.Contains("cannot continue them", Assert.Throws<CheckpointException>(() => PretrainedAdapter.Restore(plain, Folder)).Message, StringComparison.Ordinal);
        }

        SavedHead(scalarHead: false);
        Assert.Contains("has task_type CAUSAL_LM, expected SEQ_CLS: the adapter of a language model has no head", Refused(scalarHead: true).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_otherWholeModules_areStillRefused()
    {
        SavedHead();
        Edit("modules_to_save", new JsonArray("score", "embed_tokens"));
        Assert.Contains("modules_to_save asks for whole modules trained beside the adapter", Refused().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Merge_ofARewardModel_isRefusedAndWritesNothing()
    {
        SavedHead();
        string message = Assert.Throws<CheckpointException>(() => SavedModel.Merge(temp.File("model"), Folder, temp.File("merged"), cancel: TestContext.Current.CancellationToken)).Message;
        Assert.Contains("cannot be merged into a language model, where its head has no place", message, StringComparison.Ordinal);
        Assert.False(Directory.Exists(temp.File("merged")));
    }

    [Fact]
    public void Write_headAndTaskThatDisagree_areRefused()
    {
        SavedHead();
        var (adapter, _) = PeftFiles.Read(Folder);
        Assert.Contains("expected a head with SEQ_CLS", Assert.Throws<ArgumentException>(() => PeftFiles.Write(Folder, adapter with { Head = null })).Message, StringComparison.Ordinal);
        var plain = adapter with { Config = adapter.Config with { TaskType = "CAUSAL_LM" } };
        Assert.Contains("there is a head, expected a head with SEQ_CLS", Assert.Throws<ArgumentException>(() => PeftFiles.Write(Folder, plain)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void TrainedWeights_knowTheHead()
    {
        using var scoring = NewSet();
        using var plain = NewSet(scalarHead: false);
        var weights = TrainedWeights.Of(scoring, "some/base");
        Assert.Contains(scoring.Head!, weights.MustLearn);
        Assert.StartsWith("LoRA of 4 layers and a scalar head, ", weights.Description, StringComparison.Ordinal);
        Assert.StartsWith("LoRA of 4 layers, ", TrainedWeights.Of(plain, "some/base").Description, StringComparison.Ordinal);
    }

    void Edit(string key, JsonNode? value)
    {
        var json = JsonNode.Parse(File.ReadAllText(ConfigFile))!.AsObject();
        json[key] = value;
        File.WriteAllText(ConfigFile, json.ToJsonString());
    }

    // Writes the weight file anew with another tensor under a name, or without it.
    void Rewrite(string name, TensorSource? replacement)
    {
        string path = Path.Combine(Folder, PeftFiles.WeightsName);
        List<TensorSource> tensors = replacement is null ? [] : [replacement];
        using (var file = Safetensors.Open(path))
        {
            foreach (var info in file.Tensors.Where(info => info.Name != name))
            {
                var values = new float[info.Count];
                file.Read(info.Name, values);
                tensors.Add(TensorSource.OfFloats(info, () => values));
            }
        }

        SafetensorsWriter.Write(path, tensors);
    }
}
