using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// The functions that PTX only approximates: within the errors that the PTX manual allows of values computed in double precision, and
/// exactly what it says at special operands.
/// </summary>
public sealed class PtxEmulatorFunctionTests
{
    static readonly Dictionary<string, Func<double, double>> Functions = new()
    {
        ["ex2"] = x => Math.Pow(2, x), ["lg2"] = Math.Log2, ["rcp"] = x => 1 / x, ["rsqrt"] = x => 1 / Math.Sqrt(x), ["sqrt"] = Math.Sqrt,
        ["sin"] = Math.Sin, ["cos"] = Math.Cos, ["tanh"] = Math.Tanh,
    };

    [Theory]
    [InlineData("ex2.approx.f32", -10, 10, 2.4e-7, 0)]
    [InlineData("ex2.approx.ftz.f32", -10, 10, 2.4e-7, 0)]
    [InlineData("lg2.approx.f32", 0.01, 1000, 6e-7, 6e-7)]
    [InlineData("rcp.approx.f32", 0.001, 1000, 1.2e-7, 0)]
    [InlineData("rsqrt.approx.f32", 0.001, 1000, 2e-7, 0)]
    [InlineData("sqrt.approx.f32", 0, 1000, 2e-7, 0)]
    [InlineData("sin.approx.f32", -3.14, 3.14, 0, 5e-7)]
    [InlineData("cos.approx.ftz.f32", -3.14, 3.14, 0, 5e-7)]
    [InlineData("tanh.approx.f32", -5, 5, 5e-4, 0)]
    public void Values_are_within_the_allowed_error(string opcode, double from, double to, double relative, double absolute)
    {
        var function = Functions[opcode.Split('.')[0]];
        float[] x = [.. Enumerable.Range(0, 500).Select(i => (float)(from + ((to - from) * i / 499)))];
        ulong[] got = PtxOperation.Run($"{opcode} %f3, %f0;", "%f3", [.. x.Select(v => (ulong)BitConverter.SingleToUInt32Bits(v))]);
        for (int i = 0; i < x.Length; i++)
        {
            double exact = function(x[i]);
            Assert.Equal(exact, BitConverter.UInt32BitsToSingle((uint)got[i]), (Math.Abs(exact) * relative) + absolute);
        }
    }

    const float Inf = float.PositiveInfinity, NaN = float.NaN, Tiny = 1e-40f;

    [Theory]
    [InlineData("ex2.approx.f32", -Inf, 0)]
    [InlineData("ex2.approx.f32", Inf, Inf)]
    [InlineData("ex2.approx.f32", -140, 7.174648e-43f)]
    [InlineData("ex2.approx.ftz.f32", -140, 0)]
    [InlineData("lg2.approx.f32", 0, -Inf)]
    [InlineData("lg2.approx.f32", -1, NaN)]
    [InlineData("lg2.approx.f32", Inf, Inf)]
    [InlineData("lg2.approx.ftz.f32", Tiny, -Inf)]
    [InlineData("rcp.approx.f32", Inf, 0)]
    [InlineData("rcp.approx.f32", -Inf, -0f)]
    [InlineData("rcp.approx.ftz.f32", Tiny, Inf)]
    [InlineData("rcp.approx.ftz.f32", 2e38f, 0)]
    [InlineData("rsqrt.approx.f32", 0, Inf)]
    [InlineData("rsqrt.approx.f32", Inf, 0)]
    [InlineData("rsqrt.approx.f32", -1, NaN)]
    [InlineData("sqrt.approx.f32", -1, NaN)]
    [InlineData("sqrt.approx.ftz.f32", -Tiny, -0f)]
    [InlineData("sin.approx.f32", Inf, NaN)]
    [InlineData("cos.approx.f32", -Inf, NaN)]
    [InlineData("cos.approx.f32", 0, 1)]
    [InlineData("tanh.approx.f32", Inf, 1)]
    [InlineData("tanh.approx.f32", -Inf, -1)]
    [InlineData("sin.approx.f32", NaN, NaN)]
    [InlineData("ex2.approx.f32", NaN, NaN)]
    public void Special_operands_have_defined_results(string opcode, float x, float expected)
    {
        uint right = float.IsNaN(expected) ? 0x7FFFFFFF : BitConverter.SingleToUInt32Bits(expected);
        Assert.Equal(right, (uint)PtxOperation.Run($"{opcode} %f3, %f0;", "%f3", [BitConverter.SingleToUInt32Bits(x)])[0]);
    }

    [Theory]
    [InlineData("ex2.approx.f32", 1)]
    [InlineData("lg2.approx.f32", -Inf)]
    [InlineData("rcp.approx.f32", -Inf)]
    [InlineData("rsqrt.approx.f32", -Inf)]
    [InlineData("sqrt.approx.f32", -0f)]
    [InlineData("sin.approx.f32", -0f)]
    [InlineData("tanh.approx.f32", -0f)]
    public void Negative_zero_has_defined_results(string opcode, float expected) => Special_operands_have_defined_results(opcode, -0f, expected);

    [Theory]
    [InlineData("div.approx.f32", 6, 3, 2)]
    [InlineData("div.approx.f32", 1e30f, 2e38f, 0)]
    [InlineData("div.approx.f32", -1e30f, 2e38f, -0f)]
    [InlineData("div.approx.f32", Inf, 2e38f, NaN)]
    [InlineData("div.full.f32", 1e38f, 2e38f, 0.5f)]
    [InlineData("div.rn.f32", 1e38f, 2e38f, 0.5f)]
    [InlineData("div.approx.ftz.f32", 1, Tiny, Inf)]
    [InlineData("div.full.ftz.f32", Tiny, 1, 0)]
    [InlineData("div.rn.f32", 0, 0, NaN)]
    public void Quotients_by_huge_divisors_vanish_only_approximately(string opcode, float a, float b, float expected)
    {
        uint right = float.IsNaN(expected) ? 0x7FFFFFFF : BitConverter.SingleToUInt32Bits(expected);
        Assert.Equal(right, (uint)PtxOperation.Run($"{opcode} %f3, %f0, %f1;", "%f3", [BitConverter.SingleToUInt32Bits(a)], [BitConverter.SingleToUInt32Bits(b)])[0]);
    }

    [Fact]
    public void Gross_approximations_of_double_precision_have_a_low_word_of_zero()
    {
        double[] x = [3, 0.7, 1e10, 123.456];
        ulong[] bits = [.. x.Select(BitConverter.DoubleToUInt64Bits)];
        foreach (var (opcode, f) in ((string, Func<double, double>)[])[("rcp.approx.ftz.f64", v => 1 / v), ("rsqrt.approx.ftz.f64", v => 1 / Math.Sqrt(v))])
        {
            ulong[] got = PtxOperation.Run($"{opcode} %fd3, %fd0;", "%fd3", bits);
            for (int i = 0; i < x.Length; i++)
            {
                Assert.Equal(0u, (uint)got[i]);
                Assert.Equal(f(x[i]), BitConverter.UInt64BitsToDouble(got[i]), f(x[i]) * Math.Pow(2, -20));
            }
        }
    }
}
