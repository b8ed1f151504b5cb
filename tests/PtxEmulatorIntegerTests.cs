using System.Numerics;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Integer instructions of all widths against BigInteger.</summary>
public sealed class PtxEmulatorIntegerTests
{
    static int Bits(string type) => int.Parse(type[1..]);

    static string Register(int bits) => bits switch { 16 => "%rs", 32 => "%r", _ => "%rd" };

    /// <summary>The number that a pattern stands for.</summary>
    static BigInteger Value(ulong bits, string type)
    {
        BigInteger value = bits;
        return type[0] == 's' && !(value >> (Bits(type) - 1)).IsZero ? value - (BigInteger.One << Bits(type)) : value;
    }

    static ulong Wrap(BigInteger value, int bits) => (ulong)(value & ((BigInteger.One << bits) - 1));

    static BigInteger Clamp(BigInteger value, string type)
    {
        var top = BigInteger.One << (Bits(type) - 1);
        return type[0] == 's' ? BigInteger.Clamp(value, -top, top - 1) : BigInteger.Clamp(value, 0, (2 * top) - 1);
    }

    public static TheoryData<string, string> TwoOperands() => [.. from operation in new[] { "add", "sub", "min", "max", "mul.lo", "mul.hi", "div", "rem" }
        from type in new[] { "s16", "u16", "s32", "u32", "s64", "u64" } select (operation, type)];

    [Theory]
    [MemberData(nameof(TwoOperands))]
    public void Arithmetic_of_two_operands(string operation, string type)
    {
        int bits = Bits(type);
        string r = Register(bits);
        ulong[] values = PtxOperation.Integers(bits);
        PtxOperation.Check($"{operation}.{type} {r}3, {r}0, {r}1;", r + "3", values, values, (x, y) =>
        {
            BigInteger a = Value(x, type), b = Value(y, type);
            return Wrap(operation switch
            {
                "add" => a + b,
                "sub" => a - b,
                "min" => BigInteger.Min(a, b),
                "max" => BigInteger.Max(a, b),
                "mul.lo" => a * b,
                "mul.hi" => (a * b) >> bits,
                // What the hardware does where nothing is defined: all ones, and the dividend as remainder.
                "div" => b.IsZero ? -1 : BigInteger.Divide(a, b),
                _ => b.IsZero ? a : BigInteger.Remainder(a, b),
            }, bits);
        });
    }

    [Theory]
    [InlineData("s16")]
    [InlineData("u16")]
    [InlineData("s32")]
    [InlineData("u32")]
    public void Wide_products_have_twice_the_bits(string type)
    {
        int bits = Bits(type);
        string r = Register(bits), w = Register(2 * bits);
        ulong[] values = PtxOperation.Integers(bits);
        PtxOperation.Check($"mul.wide.{type} {w}3, {r}0, {r}1;", w + "3", values, values, (a, b) => Wrap(Value(a, type) * Value(b, type), 2 * bits));
        var (x, y, z) = PtxOperation.Triples(values);
        ulong[] sums = [.. z.Select(v => v * 0x1_0001)];
        PtxOperation.Check($"mad.wide.{type} {w}3, {r}0, {r}1, {w}2;", w + "3", x, y, [.. sums.Select(v => Wrap(v, 2 * bits))], (a, b, c) =>
            Wrap((Value(a, type) * Value(b, type)) + c, 2 * bits));
    }

    public static TheoryData<string, string> ThreeOperands() => [.. from operation in new[] { "mad.lo", "mad.hi", "sad" }
        from type in new[] { "s32", "u32", "s64", "u64" } select (operation, type)];

    [Theory]
    [MemberData(nameof(ThreeOperands))]
    [InlineData("mad.lo", "s16")]
    [InlineData("sad", "u16")]
    [InlineData("sad", "s16")]
    public void Arithmetic_of_three_operands(string operation, string type)
    {
        int bits = Bits(type);
        string r = Register(bits);
        var (x, y, z) = PtxOperation.Triples(PtxOperation.Integers(bits));
        PtxOperation.Check($"{operation}.{type} {r}3, {r}0, {r}1, {r}2;", r + "3", x, y, z, (a, b, c) =>
        {
            BigInteger product = Value(a, type) * Value(b, type), sum = Value(c, type);
            return Wrap(operation switch
            {
                "mad.lo" => product + sum,
                "mad.hi" => (product >> bits) + sum,
                _ => sum + BigInteger.Abs(Value(a, type) - Value(b, type)),
            }, bits);
        });
    }

    [Theory]
    [InlineData("s16")]
    [InlineData("s32")]
    [InlineData("s64")]
    public void The_most_negative_number_is_its_own_opposite(string type)
    {
        int bits = Bits(type);
        string r = Register(bits);
        ulong[] values = PtxOperation.Integers(bits);
        PtxOperation.Check($"neg.{type} {r}3, {r}0;", r + "3", values, a => Wrap(-Value(a, type), bits));
        PtxOperation.Check($"abs.{type} {r}3, {r}0;", r + "3", values, a => Wrap(BigInteger.Abs(Value(a, type)), bits));
    }

