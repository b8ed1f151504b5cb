using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Every operation on every device against <see cref="Naive"/>: odd sizes, one element over a tile, one row, equal inputs, outliers.</summary>
public class OpTests
{
    // Nothing, one, vector ends, the 512 and 1024 of the tiles, and the 16,384 elements of a task, each with its neighbours.
    static readonly int[] Lengths = [0, 1, 3, 7, 8, 17, 511, 513, 1025, 16384, 16385, 40000];
    static readonly (int Rows, int Width)[] Matrices = [(0, 7), (1, 1), (1, 5), (5, 123), (3, 64), (2, 65), (37, 576), (3, 16385)];

    // On kernel devices: nothing, one, packets of 4 and 8 with their neighbours, a group of 256 packets of either and one over.
    static readonly int[] KernelLengths = [0, 1, 3, 5, 8, 17, 1024, 1025, 2049, 5127];

    // None, one row, rows of less than a packet, of a warp and one over, of several warps and odd, of a group and beyond it, which is read again.
    static readonly (int Rows, int Width)[] KernelMatrices = [(0, 7), (1, 1), (1, 5), (5, 123), (37, 64), (2, 257), (3, 172), (9, 576), (2, 1025), (2, 4100), (300, 8)];

    public static TheoryData<string> Devices => Oracle.Devices;

    static int[] LengthsOn(string device) => device.StartsWith("cpu", StringComparison.Ordinal) ? Lengths : KernelLengths;

    static (int Rows, int Width)[] MatricesOn(string device) => device.StartsWith("cpu", StringComparison.Ordinal) ? Matrices : KernelMatrices;

