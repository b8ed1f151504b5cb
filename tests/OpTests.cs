using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Elementwise operations, sums and rotations on every device against <see cref="Naive"/>: odd lengths, one element over a tile, outliers.</summary>
public class OpTests
{
    public static TheoryData<string> Devices => Oracle.Devices;

    [Theory, MemberData(nameof(Devices))]
    public void Add_anyLength_matchesFormula(string device)
    {
        foreach (int n in OpShapes.Lengths(device))
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
        foreach (int n in (int[])[.. OpShapes.Lengths(device), 1_100_001])
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
        foreach (int n in (int[])[.. OpShapes.Lengths(device), 1_100_001])
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
        foreach (int n in OpShapes.Lengths(device))
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
        foreach (double p in (double[])[0, 0.1, 0.5, 0.999, key.Uniform(2)]) // the last is drawn itself, and kept
        {
            foreach (int n in OpShapes.Lengths(device))
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
