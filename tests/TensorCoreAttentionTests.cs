using System.Text.RegularExpressions;
using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Attention on tensor cores, against the host in double precision on the same bfloat16 numbers.</summary>
public class TensorCoreAttentionTests
{
    /// <summary>Query row, queries, key row, keys of each sequence.</summary>
    public sealed record Case(string Name, int Heads, int KeyValueHeads, int Width, int Window, int[] Table)
    {
        public AttentionShape Shape => new(Heads, KeyValueHeads, Width, 1 / Math.Sqrt(Width), Window);

        /// <summary>Rows of the tensors: two queries and three keys more than the sequences have.</summary>
        public int Queries => Enumerable.Range(0, Table.Length / 4).Max(i => Table[4 * i] + Table[4 * i + 1]) + 2;

        public int Keys => Enumerable.Range(0, Table.Length / 4).Max(i => Table[4 * i + 2] + Table[4 * i + 3]) + 3;
    }

    static readonly Case[] All =
    [
        new("one token", 1, 1, 16, 0, [0, 1, 0, 1]),
        new("grouped heads over tiles", 4, 2, 32, 0, [0, 140, 0, 140]),
        new("a tile, one less and one more", 1, 1, 64, 0, [0, 64, 0, 64, 64, 63, 64, 63, 127, 129, 127, 129]),
        new("packed, odd lengths", 2, 2, 64, 0, [0, 5, 0, 5, 5, 97, 5, 97, 102, 1, 102, 1, 103, 49, 103, 49]),
        new("width 8", 1, 1, 8, 0, [0, 40, 0, 40]),
        new("width 10", 3, 1, 10, 0, [0, 40, 0, 40]),
        new("width 33", 1, 1, 33, 0, [0, 50, 0, 50]),
        new("width 48", 1, 1, 48, 0, [0, 70, 0, 70]),
        new("width 80", 2, 1, 80, 0, [0, 50, 0, 50]),
        new("width 128", 2, 1, 128, 0, [0, 65, 0, 65, 65, 33, 65, 33]),
        new("width 160", 1, 1, 160, 0, [0, 70, 0, 70]),
        new("width 256", 2, 1, 256, 0, [0, 70, 0, 70]),
        new("window 1", 2, 1, 16, 1, [0, 130, 0, 130]),
        new("window 7", 2, 1, 16, 7, [0, 130, 0, 130]),
        new("window 2, tiles of which one query sees one key", 1, 1, 16, 2, [0, 140, 0, 140]),
        new("window 100 over tiles", 1, 1, 64, 100, [0, 290, 0, 290]),
        new("window of a tile", 1, 1, 128, 32, [0, 140, 0, 140]),
        new("window larger than the sequence", 2, 1, 16, 1000, [0, 33, 0, 33]),
        new("prefix", 4, 2, 16, 0, [0, 20, 0, 25, 20, 60, 25, 160]),
        new("prefix and window, keys that no query sees", 4, 2, 16, 50, [0, 20, 0, 25, 20, 60, 25, 260]),
        new("decoding beside prefill", 2, 1, 64, 0, [0, 1, 0, 300, 1, 40, 300, 40, 41, 1, 340, 1]),
        new("rows of no sequence, an empty sequence", 2, 1, 16, 0, [3, 30, 7, 30, 33, 0, 40, 5, 40, 10, 50, 12]),
        new("rows of no sequence, value by value", 1, 1, 10, 0, [3, 30, 7, 30, 33, 0, 40, 5, 40, 10, 50, 12]),
    ];

    public static TheoryData<string> Cases => [.. All.Select(c => c.Name)];

    [Theory]
    [MemberData(nameof(Cases))]
    public void ForwardAndBackward_matchTheHostInDouble(string name)
    {
        foreach (string device in TestDevices.WithTensorCores)
        {
            using var run = new Run(Named(name), 1, device: device);
            run.Forward();
            run.Backward();
            run.CheckForward();
            run.CheckBackward();
        }
    }

    [Fact]
    public void Results_areRoundedLikeTensorCores()
    {
        using var run = new Run(Named("packed, odd lengths"), 2, outliers: 0);
        run.Forward();
        run.Backward();
        foreach (var (expected, actual) in run.Results)
        {
            double[] values = run.Get(actual);
            Assert.InRange(expected.Zip(values, (x, y) => Math.Abs(x - y)).Max(), 1e-8, 0.1);
        }
    }

    [Fact]
    public void HugeScores_stayFinite()
    {
        using var run = new Run(Named("grouped heads over tiles"), 3, scale: 1000);
        run.Forward();
        run.Backward();
        run.CheckForward();
        Assert.All(run.Results.SelectMany(result => run.Get(result.Actual)), x => Assert.True(double.IsFinite(x)));
    }

