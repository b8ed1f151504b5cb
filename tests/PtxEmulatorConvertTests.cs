using System.Numerics;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Conversions between all types against exact arithmetic.</summary>
public sealed class PtxEmulatorConvertTests
{
    static FloatDefinition Format(string type) => type switch
    {
        "f16" => FloatDefinition.F16,
        "bf16" => FloatDefinition.Bf16,
        "f32" => FloatDefinition.F32,
        _ => FloatDefinition.F64,
    };

    static string Register(string type) => type switch
    {
        "f32" => "%f",
        "f64" => "%fd",
        "s64" or "u64" => "%rd",
        "s32" or "u32" => "%r",
        _ => "%rs",
    };

    static int Bits(string type) => int.Parse(type.TrimStart('s', 'u', 'f', 'b'));

    static BigInteger Signed(ulong bits, string type)
    {
        int size = Bits(type);
        BigInteger value = bits & (size == 64 ? ulong.MaxValue : (1UL << size) - 1);
        return type[0] == 's' && !(value >> (size - 1)).IsZero ? value - (BigInteger.One << size) : value;
    }

    /// <summary>What a register that is wider than the type holds: signed integers are extended by their sign.</summary>
    static ulong Extended(BigInteger value, string type)
    {
        int size = Math.Max(16, Bits(type));
        return (ulong)(value & ((BigInteger.One << size) - 1));
    }

    static BigInteger Clamp(BigInteger value, string type)
    {
        var top = BigInteger.One << (Bits(type) - 1);
        return type[0] == 's' ? BigInteger.Clamp(value, -top, top - 1) : BigInteger.Clamp(value, 0, (2 * top) - 1);
    }

    static BigInteger RoundToInteger(Rational x, string mode)
    {
        var floor = BigInteger.DivRem(x.Top, x.Bottom, out var rest);
        if (rest.Sign < 0)
        {
            floor--;
            rest += x.Bottom;
        }
        int half = (2 * rest).CompareTo(x.Bottom);
        return floor + (mode switch
        {
            "rmi" => 0,
            "rpi" => rest.IsZero ? 0 : 1,
            "rzi" => x.Top.Sign < 0 && !rest.IsZero ? 1 : 0,
            _ => half > 0 || (half == 0 && !floor.IsEven) ? 1 : 0,
        });
    }

    public static TheoryData<string> FloatToInteger()
    {
        string[] types = ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"];
        return [.. from source in new[] { "f16", "f32", "f64" } from to in types from mode in new[] { "rni", "rzi", "rmi", "rpi" } select $"cvt.{mode}.{to}.{source}"];
    }

    [Theory]
    [MemberData(nameof(FloatToInteger))]
    public void Floats_are_rounded_to_integers_and_clamped(string opcode)
    {
        string[] parts = opcode.Split('.');
        var (mode, to, from) = (parts[1], parts[2], parts[3]);
        var format = Format(from);
        ulong[] halves = [.. Enumerable.Range(-9, 19).Select(i => format.Round(new Rational(i, 2), "rn"))];
        ulong[] limits = [.. new[] { 7, 8, 15, 16, 31, 32, 63, 64 }.SelectMany(bits => new[]
        {
            format.Round(Rational.PowerOfTwo(bits), "rz"), format.Round(Rational.PowerOfTwo(bits) - Rational.Of(1), "rn"), format.Round(Rational.Of(-BigInteger.Pow(2, bits)), "rz"),
        })];
        PtxOperation.Check($"{opcode} {Register(to)}3, {Register(from)}0;", Register(to) + "3", [.. format.Samples(30), .. halves, .. limits], a =>
        {
            // No number gives 0, or where double precision or a 64-bit integer takes part, the top bit.
            if (format.IsNaN(a))
                return from == "f64" || Bits(to) == 64 ? Extended(Signed(1UL << (Bits(to) - 1), to), to) : 0;
            if (!format.IsFinite(a))
                return Extended(Clamp(format.IsNegative(a) ? -BigInteger.Pow(2, 200) : BigInteger.Pow(2, 200), to), to);
            return Extended(Clamp(RoundToInteger(format.Value(a), mode), to), to);
        });
    }

    public static TheoryData<string> IntegerToFloat()
    {
        string[] types = ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"];
        return [.. from to in new[] { "f16", "f32", "f64" } from source in types from mode in new[] { "rn", "rz", "rm", "rp" } select $"cvt.{mode}.{to}.{source}"];
    }

