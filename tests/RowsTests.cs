using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Gathering, scattering and embedding of rows on every device against <see cref="Naive"/>: rows that repeat, rows of any width, and indices that are no row.</summary>
public class RowsTests
{
    public static TheoryData<string> Devices => Oracle.Devices;

    [Theory, MemberData(nameof(Devices))]
    public void GatherRows_repeatedRows_copiesExactly(string device)
    {
        foreach (var (rows, width) in OpShapes.Matrices(device))
        {
            using Oracle oracle = new(device, rows);
            double[] x = oracle.Values(rows * width);
            int[] indices = oracle.Integers(2 * rows, rows);
            Slice y = oracle.Output(indices.Length * width);
            oracle.Backend.GatherRows(oracle.Put(x), oracle.Put(indices), width, y);
            oracle.Close(Naive.Gather(x, indices, width), y, 0, $"GatherRows {indices.Length} of [{rows}, {width}]");
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void ScatterRows_repeatedRows_addsAllOrKeepsTheLast(string device)
    {
        foreach (var (rows, width) in OpShapes.Matrices(device))
        {
            using Oracle oracle = new(device, rows);
            int[] indices = oracle.Integers(2 * rows, rows);
            double[] x = oracle.Values(indices.Length * width), y = oracle.Values(rows * width);
            Slice sum = oracle.Fenced(y);
            oracle.Backend.ScatterRows(oracle.Put(x), oracle.Put(indices), width, sum, accumulate: true);
            oracle.Close(Naive.Scatter(x, indices, width, y, add: true), sum, oracle.Exact, $"ScatterRows, added, {indices.Length} to [{rows}, {width}]");

            Slice written = oracle.Fenced(y);
            oracle.Backend.ScatterRows(oracle.Put(x), oracle.Put(indices), width, written, accumulate: false);
            oracle.Close(Naive.Scatter(x, indices, width, y, add: false), written, 0, $"ScatterRows {indices.Length} to [{rows}, {width}]");
        }
    }

    [Theory]
    [InlineData(-1)]
    [InlineData(4)]
    public void GatherRows_rowOutsideX_throws(int row)
    {
        using Oracle oracle = new("cpu", 1);
        Slice x = oracle.Put(oracle.Values(12)), y = oracle.Output(6);
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => oracle.Backend.GatherRows(x, oracle.Put([0, row]), 3, y));
        Assert.Contains($"row index {row} at 1, expected 0 to 3", error.Message);
    }

    [Theory, MemberData(nameof(Devices))]
    public void Embedding_anyTableType_takesRowsAndAddsThemBack(string device)
    {
        using Oracle oracle = new(device, 3);
        DType[] types = oracle.Device is null ? [DType.F32, DType.F64, DType.BF16, DType.F16] : [DType.F32, DType.BF16, DType.F16];
        foreach (var (type, width) in types.SelectMany(type => new[] { (type, 67), (type, 80) }))
        {
            const int Vocabulary = 31;
            double[] table = [.. oracle.Values(Vocabulary * width, outliers: 0).Select(x => Math.Round(x * 8) / 8)]; // exact in every type
            int[] ids = oracle.Integers(50, Vocabulary);
            Slice y = oracle.Output(ids.Length * width), tokens = oracle.Put(ids);
            oracle.Backend.EmbeddingForward(tokens, new Weight(Vocabulary, width, oracle.Put(table, type)), y);
            oracle.Close(Naive.Gather(table, ids, width), y, 0, $"EmbeddingForward {type} [{width}]");

            double[] dy = oracle.Values(ids.Length * width), before = oracle.Values(table.Length);
            Slice dTable = oracle.FencedParameter(before);
            oracle.Backend.EmbeddingBackward(tokens, oracle.Put(dy), dTable);
            oracle.Close(Naive.Scatter(dy, ids, width, before, add: true), dTable, oracle.ExactParameter, $"EmbeddingBackward [{width}]");
        }
    }

    [Theory]
    [InlineData("emulator-f32")]
    [InlineData("emulator-bf16")]
    public void Rows_indexOutsideOnADevice_readsZerosAndWritesNothing(string device)
    {
        using Oracle oracle = new(device, 4);
        foreach (int width in (int[])[3, 16])
        {
            double[] x = oracle.Values(2 * width), zeros = new double[3 * width];
            Slice rows = oracle.Put([-1, 1, 2]), table = oracle.Put(x), y = oracle.Output(3 * width), dy = oracle.Put(oracle.Values(3 * width));
            double[] expected = [.. zeros[..width], .. x[width..], .. zeros[..width]], middle = [.. zeros[..width], .. oracle.Get(dy)[width..(2 * width)]];
            oracle.Backend.GatherRows(table, rows, width, y);
            Assert.Equal(expected, oracle.Get(y));
            oracle.Backend.EmbeddingForward(rows, new Weight(2, width, table), y);
            Assert.Equal(expected, oracle.Get(y));

            Slice written = oracle.Fenced(zeros[..(2 * width)]), added = oracle.Fenced(zeros[..(2 * width)]), dTable = oracle.FencedParameter(zeros[..(2 * width)]);
            oracle.Backend.ScatterRows(dy, rows, width, written, accumulate: false);
            oracle.Backend.ScatterRows(dy, rows, width, added, accumulate: true);
            oracle.Backend.EmbeddingBackward(rows, dy, dTable);
            Assert.All((Slice[])[written, added, dTable], slice => Assert.Equal(middle, oracle.Get(slice)));
        }
    }

    [Theory]
    [InlineData(-1)]
    [InlineData(5)]
    public void Embedding_idOutsideVocabulary_namesTokenAndId(int id)
    {
        using Oracle oracle = new("cpu", 1);
        Slice ids = oracle.Put([0, 4, id]), y = oracle.Output(6), table = oracle.Put(oracle.Values(10));
        var forward = Assert.Throws<ArgumentOutOfRangeException>(() => oracle.Backend.EmbeddingForward(ids, new Weight(5, 2, table), y));
        var backward = Assert.Throws<ArgumentOutOfRangeException>(() => oracle.Backend.EmbeddingBackward(ids, y, table));
        Assert.Contains($"token 2 has id {id}, expected 0 to 4 for a vocabulary of 5", forward.Message);
        Assert.Contains($"token 2 has id {id}, expected 0 to 4 for a vocabulary of 5", backward.Message);
    }
}
