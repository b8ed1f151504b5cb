using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>New adapters: which layers they take, how they start, and that they come out again.</summary>
public class AdapterSetTests
{
    [Fact]
    public void Create_leavesTheModelAsItWas_withAUniformAndBZero()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama", backend);
        double[] plain = Logits(model);

        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 8 });

        Compare.Same(plain, Logits(model));
        foreach (var (module, update) in adapter.Updates)
        {
            double[] a = backend.ReadDoubles(update.A.Value);
            double bound = 1 / Math.Sqrt(update.A.Columns);
            Assert.All(backend.ReadDoubles(update.B.Value), x => Assert.Equal(0, x));
            Assert.All(a, x => Assert.InRange(x, -bound, bound));
            Assert.True(a.Max() > 0.9 * bound && a.Min() < -0.9 * bound && Math.Abs(a.Average()) < 0.2 * bound, module);
        }

        double[][] starts = [.. adapter.Updates.Select(x => backend.ReadDoubles(x.Update.A.Value))];
        Assert.Equal(starts.Length, starts.DistinctBy(x => x[0]).Count()); // no two layers start alike
    }

    [Fact]
    public void Create_sameSeed_startsTheSame_anotherSeedDifferently()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama", backend);

        double[] first = Start(1), same = Start(1), other = Start(2);

        Compare.Same(first, same);
        Assert.NotEqual(first, other);

        double[] Start(ulong seed)
        {
            using var adapter = new AdapterSet(model, new LoraConfig { Rank = 2 }, seed);
            return backend.ReadDoubles(adapter.Parameters.Values);
        }
    }

    [Theory]
    [InlineData("all-linear", null, 14)]
    [InlineData("ALL-LINEAR", null, 14)]
    [InlineData("q_proj", null, 2)]
    [InlineData("q_proj,mlp.down_proj", null, 4)]
    [InlineData("model.layers.1.self_attn.v_proj", null, 1)]
    [InlineData("1.self_attn.v_proj", null, 1)]
    [InlineData("", @".*\.1\..*_proj", 7)]
    [InlineData("", @"model\.layers\.\d\.mlp\.(gate|up)_proj", 4)]
    public void Create_targets_matchAsInPeft(string names, string? pattern, int expected)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama", backend);

        using var adapter = new AdapterSet(model, new LoraConfig { Targets = names.Split(','), TargetPattern = pattern });

        Assert.Equal(expected, adapter.Updates.Count());
        Assert.Equal(expected, model.Linears.Count(layer => layer.Adapter is not null));
    }

    [Theory]
    [InlineData("proj", null)] // no whole part of a path
    [InlineData("lm_head", null)]
    [InlineData("", "q_proj")] // a pattern must match the whole path
    public void Create_targetsThatMatchNothing_areRefusedWithTheLayersNames(string names, string? pattern)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama", backend);
        long before = backend.Memory.Live;

        var error = Assert.Throws<ArgumentException>(() => new AdapterSet(model, new LoraConfig { Targets = names.Split(','), TargetPattern = pattern }));

        Assert.Contains("It has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj; or say all-linear", error.Message, StringComparison.Ordinal);
        Assert.Equal(before, backend.Memory.Live);
    }

    [Fact]
    public void Create_rankOrDropoutOutOfRange_isRefused()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama", backend);

        Assert.Throws<ArgumentException>(() => new AdapterSet(model, new LoraConfig { Rank = 0 }));
        Assert.Throws<ArgumentException>(() => new AdapterSet(model, new LoraConfig { Dropout = 1 }));
        Assert.Throws<ArgumentException>(() => new AdapterSet(model, new LoraConfig { Dropout = -0.1 }));
        Assert.Throws<ArgumentException>(() => new AdapterSet(model, new LoraConfig { Dropout = double.NaN }));
    }

    [Fact]
    public void Enable_ofOneOfTwoSets_putsItInPlaceOfTheOther()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama", backend);
        double[] plain = Logits(model);
        using var first = Changed(["q_proj", "up_proj"], 0.3);
        double[] withFirst = Logits(model);
        using var second = Changed(["q_proj", "up_proj"], -0.2);
        double[] withSecond = Logits(model);

        first.Enable();
        Compare.Same(withFirst, Logits(model));
        second.Disable(); // holds no slot
        Compare.Same(withFirst, Logits(model));
        second.Enable();
        Compare.Same(withSecond, Logits(model));
        second.Disable();
        Compare.Same(plain, Logits(model));
        Assert.Equal(3, new[] { plain, withFirst, withSecond }.DistinctBy(x => x[0]).Count());

        AdapterSet Changed(string[] targets, double value)
        {
            var set = new AdapterSet(model, new LoraConfig { Targets = targets });
            backend.Fill(set.Parameters.Values, value);
            return set;
        }
    }

    static double[] Logits(CausalLm model)
    {
        using var pass = new LanguageModelPass(model);
        int[] ids = Architectures.Ids(9);
        return [.. pass.Logits(PackedBatch.From([new Example(ids, ids, "", 1)])).Select(x => (double)x)];
    }
}
