using System.Numerics;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Attention on every device against the full matrix of probabilities.</summary>
public class AttentionTests
{
    static readonly AttentionCase[] All =
    [
        new("one token", 1, 1, 8, 0, [0, 1, 0, 1]),
        new("three tokens", 2, 1, 8, 0, [0, 3, 0, 3]),
        new("grouped heads over several blocks", 6, 2, 16, 0, [0, 211, 0, 211]),
        new("packed, odd lengths", 3, 3, 64, 0, [0, 5, 0, 5, 5, 97, 5, 97, 102, 1, 102, 1, 103, 49, 103, 49]),
        new("a tile edge and one past it", 2, 2, 16, 0, [0, 96, 0, 96, 96, 97, 96, 97, 193, 24, 193, 24, 217, 25, 217, 25]),
        new("width 72", 4, 2, 72, 0, [0, 65, 0, 65]),
        new("width 128", 2, 1, 128, 0, [0, 50, 0, 50]),
        new("width 256, eight heads a group", 8, 1, 256, 0, [0, 31, 0, 31]),
        new("width 10", 3, 1, 10, 0, [0, 40, 0, 40]),
        new("width 1", 2, 2, 1, 0, [0, 30, 0, 30]),
        new("window 1", 2, 1, 16, 1, [0, 130, 0, 130]),
        new("window 7", 2, 1, 16, 7, [0, 130, 0, 130]),
        new("window 100 over blocks", 3, 3, 16, 100, [0, 333, 0, 333]),
        new("window larger than the sequence", 2, 1, 16, 1000, [0, 33, 0, 33]),
        new("prefix", 4, 2, 16, 0, [0, 20, 0, 25, 20, 60, 25, 160]),
        new("prefix and window", 4, 2, 16, 50, [0, 20, 0, 25, 20, 60, 25, 260]),
        new("decoding beside prefill", 6, 2, 64, 0, [0, 1, 0, 300, 1, 40, 300, 40, 41, 1, 340, 1]),
        new("decoding with a window", 6, 2, 24, 30, [0, 1, 0, 300]),
        new("rows and keys of no sequence, an empty sequence", 2, 1, 16, 0, [3, 30, 7, 30, 33, 0, 40, 5, 40, 10, 50, 12, 55, 0, 70, 0]),
    ];

    /// <summary>What kernels do differently from the host, in shapes that the emulator can afford: tiles of 32 or 64 rows and 64 keys, parts of keys.</summary>
    static readonly AttentionCase[] OnKernels =
    [
        Named("one token"),
        Named("three tokens"),
        new("grouped heads over tiles", 6, 2, 16, 0, [0, 70, 0, 70]),
        new("packed over tiles, odd lengths", 2, 2, 64, 0, [0, 5, 0, 5, 5, 67, 5, 67, 72, 1, 72, 1, 73, 33, 73, 33]),
        new("a tile and one past it", 1, 1, 16, 0, [0, 64, 0, 64, 64, 65, 64, 65, 129, 32, 129, 32, 161, 33, 161, 33]),
        new("seventy short sequences", 1, 1, 8, 0, [.. Enumerable.Range(0, 70).SelectMany(i => (int[])[2 * i, 2, 2 * i, 2])]),
        new("width 72, a few rows", 2, 1, 72, 0, [0, 35, 0, 35]),
        new("width 128, a few rows", 2, 1, 128, 0, [0, 20, 0, 20]),
        new("width 256, a few rows", 8, 1, 256, 0, [0, 9, 0, 9]),
        new("width 10, a few rows", 3, 1, 10, 0, [0, 20, 0, 20]),
        Named("width 1"),
        new("window 1 over tiles", 1, 1, 16, 1, [0, 70, 0, 70]),
        new("window 7 over tiles", 2, 1, 16, 7, [0, 70, 0, 70]),
        new("window 70 over tiles", 1, 1, 16, 70, [0, 150, 0, 150]),
        Named("window larger than the sequence"),
        new("prefix over tiles", 4, 2, 16, 0, [0, 20, 0, 25, 20, 30, 25, 130]),
        new("prefix and window over tiles", 4, 2, 16, 50, [0, 20, 0, 25, 20, 30, 25, 130]),
        new("decoding in parts beside prefill", 4, 2, 32, 0, [0, 1, 0, 300, 1, 20, 300, 20, 21, 1, 320, 1]),
        Named("decoding with a window"),
        new("decoding, forty heads a key", 40, 1, 8, 0, [0, 1, 0, 70]),
        new("decoding in parts, rows of no sequence", 2, 1, 16, 0, [1, 1, 3, 200, 3, 1, 210, 40, 5, 0, 255, 0]),
        Named("rows and keys of no sequence, an empty sequence"),
    ];

