using System.Text.Json.Nodes;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Adapters on a model: saved and read back, merged, and refused where they belong to another model.</summary>
public class PretrainedAdapterTests
{
    static readonly int[] Ids = Architectures.Ids(17, 1);

    [Theory]
    [InlineData("all-linear", false)]
    [InlineData("q_proj,mlp.down_proj", true)]
    public void Save_thenLoad_givesTheSameLogitsAndConfiguration(string targets, bool rankStabilised)
    {
        using var subject = new Subject("qwen2");
        var config = new LoraConfig { Rank = 3, Alpha = 5.5, Dropout = 0.1, Targets = targets.Split(','), RankStabilised = rankStabilised };
        double[] plain = subject.Logits(), expected;
        int modules;
        using (var adapter = subject.Adapt(config))
        {
            expected = subject.Logits();
            modules = adapter.Updates.Count();
            PretrainedAdapter.Save(adapter, subject.AdapterFolder, "some/base");
        }

        Compare.Same(plain, subject.Logits()); // disposing took the adapter out again
        using var loaded = PretrainedAdapter.Load(subject.Model, subject.AdapterFolder);

        Compare.Same(expected, subject.Logits());
        Assert.NotEqual(plain, expected);
        Assert.Equal(modules, loaded.Updates.Count());
        Assert.Equal((config.Rank, config.Alpha, config.Dropout, config.RankStabilised), (loaded.Config.Rank, loaded.Config.Alpha, loaded.Config.Dropout, loaded.Config.RankStabilised));
    }

    [Fact]
    public void Load_rankAndAlphaPatterns_giveEachLayerItsOwn_andSaveKeepsThem()
    {
        using var subject = new Subject("llama");
        PeftFiles.Write(subject.AdapterFolder, Peft(new PeftConfig
        {
            R = 2,
            LoraAlpha = 8,
            TargetModules = new ModuleSelection(["q_proj", "v_proj"]),
            RankPattern = new Dictionary<string, double> { ["layers.1.self_attn.q_proj"] = 5 },
            AlphaPattern = new Dictionary<string, double> { ["v_proj"] = 3 },
        }));
        using var adapter = PretrainedAdapter.Load(subject.Model, subject.AdapterFolder);
        var expected = Scales(adapter);
        double[] logits = subject.Logits();
        Assert.Equal([(2, 4.0), (2, 1.5), (5, 1.6), (2, 1.5)], expected);

        PretrainedAdapter.Save(adapter, subject.Folder.File("again"), "base");
        using var again = PretrainedAdapter.Load(subject.Model, subject.Folder.File("again"));

        Assert.Equal(expected, Scales(again));
        Assert.Equal(@"layers\.1\.self_attn\.q_proj", Assert.Single(PeftFiles.Read(subject.Folder.File("again")).Adapter.Config.RankPattern).Key);
        Compare.Same(logits, subject.Logits());

        static List<(int, double)> Scales(AdapterSet set) => [.. set.Updates.Select(x => (x.Update.A.Rows, x.Update.Scale))];
    }

    [Theory]
    [InlineData("layers_to_transform", "[1]")]
    [InlineData("layers_to_transform", "1")]
    [InlineData("exclude_modules", "[\"layers.0.self_attn.q_proj\"]")]
    [InlineData("exclude_modules", "\"model.layers.0.*\"")]
    public void Load_ofSomeLayersOnly_isNotIncomplete_andSaveKeepsItSo(string key, string value)
    {
        using var subject = new Subject("llama");
        var whole = Peft(new PeftConfig { R = 2, TargetModules = new ModuleSelection(["q_proj"]) });
        PeftFiles.Write(subject.AdapterFolder, whole with { Pairs = [.. whole.Pairs.Where(pair => pair.Module.Contains(".1.", StringComparison.Ordinal))] });
        string file = Path.Combine(subject.AdapterFolder, PeftFiles.ConfigName);
        var json = JsonNode.Parse(File.ReadAllText(file))!;
        json[key] = JsonNode.Parse(value);
        File.WriteAllText(file, json.ToJsonString());

        using var adapter = PretrainedAdapter.Load(subject.Model, subject.AdapterFolder);
        double[] logits = subject.Logits();
        PretrainedAdapter.Save(adapter, subject.Folder.File("again"), "base");
        using var again = PretrainedAdapter.Load(subject.Model, subject.Folder.File("again"));

        Assert.Equal("model.layers.1.self_attn.q_proj", Assert.Single(again.Updates).Module);
        Compare.Same(logits, subject.Logits());
    }

    [Fact]
    public void Load_adapterOfADeeperModel_namesTheLayer()
    {
        using var subject = new Subject("llama");
        PeftFiles.Write(subject.AdapterFolder, Peft(new PeftConfig { R = 2, TargetModules = new ModuleSelection(["q_proj"]) }, layers: 3));

        var error = Assert.Throws<CheckpointException>(() => PretrainedAdapter.Load(subject.Model, subject.AdapterFolder));

        Assert.Contains("model.layers.2.self_attn.q_proj: is adapted, but the model has no such layer: it has 2 blocks of llama", error.Message, StringComparison.Ordinal);
        Assert.All(subject.Model.Linears, layer => Assert.Null(layer.Adapter));
    }