    [Fact]
    public void Saturating_sums_stop_at_the_limits()
    {
        ulong[] values = PtxOperation.Integers(32);
        PtxOperation.Check("add.sat.s32 %r3, %r0, %r1;", "%r3", values, values, (a, b) => Wrap(Clamp(Value(a, "s32") + Value(b, "s32"), "s32"), 32));
        PtxOperation.Check("sub.sat.s32 %r3, %r0, %r1;", "%r3", values, values, (a, b) => Wrap(Clamp(Value(a, "s32") - Value(b, "s32"), "s32"), 32));
    }

    [Fact]
    public void Products_of_24_bits()
    {
        ulong[] values = PtxOperation.Integers(32);
        static BigInteger Low24(ulong x, bool signed) => signed && (x & 0x80_0000) != 0 ? (BigInteger)(x & 0xFF_FFFF) - 0x100_0000 : x & 0xFF_FFFF;
        foreach (bool signed in (bool[])[false, true])
        {
            string type = signed ? "s32" : "u32";
            PtxOperation.Check($"mul24.lo.{type} %r3, %r0, %r1;", "%r3", values, values, (a, b) => Wrap(Low24(a, signed) * Low24(b, signed), 32));
            PtxOperation.Check($"mul24.hi.{type} %r3, %r0, %r1;", "%r3", values, values, (a, b) => Wrap((Low24(a, signed) * Low24(b, signed)) >> 16, 32));
            PtxOperation.Check($"mad24.lo.{type} %r3, %r0, %r1, 77;", "%r3", values, values, (a, b) => Wrap((Low24(a, signed) * Low24(b, signed)) + 77, 32));
        }
    }

    [Theory]
    [InlineData("dp4a.u32.u32")]
    [InlineData("dp4a.s32.u32")]
    [InlineData("dp4a.u32.s32")]
    [InlineData("dp4a.s32.s32")]
    [InlineData("dp2a.lo.s32.u32")]
    [InlineData("dp2a.hi.u32.s32")]
    [InlineData("dp2a.hi.s32.s32")]
    public void Dot_products_of_bytes(string opcode)
    {
        string[] parts = opcode.Split('.');
        bool four = parts[0] == "dp4a";
        var (x, y, z) = PtxOperation.Triples(PtxOperation.Integers(32));
        PtxOperation.Check($"{opcode} %r3, %r0, %r1, %r2;", "%r3", x, y, z, (a, b, c) =>
        {
            BigInteger sum = c;
            for (int i = 0; i < (four ? 4 : 2); i++)
            {
                int width = four ? 8 : 16, at = (parts[1] == "hi" ? 2 : 0) + i;
                var left = Value(a >> (width * i) & ((1UL << width) - 1), parts[^2][0] + width.ToString());
                sum += left * Value(b >> (8 * at) & 0xFF, parts[^1][0] + "8");
            }
            return Wrap(sum, 32);
        });
    }

    [Fact]
    public void Carries_run_through_numbers_of_128_bits()
    {
        ulong[] values = PtxOperation.Integers(64);
        // (a, b) + (b, a) and (a, b) - (b, a) as pairs of low and high words; each test looks at one word.
        const string sum = "add.cc.u64 %rd3, %rd0, %rd1; addc.u64 %rd4, %rd1, %rd0;", difference = "sub.cc.u64 %rd3, %rd0, %rd1; subc.u64 %rd4, %rd1, %rd0;";
        BigInteger Pair(ulong low, ulong high) => ((BigInteger)high << 64) + low;
        PtxOperation.Check(sum, "%rd3", values, values, (a, b) => Wrap(Pair(a, b) + Pair(b, a), 64));
        PtxOperation.Check(sum, "%rd4", values, values, (a, b) => Wrap((Pair(a, b) + Pair(b, a)) >> 64, 64));
        PtxOperation.Check(difference, "%rd4", values, values, (a, b) => Wrap((Pair(a, b) - Pair(b, a)) >> 64, 64));
        const string product = "mul.lo.u64 %rd3, %rd0, %rd1; mul.hi.u64 %rd4, %rd0, %rd1; mad.lo.cc.u64 %rd3, %rd0, %rd0, %rd3; madc.hi.u64 %rd4, %rd0, %rd0, %rd4;";
        PtxOperation.Check(product, "%rd4", values, values, (a, b) => Wrap((((BigInteger)a * b) + ((BigInteger)a * a)) >> 64, 64));
        PtxOperation.Check("add.cc.u32 %r4, %r0, %r1; addc.cc.u32 %r4, %r0, 0; addc.u32 %r3, 0, 0;", "%r3", [0xFFFFFFFF, 0, 5], [1, 0xFFFFFFFF], (a, b) =>
            (a + (a + b > uint.MaxValue ? 1u : 0)) > uint.MaxValue ? 1u : 0);
    }
}