    [Theory]
    [MemberData(nameof(IntegerToFloat))]
    public void Integers_are_rounded_to_floats(string opcode)
    {
        string[] parts = opcode.Split('.');
        var (mode, to, from) = (parts[1], parts[2], parts[3]);
        var format = Format(to);
        PtxOperation.Check($"{opcode} {Register(to)}3, {Register(from)}0;", Register(to) + "3", PtxOperation.Integers(Bits(from)), a =>
        {
            var value = Signed(a, from);
            return value.IsZero ? 0 : format.Round(Rational.Of(value), mode);
        });
    }

    public static TheoryData<string> IntegerToInteger()
    {
        string[] types = ["s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64"];
        return [.. from to in types from source in types from saturation in new[] { "", ".sat" } select $"cvt{saturation}.{to}.{source}"];
    }

    [Theory]
    [MemberData(nameof(IntegerToInteger))]
    public void Integers_are_cut_extended_or_clamped(string opcode)
    {
        string[] parts = opcode.Split('.');
        var (to, from) = (parts[^2], parts[^1]);
        PtxOperation.Check($"{opcode} {Register(to)}3, {Register(from)}0;", Register(to) + "3", PtxOperation.Integers(Bits(from)), a =>
        {
            var value = Signed(a, from);
            var kept = parts.Contains("sat") ? Clamp(value, to) : Signed((ulong)(value & ulong.MaxValue), to);
            return Extended(kept, to);
        });
    }

    [Theory]
    [InlineData("cvt.rn.f16.f32", "rn")]
    [InlineData("cvt.rz.f16.f32", "rz")]
    [InlineData("cvt.rm.f16.f32", "rm")]
    [InlineData("cvt.rp.f16.f32", "rp")]
    [InlineData("cvt.rn.f16.f64", "rn")]
    [InlineData("cvt.rn.f32.f64", "rn")]
    [InlineData("cvt.rz.f32.f64", "rz")]
    [InlineData("cvt.rm.f32.f64", "rm")]
    [InlineData("cvt.rp.f32.f64", "rp")]
    [InlineData("cvt.f32.f16", "rn")]
    [InlineData("cvt.f64.f16", "rn")]
    [InlineData("cvt.f64.f32", "rn")]
    [InlineData("cvt.f32.bf16", "rn")]
    [InlineData("cvt.rn.bf16.f32", "rn")]
    [InlineData("cvt.rz.bf16.f32", "rz")]
    [InlineData("cvt.rn.relu.bf16.f32", "rn")]
    [InlineData("cvt.rz.relu.f16.f32", "rz")]
    [InlineData("cvt.sat.f32.f32", "rn")]
    [InlineData("cvt.rn.sat.f16.f32", "rn")]
    [InlineData("cvt.ftz.f32.f32", "rn")]
    public void Floats_are_widened_and_narrowed(string opcode, string mode)
    {
        string[] parts = opcode.Split('.');
        var (to, from) = (Format(parts[^2]), Format(parts[^1]));
        // Ties of the narrower format, and its subnormals and overflow.
        ulong[] edges = [.. to.Samples(40).Where(to.IsFinite).Where(x => !to.IsZero(x)).SelectMany(x => new[]
        {
            from.Round(to.Value(x), "rz"), from.Round((to.Value(x) + to.Value(x ^ 1)) * Rational.PowerOfTwo(-1), "rz"), from.Round(to.Value(x) * new Rational(1001, 1000), "rp"),
        }).Where(from.IsFinite)];
        ulong[] values = [.. from.Samples(40).Where(x => to.Bits < 64 || !from.IsNaN(x)), .. edges];
        string s = Register(parts[^2]);
        PtxOperation.Check($"{opcode} {s}3, {Register(parts[^1])}0;", s + "3", values, a =>
        {
            ulong Flush(ulong x, FloatDefinition format) => parts.Contains("ftz") && format.Bits == 32 && (x & ~format.Sign) < 0x80_0000 ? x & format.Sign : x;
            a = Flush(a, from);
            ulong result = from.IsNaN(a) ? to.NaN
                : !from.IsFinite(a) || from.IsZero(a) ? (from.IsZero(a) ? 0 : to.Infinity) | (from.IsNegative(a) ? to.Sign : 0)
                : to.Round(from.Value(a), mode);
            if (parts.Contains("relu") && !to.IsNaN(result))
                result = to.IsNegative(result) ? 0 : result;
            if (parts.Contains("sat"))
                result = to.IsNaN(result) || to.IsNegative(result) ? 0 : Math.Min(result, to.Round(Rational.Of(1), "rn"));
            return Flush(result, to);
        });
    }