    [Theory]
    [InlineData("packed, odd lengths")]
    [InlineData("prefix and window, keys that no query sees")]
    public void Runs_repeatBitForBit(string name)
    {
        using var run = new Run(Named(name), 4);
        double[][] results = new double[2][];
        foreach (ref double[] result in results.AsSpan())
        {
            run.Forward();
            run.Backward();
            result = [.. run.Results.SelectMany(result => run.Get(result.Actual))];
        }

        Assert.Equal(results[0].Select(BitConverter.DoubleToInt64Bits), results[1].Select(BitConverter.DoubleToInt64Bits));
    }

    [Fact]
    public void Forward_withoutLse_writesTheSameOutput()
    {
        using var run = new Run(Named("packed, odd lengths"), 5);
        run.Forward();
        double[] with = run.Get(run.Y);
        run.Forward(lse: false);
        Assert.Equal(with, run.Get(run.Y));
    }

    /// <summary>A slice that begins between chunks is read and written value by value, with the same result.</summary>
    [Fact]
    public void UnalignedSlices_giveTheSameBits()
    {
        var c = Named("packed, odd lengths");
        using Run aligned = new(c, 6), unaligned = new(c, 6, shift: 3);
        foreach (var run in (Run[])[aligned, unaligned])
        {
            run.Forward();
            run.Backward();
        }

        foreach (var (x, y) in aligned.Results.Zip(unaligned.Results))
        {
            Assert.Equal(aligned.Get(x.Actual), unaligned.Get(y.Actual));
        }
    }

    /// <summary>
    /// Of one sequence of 128 tokens, a warp computes only the tiles of which its rows see something. A product of 16·R rows, n columns and C terms takes R·n·C/128 multiplies:
    /// for C = 64, forward, warps of 32 queries see 1, 1, 2 and 2 tiles of 64 keys, in two products each.
    /// </summary>
    [Theory]
    [InlineData(64, 6 * 2 * 64, 10 * 3 * 32, 12 * 4 * 32)]
    [InlineData(128, 10 * 2 * 64, 12 * 3 * 64, 20 * 4 * 32)]
    [InlineData(256, 20 * 2 * 64, 36 * 3 * 32, 36 * 5 * 32)]
    public void Multiplies_areThoseOfVisibleTiles(int width, int forward, int queries, int keys)
    {
        using var run = Counted(width);
        Assert.Equal(forward, run.Counters("ForwardKernel").Sum(x => x.MatrixMultiplies));
        Assert.Equal(queries, run.Counters("QueryKernel").Sum(x => x.MatrixMultiplies));
        Assert.Equal(keys, run.Counters("KeyKernel").Sum(x => x.MatrixMultiplies));
    }

    [Theory]
    [InlineData(16)]
    [InlineData(64)]
    [InlineData(96)]
    [InlineData(128)]
    [InlineData(256)]
    public void SharedMemory_hasNoBankConflicts(int width)
    {
        using var run = Counted(width);
        foreach (var counters in run.Counters("ForwardKernel", "QueryKernel", "KeyKernel"))
        {
            // A wavefront moves 128 bytes; a few requests, for numbers of rows, are of less than a whole warp.
            Assert.InRange(counters.SharedWavefronts - counters.SharedBytes / 128.0, 0, 16);
        }
    }

    [Fact]
    public void Forward_readsEachTileOnce()
    {
        using var run = Counted(128);
        long bytes = 3 * 128 * 128 * 2; // q, k, v: one tile of queries sees all keys
        Assert.InRange(32 * run.Counters("ForwardKernel").Single().GlobalLoadSectors, bytes, 1.1 * bytes);
    }

    [Theory]
    [InlineData(64, 2 * 64, 3 * 32, 4 * 32)]
    [InlineData(128, 2 * 64, 3 * 64, 4 * 32)]
    [InlineData(256, 2 * 64, 3 * 32, 3 * 32)]
    public void Kernels_inPtx_keepTilesInRegisters(int width, int forward, int queries, int keys)
    {
        using var run = Counted(width);
        foreach (var (kernel, multiplies) in new[] { ("ForwardKernel", forward), ("QueryKernel", queries), ("KeyKernel", keys) })
        {
            string[] texts = run.Ptx(kernel);
            Assert.Contains(texts, ptx => Regex.Count(ptx, @"mma\.sync") == multiplies && ptx.Contains("cp.async.cg.shared.global") && ptx.Contains("st.global.v4.b32"));
            Assert.All(texts, ptx => Assert.Contains("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16", ptx));
            Assert.All(texts, ptx => KernelRecords.CheckMemory(ptx, $"{kernel} of heads of {width}"));
        }
    }

    static Case Named(string name) => All.Single(c => c.Name == name);

    /// <summary>One head over one sequence of 128 tokens, forward and backward.</summary>
    static Run Counted(int width)
    {
        var run = new Run(new Case("counted", 1, 1, width, 0, [0, 128, 0, 128]), 7);
        run.Device.Launches(() =>
        {
            run.Forward();
            run.Backward();
        });
        return run;
    }

