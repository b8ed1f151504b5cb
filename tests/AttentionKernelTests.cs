using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What attention's portable kernels cost, counted by the emulator, and what ILGPU makes of them.</summary>
public class AttentionKernelTests
{
    static readonly AttentionCase Tiles = new("three tiles", 1, 1, 64, 0, [0, 192, 0, 192]);

    [Theory]
    [InlineData("emulator-f32", 10)]
    [InlineData("emulator-f32", 64)]
    [InlineData("emulator-f32", 128)]
    [InlineData("emulator-f32", 256)]
    [InlineData("emulator-bf16-portable", 64)]
    [InlineData("emulator-bf16-portable", 256)]
    public void Kernels_inPtx_keepSumsInRegistersAndMoveQuads(string device, int width)
    {
        using var run = new AttentionRun(device, new AttentionCase("few", 2, 1, width, 0, [0, 1, 0, 300]), 1);
        run.Forward(); // in parts
        run.Backward();
        var kernels = run.Oracle.Device!.Texts().Where(kernel => kernel.Name.StartsWith("Attention", StringComparison.Ordinal) && kernel.Name.Contains("Kernels.", StringComparison.Ordinal)).ToList();
        Assert.True(kernels.Count >= 5);
        foreach (var (name, ptx) in kernels)
        {
            KernelRecords.CheckMemory(ptx, name);
            Assert.True(ptx.Contains("ld.global.v4.f32", StringComparison.Ordinal) || ptx.Contains("ld.global.v2.b32", StringComparison.Ordinal), "no quad is loaded as one");
        }
    }

    [Fact]
    public void Forward_visitsTheTilesThatAreSeen_andNoOthers()
    {
        // Two barriers before and two after the scores of 64 columns.
        Assert.Equal(4 * (1 + 2 + 3), Counted(Tiles, forward: true)[0].Barriers);
        Assert.Equal(4 * (1 + 2 + 2), Counted(Tiles with { Window = 64 }, forward: true)[0].Barriers);
        Assert.Equal(4 * (1 + 1 + 2), Counted(Tiles with { Table = [0, 66, 0, 66, 66, 64, 66, 64] }, forward: true)[0].Barriers);
    }

    [Fact]
    public void Backward_visitsTheTilesThatAreSeen_andNoOthers()
    {
        var counters = Counted(Tiles, forward: false);
        Assert.Equal(6 * (1 + 2 + 3), counters[1].Barriers); // scores, their gradients, dq
        Assert.Equal(8 * (3 + 2 + 1), counters[2].Barriers); // scores, their gradients, dv, dk
        counters = Counted(Tiles with { Window = 64 }, forward: false);
        Assert.Equal(6 * (1 + 2 + 2), counters[1].Barriers);
        Assert.Equal(8 * (2 + 2 + 1), counters[2].Barriers);
    }

    [Fact]
    public void SharedMemory_isReadWithoutBankConflicts()
    {
        foreach (var counters in Counted(Tiles, forward: true).Concat(Counted(Tiles, forward: false)).Where(c => c.SharedRequests > 0))
        {
            Assert.Equal(counters.SharedBytes / 128, counters.SharedWavefronts);
        }
    }

    [Theory]
    [InlineData("emulator-f32")]
    [InlineData("emulator-bf16")]
    public void Decoding_readsKeysAndValuesOnce(string device)
    {
        using var run = new AttentionRun(device, new AttentionCase("cache", 4, 2, 64, 0, [0, 1, 0, 1024]), 2);
        long floor = run.Key.Bytes + run.Value.Bytes, moved = run.Oracle.Device!.Launches(() => run.Forward()).Sum(launch => launch.Counters!.SectorBytes());
        Assert.InRange(moved, floor, 1.1 * floor);
    }

    [Theory]
    [InlineData("emulator-f32", "decode")]
    [InlineData("emulator-f32", "train")]
    [InlineData("emulator-bf16", "train")]
    [InlineData("emulator-bf16-portable", "train")]
    public void Runs_repeatBitForBit(string device, string what)
    {
        var c = what == "decode" ? new AttentionCase(what, 4, 2, 16, 0, [0, 1, 0, 300, 1, 1, 300, 70]) : new AttentionCase(what, 4, 2, 16, 0, [0, 30, 0, 30, 30, 40, 30, 40]);
        using var run = new AttentionRun(device, c, 3);
        long[] first = Bits(run), second = Bits(run);
        Assert.Equal(first, second);
    }

    [Theory]
    [InlineData("q")]
    [InlineData("k")]
    [InlineData("v")]
    public void Backward_isTheSlopeOfTheSameDevicesForward(string input)
    {
        var c = new AttentionCase("prefix and window", 4, 2, 10, 20, [0, 12, 0, 40]);
        using var run = new AttentionRun("emulator-f32", c, 4, outliers: 0);
        run.Forward();
        run.Backward();
        var (x, slice, gradient) = input switch { "q" => (run.Q, run.Query, run.DQuery), "k" => (run.K, run.Key, run.DKey), _ => (run.V, run.Value, run.DValue) };
        double[] expected = run.Oracle.Get(gradient);
        var random = new Random(5);
        double[] direction = [.. expected.Select(g => Math.Sign(g) + random.NextDouble() - 0.5)];
        double Loss(double step)
        {
            float[] moved = [.. x.Zip(direction, (value, d) => (float)(value + step * d))];
            run.Oracle.Backend.Upload(System.Runtime.InteropServices.MemoryMarshal.AsBytes<float>(moved), slice);
            run.Forward();
            return run.Oracle.Get(run.Y).Zip(run.Dy, (a, b) => a * b).Sum();
        }

        const double Step = 1e-2;
        double slope = (Loss(Step) - Loss(-Step)) / (2 * Step), product = expected.Zip(direction, (g, d) => g * d).Sum();
        double scale = Math.Sqrt(expected.Sum(g => g * g)) * Math.Sqrt(direction.Sum(d => d * d));
        Assert.InRange(Math.Abs(slope - product), 0, 1e-3 * scale);
        Assert.True(Math.Abs(product) > 1e-2 * scale, "the direction is one in which nothing changes");
    }

    [Fact]
    public void TensorCores_roundOtherwiseThanFloats()
    {
        var c = new AttentionCase("both", 2, 1, 64, 0, [0, 70, 0, 70]);
        using AttentionRun tensor = new("emulator-bf16", c, 6), portable = new("emulator-bf16-portable", c, 6);
        Assert.NotEqual(Bits(tensor), Bits(portable));
    }

    [Fact]
    public void HeadsWiderThanTheKernels_throw()
    {
        using var oracle = new Oracle("emulator-f32", 7);
        Slice rows = oracle.Put(new double[300]);
        var error = Assert.Throws<ArgumentException>(() =>
            oracle.Backend.AttentionForward(new AttentionShape(1, 1, 300, 1), rows, rows, rows, oracle.Put([0, 1, 0, 1]), oracle.Output(300), default));
        Assert.Contains("300 wide", error.Message, StringComparison.Ordinal);
    }

    static LaunchCounters[] Counted(AttentionCase c, bool forward)
    {
        using var run = new AttentionRun("emulator-f32", c, 1);
        run.Forward();
        return [.. run.Oracle.Device!.Launches(forward ? run.Forward : run.Backward).Select(launch => launch.Counters!)];
    }

    static long[] Bits(AttentionRun run)
    {
        run.Forward();
        run.Backward();
        Slice[] outputs = [run.Y, run.Lse, run.DQuery, run.DKey, run.DValue];
        return [.. outputs.SelectMany(run.Oracle.Get).Select(BitConverter.DoubleToInt64Bits)];
    }
}