    [Theory]
    [InlineData("rni")]
    [InlineData("rzi")]
    [InlineData("rmi")]
    [InlineData("rpi")]
    public void Floats_are_rounded_to_whole_floats_of_their_sign(string mode)
    {
        foreach (string type in (string[])["f32", "f64", "f16"])
        {
            var format = Format(type);
            ulong[] values = [.. format.Samples(30).Where(x => !format.IsNaN(x)), .. Enumerable.Range(-9, 19).Select(i => format.Round(new Rational(i, 2), "rn"))];
            PtxOperation.Check($"cvt.{mode}.{type}.{type} {Register(type)}3, {Register(type)}0;", Register(type) + "3", values, a =>
            {
                if (!format.IsFinite(a))
                    return a;
                var whole = RoundToInteger(format.Value(a), mode);
                return whole.IsZero ? a & format.Sign : format.Round(Rational.Of(whole), "rn");
            });
        }
    }

    [Theory]
    [InlineData("cvt.rn.bf16x2.f32", "rn")]
    [InlineData("cvt.rz.bf16x2.f32", "rz")]
    [InlineData("cvt.rn.relu.bf16x2.f32", "rn")]
    [InlineData("cvt.rn.f16x2.f32", "rn")]
    [InlineData("cvt.rz.relu.f16x2.f32", "rz")]
    public void Pairs_hold_the_first_operand_in_the_high_half(string opcode, string mode)
    {
        var to = Format(opcode.Contains("bf16") ? "bf16" : "f16");
        var from = FloatDefinition.F32;
        ulong[] values = [.. from.Samples(6), 0x3F808000, 0x3F818000, 0x00008000, 0x00018000, 0x7F7FFFFF, 0xFF7F8000, 0x33000000, 0x477FF000];
        ulong Half(ulong a)
        {
            ulong result = from.IsNaN(a) ? to.NaN
                : !from.IsFinite(a) || from.IsZero(a) ? (from.IsZero(a) ? 0 : to.Infinity) | (from.IsNegative(a) ? to.Sign : 0)
                : to.Round(from.Value(a), mode);
            return opcode.Contains("relu") && !to.IsNaN(result) && to.IsNegative(result) ? 0 : result;
        }
        PtxOperation.Check($"{opcode} %r3, %f0, %f1;", "%r3", values, values, (a, b) => (Half(a) << 16) | Half(b));
    }

    [Fact]
    public void Tf32_keeps_ten_bits_and_rounds_ties_away()
    {
        var from = FloatDefinition.F32;
        // As a format of 19 bits, tf32 is the top of a float.
        PtxOperation.Check("cvt.rna.tf32.f32 %r3, %f0;", "%r3", [.. from.Samples(60), 0x3F801000, 0x3F803000, 0xBF801000, 0x3F800FFF, 0x7F7FFFFF, 0x00001000], a =>
            from.IsNaN(a) ? from.NaN
                : !from.IsFinite(a) || from.IsZero(a) ? a
                : FloatDefinition.Tf32.Round(from.Value(a), "rna") << 13);
    }

    [Theory]
    [InlineData("cvt.s32.f32 %r0, %f0;", "rounding mode is missing")]
    [InlineData("cvt.f32.s32 %f0, %r0;", "rounding mode is missing")]
    [InlineData("cvt.f16.f32 %rs0, %f0;", "rounding mode is missing")]
    [InlineData("cvt.rn.f64.f32 %fd0, %f0;", "nothing to round")]
    [InlineData("cvt.rn.u32.s32 %r0, %r1;", "nothing to round")]
    [InlineData("cvt.rni.f16.f32 %rs0, %f0;", "the result is none")]
    [InlineData("cvt.f64.bf16 %fd0, %rs0;", "not known")]
    [InlineData("cvt.rn.bf16.f64 %rs0, %fd0;", "not known")]
    [InlineData("cvt.rn.satfinite.e4m3x2.f32 %rs0, %f0, %f1;", "not known")]
    public void Conversions_that_sm_80_lacks_are_refused(string instruction, string problem) =>
        Assert.Contains(problem, Assert.Throws<PtxEmulator.PtxSyntaxException>(() => PtxEmulator.PtxProgram.Parse(PtxText.Kernel(instruction))).Message);
}