    public static TheoryData<string, string> Cases =>
        [.. Oracle.MatrixDevices.SelectMany(device => (device.Data.StartsWith("cpu", StringComparison.Ordinal) ? All : OnKernels).Select(c => (device.Data, c.Name)))];

    [Theory]
    [MemberData(nameof(Cases))]
    public void Forward_matchesTheFullMatrix(string device, string name)
    {
        using var run = new AttentionRun(device, Named(name), 1);
        var (y, lse) = Full(run.Case, run.Q, run.K, run.V);
        run.Forward();
        run.Oracle.Close(y, run.Y, run.Oracle.Sums, "y");
        run.Oracle.Close(lse, run.Lse, run.Oracle.SumsParameter, "lse");
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Forward_withoutLse_writesTheSameOutput(string device, string name)
    {
        using var run = new AttentionRun(device, Named(name), 2);
        run.Forward();
        double[] with = run.Oracle.Get(run.Y);
        run.Oracle.Backend.Fill(run.Y, double.NaN);
        run.Oracle.Backend.AttentionForward(run.Case.Shape, run.Query, run.Key, run.Value, run.Table, run.Y, default);
        Assert.Equal(with, run.Oracle.Get(run.Y));
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public void Backward_matchesTheFullMatrix(string device, string name)
    {
        using var run = new AttentionRun(device, Named(name), 3);
        var (dq, dk, dv, terms) = FullBackward(run.Case, run.Dy, run.Q, run.K, run.V);
        run.Forward();
        run.Backward();
        if (dq.All(x => x == 0))
        {
            // With one visible key the probabilities are constant: what is left of dP − D is rounding.
            double rounding = run.Oracle.Sums * run.Dy.Max(Math.Abs) * run.V.Max(Math.Abs);
            Assert.All(run.Oracle.Get(run.DQuery).Concat(run.Oracle.Get(run.DKey)), x => Assert.InRange(Math.Abs(x), 0, rounding));
        }
        else
        {
            // dP − D cancels, and D comes from an output that was rounded.
            bool rounded = run.Oracle.Backend.Activation == DType.BF16;
            run.Oracle.Close(dq, run.DQuery, run.Oracle.Sums, "dq", rounded ? terms.Dq : 0);
            run.Oracle.Close(dk, run.DKey, run.Oracle.Sums, "dk", rounded ? terms.Dk : 0);
        }

        run.Oracle.Close(dv, run.DValue, run.Oracle.Sums, "dv");
    }

    [Theory]
    [InlineData("grouped heads over several blocks")]
    [InlineData("prefix and window")]
    [InlineData("width 10")]
    public void Backward_isTheSlopeOfForward(string name)
    {
        using var run = new AttentionRun("cpu-f64", Named(name), 4, outliers: 0);
        run.Forward();
        run.Backward();
        double[] dq = run.Oracle.Get(run.DQuery), dk = run.Oracle.Get(run.DKey), dv = run.Oracle.Get(run.DValue);
        FiniteDifference.Check("dq", 4, run.Q, dq, q => Loss(run, q, run.K, run.V));
        FiniteDifference.Check("dk", 4, run.K, dk, k => Loss(run, run.Q, k, run.V));
        FiniteDifference.Check("dv", 4, run.V, dv, v => Loss(run, run.Q, run.K, v));
    }

    [Theory]
    [InlineData("cpu", "packed, odd lengths")]
    [InlineData("cpu-f64", "packed, odd lengths")]
    [InlineData("emulator-f32", "packed over tiles, odd lengths")]
    [InlineData("emulator-bf16-portable", "packed over tiles, odd lengths")]
    public void Packed_givesTheBitsOfEachSequenceByItself(string device, string name)
    {
        using var run = new AttentionRun(device, Named(name), 5);
        run.Forward();
        run.Backward();
        double[][] packed = [run.Oracle.Get(run.Y), run.Oracle.Get(run.DQuery), run.Oracle.Get(run.DKey), run.Oracle.Get(run.DValue)];
        int width = run.Case.Heads * run.Case.Width;
        for (int s = 0; s < run.Case.Table.Length; s += 4)
        {
            int first = run.Case.Table[s], count = run.Case.Table[s + 1];
            using var alone = new AttentionRun(device, run.Case with { Table = [0, count, 0, count] }, 5);
            foreach (var (from, to) in new[] { (run.Query, alone.Query), (run.Key, alone.Key), (run.Value, alone.Value), (run.DOutput, alone.DOutput) })
            {
                byte[] rows = new byte[to.Bytes];
                run.Oracle.Backend.Download(from.Range(first * width, count * width), rows);
                alone.Oracle.Backend.Upload(rows, to);
            }

            alone.Forward();
            alone.Backward();
            Slice[] separate = [alone.Y, alone.DQuery, alone.DKey, alone.DValue];
            for (int i = 0; i < packed.Length; i++)
            {
                Assert.Equal(packed[i][(first * width)..((first + count) * width)], alone.Oracle.Get(separate[i]));
            }
        }
    }

    [Theory]
    [InlineData("cpu", 0)]
    [InlineData("cpu", 40)]
    [InlineData("cpu-f64", 0)]
    [InlineData("emulator-f32", 40)]
    [InlineData("emulator-bf16", 0)]
    [InlineData("emulator-bf16-portable", 40)]
    public void Decoding_eachToken_matchesTheRowsOfPrefill(string device, int window)
    {
        var prefill = new AttentionCase("prefill", 6, 2, 24, window, [0, 130, 0, 130]);
        using var run = new AttentionRun(device, prefill, 6);
        run.Forward();
        double[] whole = run.Oracle.Get(run.Y);
        int width = prefill.Heads * prefill.Width;
        foreach (int position in (int[])[0, 1, 39, 40, 95, 96, 97, 129])
        {
            Slice y = run.Oracle.Output(width);
            run.Oracle.Backend.AttentionForward(prefill.Shape, run.Query.Range(position * width, width), run.Key, run.Value, run.Oracle.Put([0, 1, 0, position + 1]), y, default);
            run.Oracle.Close(whole[(position * width)..((position + 1) * width)], y, run.Oracle.Sums, $"token {position}");
        }
    }

    [Theory]
    [MemberData(nameof(Oracle.MatrixDevices), MemberType = typeof(Oracle))]
    public void HugeScores_staysFinite(string device)
    {
        var c = new AttentionCase("huge", 2, 1, 16, 0, [0, 80, 0, 80]);
        using var run = new AttentionRun(device, c, 7, scale: 128); // scores reach 10⁵
        var (y, _) = Full(c, run.Q, run.K, run.V);
        run.Forward();
        run.Backward();
        run.Oracle.Close(y, run.Y, device == "cpu-f64" ? 1e-9 : 1e-2, "y"); // a score of 10⁵ carries an absolute error of 10⁻²
        Assert.All(run.Oracle.Get(run.DQuery).Concat(run.Oracle.Get(run.DKey)).Concat(run.Oracle.Get(run.DValue)), x => Assert.True(double.IsFinite(x)));
    }

    [Theory]
    [MemberData(nameof(Oracle.MatrixDevices), MemberType = typeof(Oracle))]
    public void EqualScores_averageTheValues(string device)
    {
        var c = new AttentionCase("equal", 1, 1, 4, 0, [0, 100, 0, 100]);
        using var run = new AttentionRun(device, c, 8);
        run.Oracle.Backend.Fill(run.Key, 0);
        run.Forward();
        double[] running = new double[4];
        var expected = new double[400];
        for (int i = 0; i < 400; i++)
        {
            running[i % 4] += run.V[i];
            expected[i] = running[i % 4] / (i / 4 + 1);
        }

        run.Oracle.Close(expected, run.Y, run.Oracle.Sums, "y");
    }

    [Theory]
    [InlineData("cpu", "grouped heads over several blocks")]
    [InlineData("cpu", "decoding beside prefill")]
    [InlineData("cpu-f64", "prefix and window")]
    public void AnyNumberOfThreads_givesTheSameBits(string device, string name)
    {
        using var run = new AttentionRun(device, Named(name), 9);
        Oracle.Repeats(() =>
        {
            run.Forward();
            run.Backward();
            return [.. run.Oracle.Get(run.Y), .. run.Oracle.Get(run.Lse), .. run.Oracle.Get(run.DQuery), .. run.Oracle.Get(run.DKey), .. run.Oracle.Get(run.DValue)];
        });
    }

    [Fact]
    public void Exp_everyFloatRange_isWithinTwoUlp()
    {
        for (float x = -87.3f; x < 88.3f; x += 0.000731f)
        {
            float expected = (float)Math.Exp(x), got = Lanes<float>.Exp(Vector.Create(x))[0];
            Assert.True(Math.Abs((double)got - expected) <= 2 * Math.Max(MathF.BitIncrement(expected) - expected, 0), $"exp({x:r}) is {expected:r}, got {got:r}");
        }

        (float X, float Y)[] edges = [(0, 1), (-0f, 1), (-88, 0), (float.MinValue, 0), (float.NegativeInfinity, 0), (89, float.PositiveInfinity), (1e30f, float.PositiveInfinity),
            (float.PositiveInfinity, float.PositiveInfinity), (float.NaN, float.NaN)];
        Assert.All(edges, edge => Assert.Equal(edge.Y, Lanes<float>.Exp(Vector.Create(edge.X))[0]));
    }

    [Theory]
    [InlineData("cpu")]
    [InlineData("cpu-f64")]
    public void Decoding_overSeveralParts_matchesTheFullMatrix(string device)
    {
        using var run = new AttentionRun(device, new AttentionCase("long", 6, 2, 20, 0, [0, 1, 0, 1000, 1, 1, 1000, 385, 2, 1, 1385, 384]), 12);
        var (y, lse) = Full(run.Case, run.Q, run.K, run.V);
        run.Forward();
        run.Oracle.Close(y, run.Y, run.Oracle.Sums, "y");
        run.Oracle.Close(lse, run.Lse, run.Oracle.SumsParameter, "lse");
    }

    [Theory]
    [InlineData(new[] { 0, 5, 0, 4 }, "keys >= queries")]
    [InlineData(new[] { 0, 5, 6, 5 }, "within 10")]
    [InlineData(new[] { 6, 5, 0, 5 }, "within 10")]
    [InlineData(new[] { 0, 5, 0, 5, 4, 5, 5, 5 }, "after the sequence before")]
    [InlineData(new[] { -1, 5, 0, 5 }, "query -1")]
    public void Forward_aTableThatLeavesItsTensors_throws(int[] table, string message)
    {
        using var oracle = new Oracle("cpu", 10);
        Slice rows = oracle.Put(new double[10 * 8]);
        var error = Assert.Throws<ArgumentException>(() =>
            oracle.Backend.AttentionForward(new AttentionShape(1, 1, 8, 1), rows, rows, rows, oracle.Put(table), oracle.Output(80), default));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Backward_sequencesThatShareKeys_throws()
    {
        using var run = new AttentionRun("cpu", new AttentionCase("shared", 1, 1, 8, 0, [0, 5, 0, 5, 5, 5, 0, 5]), 11);
        run.Forward();
        var error = Assert.Throws<ArgumentException>(run.Backward);
        Assert.Contains("sequence 1", error.Message, StringComparison.Ordinal);
    }

    static AttentionCase Named(string name) => All.Concat(OnKernels ?? []).First(c => c.Name == name);

    static double Loss(AttentionRun run, double[] q, double[] k, double[] v)
    {
        var backend = run.Oracle.Backend;
        Slice[] inputs = [run.Oracle.Put(q), run.Oracle.Put(k), run.Oracle.Put(v)];
        Slice y = run.Oracle.Output(q.Length);
        backend.AttentionForward(run.Case.Shape, inputs[0], inputs[1], inputs[2], run.Table, y, default);
        return run.Oracle.Get(y).Zip(run.Dy, (a, b) => a * b).Sum();
    }

    /// <summary>Visits the probabilities of each query and head: query row, head, first visible key row, P.</summary>
    static void Visit(AttentionCase c, double[] q, double[] k, Action<int, int, int, double[], double> visit)
    {
        var shape = c.Shape;
        for (int s = 0; s < c.Table.Length; s += 4)
        {
            int query = c.Table[s], queries = c.Table[s + 1], key = c.Table[s + 2], keys = c.Table[s + 3];
            for (int i = 0; i < queries; i++)
            {
                int end = keys - queries + i + 1, first = c.Window == 0 ? 0 : Math.Max(0, end - c.Window);
                for (int h = 0; h < c.Heads; h++)
                {
                    var scores = new double[end - first];
                    for (int j = first; j < end; j++)
                    {
                        for (int x = 0; x < c.Width; x++)
                        {
                            scores[j - first] += shape.Scale * q[((query + i) * c.Heads + h) * c.Width + x]
                                * k[((key + j) * c.KeyValueHeads + h / (c.Heads / c.KeyValueHeads)) * c.Width + x];
                        }
                    }

                    double maximum = scores.Max(), total = scores.Sum(score => Math.Exp(score - maximum));
                    visit(query + i, h, key + first, [.. scores.Select(score => Math.Exp(score - maximum) / total)], maximum + Math.Log(total));
                }
            }
        }
    }

    static (double[] Y, double[] Lse) Full(AttentionCase c, double[] q, double[] k, double[] v)
    {
        var y = new double[q.Length];
        var lse = new double[c.Queries * c.Heads];
        Visit(c, q, k, (row, h, key, p, log) =>
        {
            lse[row * c.Heads + h] = log;
            for (int j = 0; j < p.Length; j++)
            {
                for (int x = 0; x < c.Width; x++)
                {
                    y[(row * c.Heads + h) * c.Width + x] += p[j] * v[((key + j) * c.KeyValueHeads + h / (c.Heads / c.KeyValueHeads)) * c.Width + x];
                }
            }
        });
        return (y, lse);
    }

    /// <summary>The gradients, and the norms of what D contributes to them with all its terms positive.</summary>
    static (double[] Dq, double[] Dk, double[] Dv, (double Dq, double Dk) Terms) FullBackward(AttentionCase c, double[] dy, double[] q, double[] k, double[] v)
    {
        double[] dq = new double[q.Length], dk = new double[k.Length], dv = new double[k.Length], ofQueries = new double[q.Length], ofKeys = new double[k.Length];
        Visit(c, q, k, (row, h, key, p, _) =>
        {
            int at = (row * c.Heads + h) * c.Width;
            int Key(int j) => ((key + j) * c.KeyValueHeads + h / (c.Heads / c.KeyValueHeads)) * c.Width;
            double[] dp = [.. p.Select((_, j) => Enumerable.Range(0, c.Width).Sum(x => dy[at + x] * v[Key(j) + x]))];
            double mean = p.Zip(dp, (a, b) => a * b).Sum();
            double terms = Enumerable.Range(0, c.Width).Sum(x => Math.Abs(dy[at + x] * p.Select((probability, j) => probability * v[Key(j) + x]).Sum()));
            for (int j = 0; j < p.Length; j++)
            {
                double ds = p[j] * (dp[j] - mean) * c.Shape.Scale;
                for (int x = 0; x < c.Width; x++)
                {
                    dq[at + x] += ds * k[Key(j) + x];
                    dk[Key(j) + x] += ds * q[at + x];
                    dv[Key(j) + x] += p[j] * dy[at + x];
                    ofQueries[at + x] += p[j] * terms * c.Shape.Scale * k[Key(j) + x];
                    ofKeys[Key(j) + x] += p[j] * terms * c.Shape.Scale * q[at + x];
                }
            }
        });
        return (dq, dk, dv, (Math.Sqrt(ofQueries.Sum(x => x * x)), Math.Sqrt(ofKeys.Sum(x => x * x))));
    }
}