    sealed class Run : IDisposable
    {
        readonly Oracle oracle, host;
        readonly Slice q, k, v, dy, table;
        readonly Slice[] hostInputs;
        readonly ScratchBuffers scratch;
        readonly double rounding;

        public Run(Case c, int seed, double outliers = 0.01, double scale = 1, int shift = 0, string device = "emulator-bf16")
        {
            (Case, oracle, host) = (c, new Oracle(device, seed), new Oracle("cpu-f64", seed));
            scratch = new ScratchBuffers(Device);
            long query = (long)c.Queries * c.Heads * c.Width, key = (long)c.Keys * c.KeyValueHeads * c.Width;
            double[][] inputs = [oracle.Values(query, outliers), oracle.Values(key, 0), oracle.Values(key, outliers), oracle.Values(query, outliers)];
            inputs[0] = [.. inputs[0].Select(x => scale * x)];
            rounding = 1e-4 * inputs[2].Max(Math.Abs) * inputs[3].Max(Math.Abs);
            q = oracle.Put([.. new double[shift], .. inputs[0]]).Range(shift, query);
            (k, v, dy, table) = (oracle.Put(inputs[1]), oracle.Put(inputs[2]), oracle.Put(inputs[3]), oracle.Put(c.Table));
            (Y, Lse) = (oracle.Output(query), oracle.OutputParameter((long)c.Queries * c.Heads));
            (DQuery, DKey, DValue) = (oracle.Output(query), oracle.Output(key), oracle.Output(key));
            hostInputs = [host.Put(oracle.Get(q)), .. inputs[1..].Select(host.Put), host.Put(c.Table)];
        }

        public Case Case { get; }

        public KernelDevice Device => oracle.Device!;

        public Slice Y { get; }

        public Slice Lse { get; }

        public Slice DQuery { get; }

        public Slice DKey { get; }

        public Slice DValue { get; }

        /// <summary>What the host computes, and where the device's result is: y, lse, dq, dk, dv.</summary>
        public IReadOnlyList<(double[] Expected, Slice Actual)> Results => results ??= Reference();

        IReadOnlyList<(double[] Expected, Slice Actual)>? results;

        public void Forward(bool lse = true) => TensorCoreAttention.Forward(Device, Case.Shape, q, k, v, table, Y, lse ? Lse : default);

        public void Backward() => TensorCoreAttention.Backward(Device, scratch, Case.Shape, dy, q, k, v, table, Y, Lse, DQuery, DKey, DValue);

        public void CheckForward()
        {
            oracle.Close(Results[0].Expected, Y, 1e-2, "y");
            oracle.Close(Results[1].Expected, Lse, 1e-5, "lse");
        }

        public void CheckBackward()
        {
            foreach (var ((expected, actual), name) in Results.Skip(2).Zip((string[])["dq", "dk", "dv"]))
            {
                if (expected.All(x => x == 0))
                {
                    // With one visible key the probabilities are constant: what is left of dP − D is rounding.
                    Assert.All(oracle.Get(actual), x => Assert.InRange(Math.Abs(x), 0, rounding));
                }
                else
                {
                    oracle.Close(expected, actual, 1e-2, name);
                }
            }
        }

        public double[] Get(Slice slice) => oracle.Get(slice);

        public LaunchCounters[] Counters(params string[] kernels) =>
            [.. Device.Log!.Where(launch => kernels.Any(kernel => launch.Kernel.EndsWith(kernel, StringComparison.Ordinal))).Select(launch => launch.Counters!)];

        /// <summary>The texts of all kernels of that name, one for each width that the device has seen.</summary>
        public string[] Ptx(string kernel) => [.. Device.Texts().Where(text => text.Name == $"TensorCoreAttention.{kernel}").Select(text => text.Ptx)];

        public void Dispose()
        {
            scratch.Dispose();
            oracle.Dispose();
            host.Dispose();
        }

        (double[] Expected, Slice Actual)[] Reference()
        {
            Slice y = host.Output(Y.Length), lse = host.Output(Lse.Length), dq = host.Output(Y.Length), dk = host.Output(DKey.Length), dv = host.Output(DKey.Length);
            host.Backend.AttentionForward(Case.Shape, hostInputs[0], hostInputs[1], hostInputs[2], hostInputs[4], y, lse);
            double[] expected = host.Get(y);
            y = host.Put(oracle.Get(Y)); // what the device rounded is an input of its backward pass: an outlier's error there is not the gradients' own
            host.Backend.AttentionBackward(Case.Shape, hostInputs[3], hostInputs[0], hostInputs[1], hostInputs[2], hostInputs[4], y, lse, dq, dk, dv);
            return [(expected, Y), (host.Get(lse), Lse), (host.Get(dq), DQuery), (host.Get(dk), DKey), (host.Get(dv), DValue)];
        }
    }
}