    [Fact]
    public void Load_adapterOfAShallowerModel_namesTheLayerThatHasNone()
    {
        using var subject = new Subject("llama");
        PeftFiles.Write(subject.AdapterFolder, Peft(new PeftConfig { R = 2, TargetModules = new ModuleSelection(["q_proj"]) }, layers: 1));

        var error = Assert.Throws<CheckpointException>(() => PretrainedAdapter.Load(subject.Model, subject.AdapterFolder));

        Assert.Contains("model.layers.1.self_attn.q_proj: is named by target_modules but has no tensors here", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_adapterOfAWiderModel_namesTheLayerAndBothShapes()
    {
        using var subject = new Subject("llama");
        PeftFiles.Write(subject.AdapterFolder, Peft(new PeftConfig { R = 2, TargetModules = new ModuleSelection(["q_proj"]) }, hidden: 32));

        var error = Assert.Throws<CheckpointException>(() => PretrainedAdapter.Load(subject.Model, subject.AdapterFolder));

        Assert.Contains("model.layers.0.self_attn.q_proj: adapts a layer of shape [24, 32], expected [24, 20]", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Load_tensorsOfALayerThatIsNoTarget_areRefused()
    {
        using var subject = new Subject("llama");
        var both = Peft(new PeftConfig { R = 2, TargetModules = new ModuleSelection(["q_proj", "v_proj"]) });
        PeftFiles.Write(subject.AdapterFolder, both with { Config = both.Config with { TargetModules = new ModuleSelection(["q_proj"]) } });

        var error = Assert.Throws<CheckpointException>(() => PretrainedAdapter.Load(subject.Model, subject.AdapterFolder));

        Assert.Contains("model.layers.0.self_attn.v_proj: has tensors here, but target_modules does not name it", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("target_modules", "\"(\"")]
    [InlineData("exclude_modules", "\"[\"")]
    [InlineData("target_modules", "\"(.*.*)*x\"")]
    public void Load_patternThatCannotBeUsed_isTheFilesFault(string key, string pattern)
    {
        using var subject = new Subject("llama");
        PeftFiles.Write(subject.AdapterFolder, Peft(new PeftConfig { R = 2, TargetModules = new ModuleSelection(["q_proj"]) }));
        string file = Path.Combine(subject.AdapterFolder, PeftFiles.ConfigName);
        var json = JsonNode.Parse(File.ReadAllText(file))!;
        json[key] = JsonNode.Parse(pattern);
        File.WriteAllText(file, json.ToJsonString());

        var error = Assert.Throws<CheckpointException>(() => PretrainedAdapter.Load(subject.Model, subject.AdapterFolder));

        Assert.Contains(key, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Restore_intoAnAdapterOfOtherLayersOrRank_isRefused()
    {
        using var subject = new Subject("llama");
        using (var saved = subject.Adapt(new LoraConfig { Rank = 3, Targets = ["q_proj"] }))
        {
            PretrainedAdapter.Save(saved, subject.AdapterFolder, "base");
            double[] before = subject.Logits();
            saved.Model.Backend.Fill(saved.Parameters.Values, 0);
            PretrainedAdapter.Restore(saved, subject.AdapterFolder);
            Compare.Same(before, subject.Logits());
        }

        foreach (var other in (LoraConfig[])[new() { Rank = 2, Targets = ["q_proj"] }, new() { Rank = 3, Targets = ["q_proj", "k_proj"] }, new() { Rank = 3, Targets = ["k_proj"] }])
        {
            using var set = subject.Adapt(other);
            string message = Assert.Throws<CheckpointException>(() => PretrainedAdapter.Restore(set, subject.AdapterFolder)).Message;
            Assert.Contains("does not match the adapter that is trained", message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(WeightStorage.AsStored, "llama, biases")]
    [InlineData(WeightStorage.AsStored, "smollm, tied")]
    [InlineData(WeightStorage.Nf4, "qwen2")]
    [InlineData(WeightStorage.Nf4Double, "llama")]
    public void Merge_ofAnAdapter_givesTheLogitsOfTheModelWithIt(WeightStorage storage, string name)
    {
        using var subject = new Subject(name, storage);
        double[] plain = subject.Logits();
        using var adapter = subject.Adapt(new LoraConfig { Rank = 3, Alpha = 6 });
        PretrainedAdapter.Save(adapter, subject.AdapterFolder, "base");
        double[] expected = subject.Logits();
        Assert.True(Distance(plain, expected) > 0.1, "the adapter changes too little for this test to say anything");

        SavedModel.Merge(subject.ModelFolder, subject.AdapterFolder, subject.Folder.File("merged"), mergeBase: storage, cancel: TestContext.Current.CancellationToken);

        Compare.Close(expected, Subject.Logits(subject.Folder.File("merged")), 1e-5, "merged");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Merge_ontoAQuantisedFolder_givesTheLogitsOfTheModelWithIt(bool doubleQuant)
    {
        using var subject = new Subject("llama", doubleQuant ? WeightStorage.Nf4Double : WeightStorage.Nf4);
        using var adapter = subject.Adapt(new LoraConfig { Rank = 3, Alpha = 6, Targets = ["q_proj", "up_proj"] });
        PretrainedAdapter.Save(adapter, subject.AdapterFolder, "base");
        string quantised = subject.Folder.File("quantised"), merged = subject.Folder.File("merged");
        SavedModel.Quantize(subject.ModelFolder, quantised, doubleQuant, cancel: TestContext.Current.CancellationToken);

        SavedModel.Merge(quantised, subject.AdapterFolder, merged, DType.F32, cancel: TestContext.Current.CancellationToken);

        Compare.Close(subject.Logits(), Subject.Logits(merged), 1e-5, "merged");
        Assert.DoesNotContain("quantization_config", File.ReadAllText(Path.Combine(merged, "config.json")), StringComparison.Ordinal);
    }

    [Fact]
    public void Merge_ofAnAdapterForAnotherModel_isRefusedAndWritesNothing()
    {
        using var subject = new Subject("llama");
        var config = new PeftConfig { R = 2, TargetModules = new ModuleSelection(["q_proj"]) };
        string target = subject.Folder.File("merged");

        PeftFiles.Write(subject.AdapterFolder, Peft(config, layers: 3));
        Assert.Contains("adapts a layer that", Assert.Throws<CheckpointException>(() => SavedModel.Merge(subject.ModelFolder, subject.AdapterFolder, target, cancel: TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
        PeftFiles.Write(subject.AdapterFolder, Peft(config, hidden: 32));
        string message = Assert.Throws<CheckpointException>(() => SavedModel.Merge(subject.ModelFolder, subject.AdapterFolder, target, cancel: TestContext.Current.CancellationToken)).Message;
        Assert.Contains("has shape [24, 20], expected [24, 32] by the adapter", message, StringComparison.Ordinal);

        Assert.False(Directory.Exists(target));
    }

    /// <summary>An adapter of the query and value layers of a model like "llama", in whatever the configuration targets.</summary>
    static PeftAdapter Peft(PeftConfig config, int layers = 2, int hidden = 20)
    {
        var random = new Random(3);
        return new PeftAdapter(config, [.. Enumerable.Range(0, layers).SelectMany(layer => config.TargetModules!.Names!.Select(name =>
        {
            string module = $"model.layers.{layer}.self_attn.{name}";
            int rank = config.RankOf(module), outputs = name == "q_proj" ? 24 : 12;
            return new LoraPair(module, rank, hidden, outputs, Values(rank * hidden), Values(outputs * rank));
        })).OrderBy(pair => pair.Module, StringComparer.Ordinal)]);

        float[] Values(int count) => [.. Enumerable.Range(0, count).Select(_ => random.NextSingle() - 0.5f)];
    }

    static double Distance(double[] a, double[] b) => Math.Sqrt(a.Zip(b, (x, y) => (x - y) * (x - y)).Sum() / a.Sum(x => x * x));

    sealed class Subject : IDisposable
    {
        readonly HostBackend<float> backend = new();

        public Subject(string name, WeightStorage storage = WeightStorage.AsStored)
        {
            Architectures.Write(ModelFolder, name);
            Model = PretrainedModel.Load(ModelFolder, backend, storage);
        }

        public TempFolder Folder { get; } = new();

        public CausalLm Model { get; }

        public string ModelFolder => Folder.File("model");

        public string AdapterFolder => Folder.File("adapter");

        /// <summary>An adapter whose B is not zero, so that it changes the logits.</summary>
        public AdapterSet Adapt(LoraConfig config)
        {
            var adapter = new AdapterSet(Model, config, seed: 2);
            var random = new Random(4);
            foreach (var (_, update) in adapter.Updates)
            {
                backend.Write([.. Enumerable.Range(0, (int)update.B.Count).Select(_ => random.NextSingle() - 0.5f)], update.B.Value);
            }

            return adapter;
        }

        public double[] Logits() => Logits(Model);

        public static double[] Logits(string folder)
        {
            using var backend = new HostBackend<float>();
            using var model = PretrainedModel.Load(folder, backend);
            return Logits(model);
        }

        public void Dispose()
        {
            Model.Dispose();
            backend.Dispose();
            Folder.Dispose();
        }

        static double[] Logits(CausalLm model)
        {
            using var pass = new LanguageModelPass(model);
            return [.. pass.Logits(PackedBatch.From([new Example(Ids, Ids, "", 1)])).Select(x => (double)x)];
        }
    }
}