    [Theory, MemberData(nameof(Devices))]
    public void Add_anyLength_matchesFormula(string device)
    {
        foreach (int n in LengthsOn(device))
        {
            using Oracle oracle = new(device, n);
            double[] x = oracle.Values(n), y = oracle.Values(n);
            Slice sum = oracle.Fenced(y);
            oracle.Backend.Add(oracle.Put(x), -0.75, sum);
            oracle.Close([.. x.Zip(y, (a, b) => b - 0.75 * a)], sum, oracle.Exact, $"Add [{n}]");
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Fill_anyType_setsEveryElement(string device)
    {
        foreach (DType type in Enum.GetValues<DType>())
        {
            using Oracle oracle = new(device, 1);
            Slice slice = oracle.Fenced(new double[16387], type);
            oracle.Backend.Fill(slice, 3);
            Assert.All(oracle.Get(slice), value => Assert.Equal(3, value));
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Norm_anyLength_matchesFormula(string device)
    {
        foreach (int n in (int[])[.. LengthsOn(device), 1_100_001])
        {
            using Oracle oracle = new(device, n);
            double[] x = oracle.Values(n);
            Slice norm = oracle.OutputParameter(1);
            oracle.Backend.Norm(oracle.PutParameter(x), norm);
            oracle.Close([Naive.Norm(x)], norm, Math.Min(oracle.SumsParameter, 6e-8), $"Norm [{n}]");
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Sum_anyLength_writesOrAdds(string device)
    {
        foreach (int n in (int[])[.. LengthsOn(device), 1_100_001])
        {
            using Oracle oracle = new(device, n);
            double[] x = oracle.Values(n);
            double terms = x.Sum(Math.Abs) / 4;
            Slice xs = oracle.PutParameter(x), sum = oracle.OutputParameter(1);
            oracle.Backend.Sum(xs, -0.25, sum, accumulate: false);
            oracle.Close([-0.25 * x.Sum()], sum, Math.Min(oracle.SumsParameter, 6e-8), $"Sum [{n}]", terms);
            double before = oracle.Get(sum)[0];
            oracle.Backend.Sum(xs, 0.5, sum, accumulate: true);
            oracle.Close([before + 0.5 * x.Sum()], sum, Math.Min(oracle.SumsParameter, 6e-8), $"Sum, added, [{n}]", terms);
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void GatherRows_repeatedRows_copiesExactly(string device)
    {
        foreach (var (rows, width) in MatricesOn(device))
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
        foreach (var (rows, width) in MatricesOn(device))
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

    [Theory, MemberData(nameof(Devices))]
    public void RmsNorm_anyShape_matchesFormula(string device)
    {
        foreach (var (rows, width) in MatricesOn(device))
        {
            using Oracle oracle = new(device, width);
            string what = $"[{rows}, {width}]";
            double[] x = oracle.Values(rows * width), weight = oracle.Values(width), dy = oracle.Values(x.Length), dx0 = oracle.Values(x.Length), dw0 = oracle.Values(width);
            Slice xs = oracle.Put(x), ws = oracle.PutParameter(weight), y = oracle.Output(x.Length), rstd = oracle.OutputParameter(rows);
            oracle.Backend.RmsNormForward(xs, ws, 1e-5, y, rstd);
            var expected = Naive.RmsNorm(x, weight, 1e-5);
            oracle.Close(expected.Y, y, oracle.Exact, $"RmsNormForward {what}");
            oracle.Close(expected.Rstd, rstd, oracle.ExactParameter, $"RmsNormForward rstd {what}");

            Slice dx = oracle.Output(x.Length), added = oracle.Fenced(dx0), dWeight = oracle.FencedParameter(dw0), dys = oracle.Put(dy);
            oracle.Backend.RmsNormBackward(dys, xs, ws, rstd, dx, accumulate: false, default);
            oracle.Backend.RmsNormBackward(dys, xs, ws, rstd, added, accumulate: true, dWeight);
            var gradient = Naive.RmsNormBackward(dy, x, weight, 1e-5);
            double terms = Naive.Norm([.. dy.Select((d, i) => d * weight[i % width] * expected.Rstd[i / width])]); // dx is a difference: in a row of one element, of equals
            oracle.Close(gradient.Dx, dx, oracle.Sums, $"RmsNormBackward {what}", terms);
            oracle.Close([.. gradient.Dx.Zip(dx0, (a, b) => a + b)], added, oracle.Sums, $"RmsNormBackward, added, {what}", terms);
            oracle.Close([.. gradient.DWeight.Zip(dw0, (a, b) => a + b)], dWeight, oracle.SumsParameter, $"RmsNormBackward dWeight {what}");

            Slice dWeightOnly = oracle.FencedParameter(dw0);
            oracle.Backend.RmsNormBackward(dys, xs, ws, rstd, default, accumulate: false, dWeightOnly);
            Assert.Equal(oracle.Get(dWeight), oracle.Get(dWeightOnly));
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void RmsNorm_withResidual_addsItToXFirst(string device)
    {
        foreach (var (rows, width) in MatricesOn(device))
        {
            using Oracle oracle = new(device, width + 1);
            string what = $"[{rows}, {width}]";
            double[] x = oracle.Values(rows * width), residual = oracle.Values(x.Length), weight = oracle.Values(width), sum = [.. x.Zip(residual, (a, b) => a + b)];
            Slice xs = oracle.Fenced(x), y = oracle.Output(x.Length), rstd = oracle.OutputParameter(rows), ws = oracle.PutParameter(weight);
            oracle.Backend.RmsNormForward(xs, ws, 1e-5, y, rstd, oracle.Put(residual));
            oracle.Close(sum, xs, oracle.Exact, $"x + residual {what}");

            // The norm is of the sum as it is stored: the same as in two steps, bit for bit.
            Slice twoSteps = oracle.Output(x.Length), rstdTwo = oracle.OutputParameter(rows);
            oracle.Backend.RmsNormForward(xs, ws, 1e-5, twoSteps, rstdTwo);
            Assert.Equal(oracle.Get(twoSteps), oracle.Get(y));
            Assert.Equal(oracle.Get(rstdTwo), oracle.Get(rstd));
            oracle.Close(Naive.RmsNorm(oracle.Get(xs), weight, 1e-5).Y, y, oracle.Exact, $"RmsNormForward with residual {what}");
        }
    }

    [Theory]
    [InlineData("cpu", 4500, 136)]
    [InlineData("emulator-f32", 2200, 136)]
    [InlineData("emulator-f32", 270, 2052)] // a row is wider than its threads' registers hold
    [InlineData("emulator-bf16", 4500, 136)]
    public void RmsNorm_moreRowsThanAGpuHasRoomFor_goesOverAll(string device, int rows, int width)
    {
        // A kernel's groups walk over rows, and the last has rows for a part of its threads only.
        using Oracle oracle = new(device, 7);
        double[] x = oracle.Values(rows * width), dy = oracle.Values(x.Length), weight = oracle.Values(width);
        Slice xs = oracle.Put(x), ws = oracle.PutParameter(weight), y = oracle.Output(x.Length), rstd = oracle.OutputParameter(rows), dx = oracle.Output(x.Length);
        Slice dWeight = oracle.FencedParameter(new double[width]);
        oracle.Backend.RmsNormForward(xs, ws, 1e-5, y, rstd);
        oracle.Close(Naive.RmsNorm(x, weight, 1e-5).Y, y, oracle.Exact, "RmsNormForward of many rows");
        oracle.Backend.RmsNormBackward(oracle.Put(dy), xs, ws, rstd, dx, accumulate: false, dWeight);
        var gradient = Naive.RmsNormBackward(dy, x, weight, 1e-5);
        oracle.Close(gradient.Dx, dx, oracle.Sums, "RmsNormBackward of many rows");
        oracle.Close(gradient.DWeight, dWeight, oracle.SumsParameter, "RmsNormBackward dWeight of many rows");
    }

    [Theory, MemberData(nameof(Devices))]
    public void RmsNorm_equalElements_areOne(string device)
    {
        using Oracle oracle = new(device, 1);
        double[] x = [.. Enumerable.Repeat(-3.0, 100)], zero = new double[100];
        Slice y = oracle.Output(100), one = oracle.PutParameter([.. Enumerable.Repeat(1.0, 100)]);
        oracle.Backend.RmsNormForward(oracle.Put(x), one, 0, y, default);
        oracle.Close([.. Enumerable.Repeat(-1.0, 100)], y, oracle.Exact, "RmsNormForward of equal elements");
        oracle.Backend.RmsNormForward(oracle.Put(zero), one, 1e-6, y, default);
        Assert.Equal(zero, oracle.Get(y));
    }

    [Theory, MemberData(nameof(Devices))]
    public void Rope_anyShape_rotatesAndBack(string device)
    {
        foreach (var (tokens, heads, width) in ((int, int, int)[])[(1, 1, 2), (5, 3, 10), (7, 9, 64), (3, 2, 258), (3, 17, 32), (300, 1, 128)])
        {
            using Oracle oracle = new(device, width);
            string what = $"[{tokens}, {heads}, {width}]";
            double[] x = oracle.Values(tokens * heads * width), angles = oracle.Values(40 * width / 2);
            double[] cos = [.. angles.Select(a => (double)(float)Math.Cos(a))], sin = [.. angles.Select(a => (double)(float)Math.Sin(a))];
            int[] positions = oracle.Integers(tokens, 40);
            Slice y = oracle.Fenced(x), c = oracle.Put(cos, DType.F32), s = oracle.Put(sin, DType.F32), at = oracle.Put(positions);
            oracle.Backend.Rope(y, c, s, at, heads, width, inverse: false);
            oracle.Close(Naive.Rope(x, cos, sin, positions, heads, width, false), y, oracle.Exact, $"Rope {what}");
            oracle.Backend.Rope(y, c, s, at, heads, width, inverse: true);
            oracle.Close(x, y, Math.Max(1e-6, 2 * oracle.Exact), $"Rope there and back {what}"); // cos² + sin² is 1 only to float precision
        }
    }

    [Fact]
    public void Rope_positionBeyondTable_throws()
    {
        using Oracle oracle = new("cpu", 1);
        Slice x = oracle.Put(oracle.Values(8)), table = oracle.Put(oracle.Values(6));
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => oracle.Backend.Rope(x, table, table, oracle.Put([0, 3]), 1, 4, inverse: false));
        Assert.Contains("token 1 is at position 3, expected 0 to 2", error.Message);
    }

    [Theory, MemberData(nameof(Devices))]
    public void SwiGlu_anyLength_matchesFormula(string device)
    {
        foreach (int n in LengthsOn(device))
        {
            using Oracle oracle = new(device, n);
            double[] gate = oracle.Values(n), up = oracle.Values(n), dy = oracle.Values(n);
            Slice g = oracle.Fenced(gate), u = oracle.Fenced(up), d = oracle.Put(dy), y = oracle.Output(n), dGate = oracle.Output(n), dUp = oracle.Output(n);
            oracle.Backend.SwiGluForward(g, u, y);
            oracle.Close([.. gate.Zip(up, (a, b) => Naive.Silu(a) * b)], y, oracle.Exact, $"SwiGluForward [{n}]");
            oracle.Backend.SwiGluBackward(d, g, u, dGate, dUp);
            oracle.Close([.. gate.Select((x, i) => dy[i] * up[i] * Naive.SiluSlope(x))], dGate, oracle.Exact, $"SwiGluBackward dGate [{n}]");
            oracle.Close([.. gate.Select((x, i) => dy[i] * Naive.Silu(x))], dUp, oracle.Exact, $"SwiGluBackward dUp [{n}]");

            oracle.Backend.SwiGluBackward(d, g, u, g, u);
            Assert.Equal(oracle.Get(dGate), oracle.Get(g));
            Assert.Equal(oracle.Get(dUp), oracle.Get(u));
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void SwiGlu_hugeGate_saturatesWithoutNaN(string device)
    {
        using Oracle oracle = new(device, 1);
        double[] gate = [-1e5, -200, -89, 0, 89, 200, 1e5, -1e5, 1e5], one = [.. gate.Select(_ => 1.0)];
        Slice g = oracle.Put(gate), u = oracle.Put(one), y = oracle.Output(9), dGate = oracle.Output(9), dUp = oracle.Output(9);
        oracle.Backend.SwiGluForward(g, u, y);
        oracle.Close([.. gate.Select(x => Math.Max(x, 0))], y, oracle.Exact, "SwiGluForward of huge gates");
        oracle.Backend.SwiGluBackward(u, g, u, dGate, dUp);
        oracle.Close([.. gate.Select(x => x == 0 ? 0.5 : x > 0 ? 1.0 : 0)], dGate, oracle.Exact, "SwiGluBackward of huge gates");
    }

    [Theory, MemberData(nameof(Devices))]
    public void Dropout_anyLength_drawsTheMaskOfTheKey(string device)
    {
        RandomKey key = new(0xfedcba98_76543210, 0x89abcdef, 0x76543210);
        foreach (double p in (double[])[0, 0.1, 0.5, 0.999])
        {
            foreach (int n in LengthsOn(device))
            {
                using Oracle oracle = new(device, n);
                double[] x = oracle.Values(n), before = oracle.Values(n), expected = Naive.Dropout(x, p, key);
                Slice xs = oracle.Fenced(x), y = oracle.Output(n), added = oracle.Fenced(before);
                oracle.Backend.Dropout(xs, p, key, y, accumulate: false);
                oracle.Close(expected, y, oracle.Exact, $"Dropout {p} [{n}]");
                Assert.Equal(expected.Select(value => value == 0), oracle.Get(y).Select(value => value == 0)); // the mask, exactly
                oracle.Backend.Dropout(xs, p, key, added, accumulate: true);
                oracle.Close([.. expected.Zip(before, (a, b) => a + b)], added, oracle.Exact, $"Dropout {p}, added, [{n}]");
                oracle.Backend.Dropout(xs, p, key, xs, accumulate: false);
                Assert.Equal(oracle.Get(y), oracle.Get(xs));
            }
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Elementwise_sliceThatStartsAnywhere_isTheSame(string device)
    {
        // Kernels move 16 bytes at a time where every slice starts at such an address, and single elements elsewhere.
        using Oracle oracle = new(device, 6);
        const int Length = 1003;
        double[] x = oracle.Values(Length + 3), y = oracle.Values(Length);
        RandomKey key = new(1, 2, 3);
        Slice from = oracle.Put(x).Range(3, Length), up = oracle.Put(y), to = oracle.Output(Length + 1).Range(1, Length), dGate = oracle.Output(Length);
        double[] values = x[3..];
        oracle.Backend.SwiGluForward(from, up, to);
        oracle.Close([.. values.Zip(y, (a, b) => Naive.Silu(a) * b)], to, oracle.Exact, "SwiGluForward");
        oracle.Backend.SwiGluBackward(up, from, up, dGate, to);
        oracle.Close([.. values.Zip(y, (a, b) => b * Naive.Silu(a))], to, oracle.Exact, "SwiGluBackward");
        oracle.Backend.Dropout(from, 0.4, key, to, accumulate: false);
        oracle.Close(Naive.Dropout(values, 0.4, key), to, oracle.Exact, "Dropout");
        oracle.Backend.Fill(to, -2);
        oracle.Backend.Add(from, 0.5, to);
        oracle.Close([.. values.Select(a => 0.5 * a - 2)], to, oracle.Exact, "Fill and Add");
        oracle.Backend.Copy(from, to);
        Assert.Equal(values, oracle.Get(to));
    }

    [Theory]
    [InlineData(-0.1)]
    [InlineData(1)]
    [InlineData(double.NaN)]
    public void Dropout_pOutsideRange_throws(double p)
    {
        using Oracle oracle = new("cpu", 1);
        Slice x = oracle.Put([1, 2]);
        Assert.Throws<ArgumentException>(() => oracle.Backend.Dropout(x, p, default, x, accumulate: false));
    }

    [Theory, MemberData(nameof(Devices))]
    public void AdamW_severalSteps_matchesFormula(string device)
    {
        foreach (int n in Lengths)
        {
            using Oracle oracle = new(device, n);
            double[] p = oracle.Values(n), m = new double[n], v = new double[n];
            Slice ps = oracle.FencedParameter(p), ms = oracle.FencedParameter(m), vs = oracle.FencedParameter(v);
            foreach (int t in (int[])[1, 2, 3, 1000])
            {
                double[] g = oracle.Values(n);
                AdamWStep step = new(t, 1e-2, 0.9, 0.999, 1e-8, 0.1, MaxNorm: t == 3 ? 0 : 1, Decaying: t == 2 ? n / 3 : long.MaxValue);
                oracle.Backend.AdamW(ps, oracle.PutParameter(g), ms, vs, step, t == 3 ? default : oracle.PutParameter([Naive.Norm(g)]));
                (p, m, v) = Naive.AdamW(p, g, m, v, step, Naive.Norm(g));
                oracle.Close(p, ps, oracle.ExactParameter, $"AdamW step {t}: p [{n}]");
                oracle.Close(m, ms, oracle.SumsParameter, $"AdamW step {t}: m [{n}]");
                oracle.Close(v, vs, oracle.SumsParameter, $"AdamW step {t}: v [{n}]");
            }
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void AdamW_slicesThatBeginAnywhere_sameBits(string device)
    {
        using Oracle oracle = new(device, 2);
        const int N = 1027;
        double[] p = oracle.Values(N), g = oracle.Values(N), m = oracle.Values(N), v = [.. oracle.Values(N).Select(x => x * x)];
        AdamWStep step = new(7, 1e-2, 0.9, 0.999, 1e-8, 0.1, 0, Decaying: 501);
        Slice whole = oracle.PutParameter(p), moved = oracle.PutParameter([0, .. p]).Range(1, N);
        oracle.Backend.AdamW(whole, oracle.PutParameter(g), oracle.PutParameter(m), oracle.PutParameter(v), step, default);
        oracle.Backend.AdamW(moved, oracle.PutParameter([0, .. g]).Range(1, N), oracle.PutParameter(m), oracle.PutParameter(v), step, default);
        Assert.Equal(oracle.Get(whole), oracle.Get(moved));
    }

    [Fact]
    public void AdamW_oneElement_matchesFirstStepByHand()
    {
        // m̂ = g and √v̂ = |g| in the first step, so p becomes p·(1 - 0.1·0.5) - 0.1·sign(g).
        using Oracle oracle = new("cpu-f64", 1);
        Slice p = oracle.Put([2.0, 2.0]), g = oracle.Put([4.0, -0.25]), m = oracle.Put([0.0, 0]), v = oracle.Put([0.0, 0]);
        oracle.Backend.AdamW(p, g, m, v, new AdamWStep(1, 0.1, 0.9, 0.99, 0, 0.5, 0), default);
        oracle.Close([1.8, 2.0], p, 1e-15, "AdamW by hand");
    }

    [Theory, MemberData(nameof(Devices))]
    public void AdamW_normNotFinite_spreadsAsInPyTorch(string device)
    {
        using Oracle oracle = new(device, 1);
        Slice p = oracle.PutParameter([1.0, 2]), g = oracle.PutParameter([double.NaN, 1]), zeros = oracle.PutParameter([0.0, 0]), v = oracle.PutParameter([0.0, 0]);
        oracle.Backend.AdamW(p, g, zeros, v, new AdamWStep(1, 0.1, 0.9, 0.99, 1e-8, 0, 1), oracle.PutParameter([double.NaN]));
        Assert.All(oracle.Get(p), x => Assert.True(double.IsNaN(x)));
    }

    [Theory, MemberData(nameof(Devices))]
    public void Operation_runAgainWithOtherThreadCounts_sameBits(string device)
    {
        using Oracle oracle = new(device, 5);
        const int Width = 129;
        int rows = oracle.Device is null ? 331 : 37, size = rows * Width;
        Backend backend = oracle.Backend;
        double[] zeros = new double[size];
        Slice x = oracle.Put(oracle.Values(size)), dy = oracle.Put(oracle.Values(size)), weight = oracle.PutParameter(oracle.Values(Width));
        Slice ids = oracle.Put(oracle.Integers(rows, 11)), one = oracle.OutputParameter(1), rstd = oracle.OutputParameter(rows), parameters = oracle.PutParameter(oracle.Values(size));
        Slice a = oracle.Put(zeros), b = oracle.Put(zeros), sums = oracle.PutParameter(new double[Width]), table = oracle.PutParameter(new double[11 * Width]);
        backend.RmsNormForward(x, weight, 1e-5, a, rstd);

        Oracle.Repeats(() =>
        {
            backend.Norm(parameters, one);
            backend.Sum(parameters, 0.3, one, accumulate: true);
            return oracle.Get(one);
        });
        Oracle.Repeats(() =>
        {
            backend.Fill(sums, 0);
            backend.RmsNormBackward(dy, x, weight, rstd, a, false, sums);
            return [.. oracle.Get(a), .. oracle.Get(sums)];
        });
        Oracle.Repeats(() =>
        {
            backend.Fill(table, 0);
            backend.EmbeddingBackward(ids, dy, table);
            return oracle.Get(table);
        });
        Oracle.Repeats(() =>
        {
            backend.SwiGluForward(x, dy, a);
            backend.Dropout(a, 0.3, new RandomKey(1, 2, 3), b, false);
            backend.Add(x, 0.5, b);
            return oracle.Get(b);
        });
    }

    [Fact]
    public void Operation_wrongShapeOrType_saysWhatWasExpected()
    {
        using Oracle oracle = new("cpu", 1);
        Backend backend = oracle.Backend;
        Slice six = oracle.Put(new double[6]), four = oracle.Put(new double[4]), doubles = oracle.Put(new double[6], DType.F64), ids = oracle.Put([0, 1]);
        Assert.Equal("Add: y has 4 elements, expected 6. (Parameter 'y')", Assert.Throws<ArgumentException>(() => backend.Add(six, 1, four)).Message);
        Assert.Equal("Add: x is F64, expected F32. (Parameter 'x')", Assert.Throws<ArgumentException>(() => backend.Add(doubles, 1, six)).Message);
        Assert.Throws<ArgumentException>(() => backend.Copy(six, four));
        Assert.Throws<ArgumentException>(() => backend.GatherRows(six, six, 3, six));
        Assert.Throws<ArgumentException>(() => backend.GatherRows(six, ids, 4, six));
        Assert.Throws<ArgumentException>(() => backend.ScatterRows(four, ids, 3, six, true));
        Assert.Throws<ArgumentException>(() => backend.EmbeddingForward(ids, new Weight(3, 2, six), six));
        Assert.Throws<ArgumentException>(() => backend.EmbeddingBackward(ids, six, four));
        Assert.Throws<ArgumentException>(() => backend.RmsNormForward(six, four, 1e-5, six, default));
        Assert.Throws<ArgumentException>(() => backend.RmsNormForward(six, six, 1e-5, four, default));
        Assert.Throws<ArgumentException>(() => backend.RmsNormBackward(six, six, six, default, six, false, default));
        Assert.Throws<ArgumentException>(() => backend.Rope(six, four, four, ids, 1, 3, false));
        Assert.Throws<ArgumentException>(() => backend.Rope(six, four, four, ids, 1, 4, false));
        Assert.Throws<ArgumentException>(() => backend.SwiGluForward(six, four, six));
        Assert.Throws<ArgumentException>(() => backend.SwiGluBackward(six, six, six, six, four));
        Assert.Throws<ArgumentException>(() => backend.Dropout(six, 0.1, default, four, false));
        Assert.Throws<ArgumentException>(() => backend.AdamW(six, six, four, six, new AdamWStep(1, 0.1, 0.9, 0.99, 1e-8, 0, 0), default));
        Assert.Throws<ArgumentException>(() => backend.AdamW(six, six, six, six, new AdamWStep(0, 0.1, 0.9, 0.99, 1e-8, 0, 0), default));
        Assert.Throws<ArgumentException>(() => backend.Norm(six, four));
        Assert.Throws<ArgumentException>(() => backend.Sum(six, 1, four, accumulate: false));
        Assert.Throws<ArgumentException>(() => backend.RmsNormForward(six, six, 1e-5, six, default, four));
    }
}
