using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Tensors;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Reading a text in pieces through a cache gives the logits of reading it at once.</summary>
public class KvCacheTests
{
    static readonly int[] Ids = Architectures.Ids(23, 1), Other = Architectures.Ids(14, 2);

    [Theory]
    [MemberData(nameof(Architectures.Names), MemberType = typeof(Architectures))]
    public void Logits_ofChunksThenSingleTokens_equalTheFormulas(string name)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<double>();
        using var model = Architectures.Load(folder, name, backend);
        using var cache = new KvCache(backend, model.Config, 1, Ids.Length);
        double[] expected = new NaiveDecoder(folder.Path).Logits(Ids);
        List<double> actual = [];

        foreach (var (start, end) in ((int, int)[])[(0, 9), (9, 10), (10, 16), .. Enumerable.Range(16, Ids.Length - 16).Select(i => (i, i + 1))])
        {
            actual.AddRange(Continue(model, cache, [0], Ids[start..end], [end - start]));
        }

        Compare.Close(expected, actual, 1e-9, name);
    }

    [Theory]
    [InlineData("llama")]
    [InlineData("mistral, window")]
    public void Logits_ofTwoSequencesOfDifferentAges_equalTheFormulasOfEach(string name)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<double>();
        using var model = Architectures.Load(folder, name, backend);
        using var cache = new KvCache(backend, model.Config, 3, 32);
        var naive = new NaiveDecoder(folder.Path);
        List<double> first = [], second = [];

        second.AddRange(Continue(model, cache, [0], Other[..6], [6]));
        Pass(Ids[..11], Other[6..7]);
        Pass(Ids[11..12], Other[7..12]);
        Pass(Ids[12..13], Other[12..13]);
        Pass(Ids[13..], Other[13..]);

        Assert.Equal([Other.Length, 0, Ids.Length], cache.Lengths.ToArray());
        Compare.Close(naive.Logits(Ids), first, 1e-9, "slot 2");
        Compare.Close(naive.Logits(Other), second, 1e-9, "slot 0");

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
        using var model = Architectures.Load(folder, "llama", backend);
        using var cache = new KvCache(backend, model.Config, 1, 32);
        Continue(model, cache, [0], Ids, [Ids.Length]);

        cache.Rewind(0, 5);
        double[] actual = Continue(model, cache, [0], Other, [Other.Length]);

        Compare.Close(new NaiveDecoder(folder.Path).Logits([.. Ids[..5], .. Other])[(5 * model.Config.Vocabulary)..], actual, 1e-9, "after the rewind");
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.Rewind(0, 20));
        Assert.Throws<ArgumentOutOfRangeException>(() => cache.Rewind(0, -1));
    }

    [Fact]
    public void Continue_beyondTheCapacity_saysSoAndChangesNothing()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama", backend);
        using var cache = new KvCache(backend, model.Config, 1, 10);
        Continue(model, cache, [0], Ids[..8], [8]);

        var error = Assert.Throws<ArgumentException>(() => Continue(model, cache, [0], Ids[..3], [3]));

        Assert.Contains("would hold 11 tokens, expected at most 10", error.Message, StringComparison.Ordinal);
        Assert.Equal(8, cache.Lengths[0]);
    }

    [Theory]
    [InlineData(7, new[] { 3 })]
    [InlineData(7, new[] { 3, 4 })]
    [InlineData(3, new[] { 7 })]
    public void Continue_countsThatDoNotFit_areRefusedAndChangeNothing(int ids, int[] counts)
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = Architectures.Load(folder, "llama", backend);
        using var cache = new KvCache(backend, model.Config, 2, 10);

        Assert.Contains("TokenBatch: ", Assert.Throws<ArgumentException>(() => Continue(model, cache, [0], Ids[..ids], counts)).Message, StringComparison.Ordinal);

        Assert.Equal([0, 0], cache.Lengths.ToArray());
    }

    static double[] Continue(CausalLm model, KvCache cache, int[] slots, int[] ids, int[] counts)
    {
        using var arena = new Arena(model.Backend);
        var tape = Tape.ForInference(model.Backend, arena);
        return model.Backend.ReadDoubles(model.Logits(tape, model.Forward(tape, TokenBatch.Continue(tape, cache, slots, tape.Upload(ids), counts))).Data);
    }
}
