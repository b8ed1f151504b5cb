using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Reading a text in pieces through a cache gives the logits of reading it at once.</summary>
public class KvCacheTests
{
    static readonly int[] Ids = TinyModel.Ids(23, 1), Other = TinyModel.Ids(14, 2);

    [Theory]
    [MemberData(nameof(TinyModel.Names), MemberType = typeof(TinyModel))]
    public void Logits_ofChunksThenSingleTokens_equalTheFormulas(string name)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<double>();
        using var model = TinyModel.Load(folder, name, backend);
        using var cache = new KvCache(backend, model.Config, 1, Ids.Length);
        double[] expected = new NaiveDecoder(folder.Path).Logits(Ids);
        List<double> actual = [];

        foreach (var (start, end) in ((int, int)[])[(0, 9), (9, 10), (10, 16), .. Enumerable.Range(16, Ids.Length - 16).Select(i => (i, i + 1))])
        {
            actual.AddRange(Continue(model, cache, [0], Ids[start..end], [end - start]));
        }

        Vectors.Close(expected, actual, 1e-9, name);
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("mistral, window")]
    public void Logits_ofTwoSequencesOfDifferentAges_equalTheFormulasOfEach(string name)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<double>();
        using var model = TinyModel.Load(folder, name, backend);
        using var cache = new KvCache(backend, model.Config, 3, 32);
        var naive = new NaiveDecoder(folder.Path);
        List<double> first = [], second = [];

        second.AddRange(Continue(model, cache, [0], Other[..6], [6]));
        Pass(Ids[..11], Other[6..7]);
        Pass(Ids[11..12], Other[7..12]);
        Pass(Ids[12..13], Other[12..13]);
        Pass(Ids[13..], Other[13..]);

        Assert.Equal([Other.Length, 0, Ids.Length], cache.Lengths.ToArray());
        Vectors.Close(naive.Logits(Ids), first, 1e-9, "slot 2");
        Vectors.Close(naive.Logits(Other), second, 1e-9, "slot 0");

        void Pass(int[] one, int[] two)
        {
            double[] logits = Continue(model, cache, [2, 0], [.. one, .. two], [one.Length, two.Length]);
            int split = one.Length * model.Config.Vocabulary;
            first.AddRange(logits[..split]);
            second.AddRange(logits[split..]);
        }
    }

    [Fact]
    public void Rewind_thenAnotherEnding_leavesNoTraceOfTheFirst()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<double>();
        using var model = TinyModel.Load(folder, "llama", backend);
        using var cache = new KvCache(backend, model.Config, 1, 32);
        Continue(model, cache, [0], Ids, [Ids.Length]);

        cache.Rewind(0, 5);
        double[] actual = Continue(model, cache, [0], Other, [Other.Length]);

        Vectors.Close(new NaiveDecoder(folder.Path).Logits([.. Ids[..5], .. Other])[(5 * model.Config.Vocabulary)..], actual, 1e-9, "after the rewind");
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.Rewind(0, 20));
    }

    [Fact]
    public void Continue_beyondTheCapacity_saysSoAndChangesNothing()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = TinyModel.Load(folder, "llama", backend);
        using var cache = new KvCache(backend, model.Config, 1, 10);
        Continue(model, cache, [0], Ids[..8], [8]);

        var error = Assert.Throws<ArgumentException>(() => Continue(model, cache, [0], Ids[..3], [3]));

        Assert.Contains("would hold 11 tokens, expected at most 10", error.Message, StringComparison.Ordinal);
        Assert.Equal(8, cache.Lengths[0]);
    }

    static double[] Continue(CausalLm model, KvCache cache, int[] slots, int[] ids, int[] counts)
    {
        using var arena = new Arena(model.Backend);
        var tape = Tape.ForInference(model.Backend, arena);
        return model.Backend.ReadDoubles(model.Logits(tape, model.Forward(tape, TokenBatch.Continue(tape, cache, slots, ids, counts))).Data);
    }
}
