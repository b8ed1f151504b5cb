using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Pairs of 16-bit floats in one register: each half is what the single instruction gives by definition.</summary>
public sealed class PtxEmulatorPairTests
{
    static readonly Dictionary<string, Func<Rational, Rational, Rational, Rational>> Real = new()
    {
        ["add"] = (a, b, _) => a + b, ["sub"] = (a, b, _) => a - b, ["mul"] = (a, b, _) => a * b, ["fma"] = (a, b, c) => (a * b) + c,
    };

    static ulong Expected(FloatDefinition format, string operation, ulong a, ulong b, ulong c)
    {
        switch (operation)
        {
            case "neg":
                return a ^ format.Sign;
            case "abs":
                return a & ~format.Sign;
            case "min" or "max":
                return format.Value(a).CompareTo(format.Value(b)) < 0 != (operation == "max") ? a : b;
        }
        var exact = Real[operation](format.Value(a), format.Value(b), format.Value(c));
        return exact.Top.IsZero ? 0 : format.Round(exact, "rn");
    }

    [Theory]
    [InlineData("add.f16x2")]
    [InlineData("sub.rn.f16x2")]
    [InlineData("mul.f16x2")]
    [InlineData("fma.rn.f16x2")]
    [InlineData("fma.rn.bf16x2")]
    [InlineData("fma.rn.relu.bf16x2")]
    [InlineData("fma.rn.relu.f16x2")]
    [InlineData("fma.rn.sat.f16x2")]
    [InlineData("min.f16x2")]
    [InlineData("max.f16x2")]
    [InlineData("min.bf16x2")]
    [InlineData("max.NaN.bf16x2")]
    [InlineData("neg.f16x2")]
    [InlineData("neg.bf16x2")]
    [InlineData("abs.f16x2")]
    [InlineData("abs.bf16x2")]
    public void Both_halves_are_computed(string opcode)
    {
        string[] parts = opcode.Split('.');
        var format = parts[^1] == "bf16x2" ? FloatDefinition.Bf16 : FloatDefinition.F16;
        // Finite and not zero: single instructions are tested with the rest.
        ulong[] numbers = [.. format.Samples(20).Where(x => format.IsFinite(x) && !format.IsZero(x))];
        var (a, b, c) = PtxOperation.Triples(numbers);
        ulong[] Pairs(ulong[] values) => [.. values.Select((x, i) => x | (values[(i + 37) % values.Length] << 16))];
        string operands = parts[0] switch { "fma" => "%r0, %r1, %r2", "neg" or "abs" => "%r0", _ => "%r0, %r1" };
        ulong one = format.Round(Rational.Of(1), "rn");
        PtxOperation.Check($"{opcode} %r3, {operands};", "%r3", Pairs(a), Pairs(b), Pairs(c), (x, y, z) =>
        {
            ulong Half(int shift)
            {
                ulong result = Expected(format, parts[0], x >> shift & 0xFFFF, y >> shift & 0xFFFF, z >> shift & 0xFFFF);
                bool clamps = parts.Contains("relu") || parts.Contains("sat");
                result = clamps && format.IsNegative(result) ? 0 : result;
                return parts.Contains("sat") ? Math.Min(result, one) : result;
            }
            return Half(0) | (Half(16) << 16);
        });
    }

    [Theory]
    [InlineData("tanh.approx.f16x2")]
    [InlineData("ex2.approx.f16x2")]
    public void Functions_of_pairs_are_within_a_half_of_their_values(string opcode)
    {
        ulong[] values = [.. Enumerable.Range(-20, 41).Select(i => (ulong)BitConverter.HalfToUInt16Bits((Half)(i / 4.0)))];
        ulong[] pairs = [.. values.Select((x, i) => x | (values[^(i + 1)] << 16))];
        ulong[] got = PtxOperation.Run($"{opcode} %r3, %r0;", "%r3", pairs);
        for (int i = 0; i < pairs.Length; i++)
            foreach (int shift in (int[])[0, 16])
            {
                double x = (double)BitConverter.UInt16BitsToHalf((ushort)(pairs[i] >> shift)), exact = opcode[0] == 't' ? Math.Tanh(x) : Math.Pow(2, x);
                Assert.Equal(exact, (double)BitConverter.UInt16BitsToHalf((ushort)(got[i] >> shift)), Math.Abs(exact) / 1024 + 1e-7);
            }
    }

    [Theory]
    [InlineData("add.bf16 %rs0, %rs1, %rs2;")]
    [InlineData("mul.rn.bf16x2 %r0, %r1, %r2;")]
    [InlineData("fma.rz.f16 %rs0, %rs1, %rs2, %rs3;")]
    [InlineData("add.rz.f16x2 %r0, %r1, %r2;")]
    [InlineData("min.xorsign.abs.f32 %f0, %f1, %f2;")]
    [InlineData("fma.rn.relu.f32 %f0, %f1, %f2, %f3;")]
    [InlineData("fma.f32 %f0, %f1, %f2, %f3;")]
    [InlineData("add.sat.f64 %fd0, %fd1, %fd2;")]
    [InlineData("add.rn.s32 %r0, %r1, %r2;")]
    [InlineData("tanh.approx.bf16 %rs0, %rs1;")]
    [InlineData("sin.f32 %f0, %f1;")]
    [InlineData("div.f32 %f0, %f1, %f2;")]
    public void Forms_that_sm_80_lacks_are_refused(string instruction) =>
        Assert.Contains(instruction.Split(' ')[0], Assert.Throws<PtxEmulator.PtxSyntaxException>(() => PtxEmulator.PtxProgram.Parse(PtxText.Kernel(instruction))).Message);
}
