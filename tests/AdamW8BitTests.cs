using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>AdamW with 8-bit moments against its formula in double and a search over all values of the maps.</summary>
public class AdamW8BitTests
{
    const int Block = Moments8Bit.BlockSize;

    static readonly AdamWStep Step = new(1, 1e-2, 0.9, 0.999, 1e-8, 0.1, 0);

    public static TheoryData<string> Devices => Oracle.Devices;

    [Theory, MemberData(nameof(Devices))]
    public void Step_anyLength_matchesFormulaAndTakesTheNearestCodes(string device)
    {
        foreach (int n in (int[])[0, 1, 3, 255, 256, 257, 1000, 9001])
        {
            using var run = new Run(device, n, n);
            foreach (int t in (int[])[1, 2, 3, 1000])
            {
                run.Check(Step with { Step = t, MaxNorm = t == 3 ? 0 : 1, Decaying = t == 2 ? n / 3 : long.MaxValue });
            }
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Step_slicesThatBeginAnywhere_sameBits(string device)
    {
        using Run aligned = new(device, 1030, 1), moved = new(device, 1030, 1, shift: 1);
        foreach (int t in (int[])[1, 2, 3])
        {
            aligned.Advance(Step with { Step = t });
            moved.Advance(Step with { Step = t });
        }

        Assert.Equal(aligned.State(), moved.State());
    }

    [Theory, MemberData(nameof(Devices))]
    public void Step_firstMomentsAroundEveryMidpoint_takeTheNearestCode(string device)
    {
        // Without a past, m is g. The first element of a block makes its scale 1.
        float[] map = [.. DynamicMap.Signed], midpoints = [.. map.Zip(map.Skip(1), (low, high) => (low + high) / 2)];
        float[] wanted = [.. midpoints.SelectMany(x => new[] { MathF.BitDecrement(x), x, MathF.BitIncrement(x) }), .. map, -1, 0, 1e-30f, -1e-30f];
        float[] g = [.. wanted.Chunk(Block - 1).SelectMany(part => (float[])[1, .. part])];
        using var run = new Run(device, g.Length, 1);
        run.Advance(Step with { Beta1 = 0 }, Array.ConvertAll(g, x => (double)x));
        Assert.Equal(g.Select(x => (double)(x < 0 && DynamicMap.NearestSigned(x) == DynamicMap.SignedZero ? 126 : DynamicMap.NearestSigned(x))), run.Oracle.Get(run.Moments.First));
    }

    [Theory, MemberData(nameof(Devices))]
    public void Step_blockOfZeros_staysZero(string device)
    {
        using var run = new Run(device, 2 * Block, 1);
        double[] g = [.. new double[Block], .. run.Oracle.Values(Block)], before = run.Oracle.Get(run.P);
        run.Advance(Step with { WeightDecay = 0 }, g);
        Assert.Equal(before[..Block], run.Oracle.Get(run.P)[..Block]);
        Assert.Equal(0, run.Oracle.Get(run.Moments.FirstScales)[0]);
        Assert.Equal(0, run.Oracle.Get(run.Moments.SecondScales)[0]);
        Assert.True(run.Oracle.Get(run.Moments.FirstScales)[1] > 0);
    }

    [Theory, MemberData(nameof(Devices))]
    public void Step_normNotFinite_spreads(string device)
    {
        using var run = new Run(device, 300, 1);
        run.Oracle.Backend.AdamW8Bit(run.P, run.Oracle.PutParameter(run.Oracle.Values(300)), run.Moments, Step with { MaxNorm = 1 }, run.Oracle.PutParameter([double.NaN]));
        Assert.All(run.Oracle.Get(run.P), x => Assert.True(double.IsNaN(x)));
    }

    [Fact]
    public void Maps_asTheyAreDefined()
    {
        var (signed, unsigned) = (Map(true), Map(false));
        Assert.Equal(512, Moments8Bit.MapValues.Length);
        Assert.Equal([.. signed, .. unsigned], Moments8Bit.MapValues.ToArray().Select(x => (double)x), (expected, actual) => Math.Abs(expected - actual) <= 2e-7 * Math.Abs(expected));
        Assert.Equal(0, DynamicMap.Signed[DynamicMap.SignedZero]);

        static double[] Map(bool signed)
        {
            List<double> values = [0, 1];
            for (int decade = 0; decade < 7; decade++)
            {
                int count = (signed ? 1 : 2) << decade;
                for (int i = 0; i < count; i++)
                {
                    double value = (0.1 + 0.9 * (i + 0.5) / count) * Math.Pow(10, decade - 6);
                    values.Add(value);
                    values.AddRange(signed ? [-value] : []);
                }
            }

            return [.. values.Order()];
        }
    }

    [Fact]
    public void Steps_onAQuadratic_followThe32BitOnes()
    {
        // L = Σ (p − a)²/2 with targets over three decades: both reach them along nearly the same path.
        const int N = 2000;
        using var run = new Run("cpu", N, 1);
        double[] target = [.. run.Oracle.Values(N).Select((x, i) => x * Math.Pow(10, -i % 4))];
        Slice p = run.Oracle.PutParameter(run.Oracle.Get(run.P)), m = run.Oracle.PutParameter(new double[N]), v = run.Oracle.PutParameter(new double[N]);
        double start = Naive.Norm(Difference(run.P));
        for (int t = 1; t <= 400; t++)
        {
            AdamWStep step = new(t, 0.05 * (1 - t / 401.0), 0.9, 0.99, 1e-8, 0, 0);
            run.Advance(step, Difference(run.P));
            run.Oracle.Backend.AdamW(p, run.Oracle.PutParameter(Difference(p)), m, v, step, default);
        }

        double[] exact = run.Oracle.Get(p), quantised = run.Oracle.Get(run.P);
        Assert.InRange(Naive.Norm(Difference(run.P)) / start, 0, 1.05 * Naive.Norm(Difference(p)) / start + 1e-3);
        Assert.InRange(Naive.Norm([.. exact.Zip(quantised, (a, b) => a - b)]) / Naive.Norm(exact), 1e-9, 0.05);

        double[] Difference(Slice values) => [.. run.Oracle.Get(values).Zip(target, (a, b) => a - b)];
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public void Step_wrongShape_throws(int which)
    {
        using var run = new Run("cpu", 300, 1);
        Slice g = run.Oracle.PutParameter(new double[300]);
        var moments = which switch
        {
            0 => run.Moments with { First = g },
            1 => run.Moments with { SecondScales = run.Moments.SecondScales.Range(0, 1) },
            _ => run.Moments with { Maps = run.Moments.Maps.Range(0, 256) },
        };
        Assert.Throws<ArgumentException>(() => run.Oracle.Backend.AdamW8Bit(run.P, g, moments, Step, default));
    }

    /// <summary>Parameters and their moments on one device.</summary>
    sealed class Run : IDisposable
    {
        readonly int count, shift;

        public Run(string device, int count, int seed, int shift = 0)
        {
            (this.count, this.shift) = (count, shift);
            Oracle = new Oracle(device, seed);
            P = Shifted(Oracle.FencedParameter([.. new double[shift], .. Oracle.Values(count)]));
            Slice Codes() => Shifted(Oracle.Fenced(new double[shift + count], DType.U8));
            Slice Scales() => Oracle.Fenced(new double[(int)Moments8Bit.Blocks(count)], DType.F32);
            Moments = new Moments8Bit(Codes(), Scales(), Codes(), Scales(), Oracle.Put(Array.ConvertAll(Moments8Bit.MapValues.ToArray(), x => (double)x), DType.F32));
        }

        public Oracle Oracle { get; }

        public Slice P { get; }

        public Moments8Bit Moments { get; }

        public void Advance(AdamWStep step, double[]? g = null)
        {
            g ??= Oracle.Values(count);
            Slice gradient = Shifted(Oracle.PutParameter([.. new double[shift], .. g]));
            Oracle.Backend.AdamW8Bit(P, gradient, Moments, step, step.MaxNorm > 0 ? Oracle.PutParameter([Naive.Norm(g)]) : default);
        }

        public double[] State() => [.. Oracle.Get(P), .. Oracle.Get(Moments.First), .. Oracle.Get(Moments.FirstScales), .. Oracle.Get(Moments.Second), .. Oracle.Get(Moments.SecondScales)];

        /// <summary>One step from the state that the device is in.</summary>
        public void Check(AdamWStep step)
        {
            double[] g = Oracle.Values(count), p = Oracle.Get(P);
            double[] m = Decoded(Moments.First, Moments.FirstScales, 0), v = Decoded(Moments.Second, Moments.SecondScales, 256);
            Advance(step, g);

            (double[] expected, m, v) = Naive.AdamW(p, g, m, v, step with { WeightDecay = 0 }, Naive.Norm(g));
            expected = [.. expected.Select((x, i) => i < step.Decaying ? x * (1 - step.LearningRate * step.WeightDecay) : x)];
            Oracle.Close(expected, P, Math.Max(Oracle.ExactParameter, 1e-12), $"AdamW8Bit step {step.Step}: p [{count}]");
            CheckCodes(m, Moments.First, Moments.FirstScales, 0);
            CheckCodes(v, Moments.Second, Moments.SecondScales, 256);
        }

        void CheckCodes(double[] x, Slice codes, Slice scales, int map)
        {
            double[] values = [.. Moments8Bit.MapValues.Slice(map, 256).ToArray().Select(value => (double)value)], found = Oracle.Get(codes);
            double[] largest = [.. x.Chunk(Block).Select(part => part.Max(Math.Abs))];
            Oracle.Close(largest, scales, 1e-5, "scales");
            for (int i = 0; i < count; i++)
            {
                double share = x[i] / largest[i / Block], off = Math.Abs(share - values[(int)found[i]]);
                double nearest = values.Where(value => share >= 0 || value < 0).Min(value => Math.Abs(share - value)); // a negative moment never becomes zero
                Assert.True(off <= nearest + 1e-5 * Math.Abs(share), $"element {i} of {count}: {share} became {values[(int)found[i]]}");
            }
        }

        double[] Decoded(Slice codes, Slice scales, int map)
        {
            double[] found = Oracle.Get(codes), factors = Oracle.Get(scales);
            return [.. found.Select((code, i) => Moments8Bit.MapValues[map + (int)code] * factors[i / Block])];
        }

        Slice Shifted(Slice slice) => slice.Range(shift, count);

        public void Dispose() => Oracle.Dispose();
    }
}
