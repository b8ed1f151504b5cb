using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>AdamW on every device against <see cref="Naive"/> and by hand.</summary>
public class AdamWTests
{
    public static TheoryData<string> Devices => Oracle.Devices;

    [Theory, MemberData(nameof(Devices))]
    public void AdamW_severalSteps_matchesFormula(string device)
    {
        foreach (int n in OpShapes.HostLengths)
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
}
