using System.Numerics;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Single instructions, written as PTX text, against host arithmetic. Thread t reads words t, 32 + t, 64 + t and writes 96 + t.</summary>
public sealed class PtxEmulatorInstructionTests
{
    const string Before = "ld.param.u64 %rd0, [p]; mov.b32 %r30, %tid.x; mul.wide.u32 %rd1, %r30, 4; add.u64 %rd0, %rd0, %rd1; "
        + "ld.global.b32 %r0, [%rd0]; ld.global.b32 %r1, [%rd0+128]; ld.global.b32 %r2, [%rd0+256]; mov.b32 %f0, %r0; mov.b32 %f1, %r1; mov.b32 %f2, %r2; ";

    const string After = " st.global.b32 [%rd0+384], %r3; ret;";

    static readonly uint[] Integers =
    [
        0, 1, 2, 3, 7, 8, 31, 32, 33, 100, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x12345678, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xDEADBEEF,
        0xFFFFFFFE, 0xFFFFFFFF, 12345, 0xAAAAAAAA, 0x55555555, 64, 17, 5, 1000000007, 0xF0F0F0F0, 0x0F0F0F0F,
    ];

    static readonly float[] Numbers =
    [
        0, -0f, 1, -1, 0.5f, 1.5f, 2.5f, -2.5f, 3.75f, 1e-3f, 1e10f, -1e10f, 3e38f, float.PositiveInfinity, float.NegativeInfinity, float.NaN,
        1e-40f, 100, 0.1f, 257, 1e-20f, 65504, 65520, 1f / 3, 127.5f, 255.5f, -0.75f, 2147483648f, 4294967296f, 16777217f, 0.25f, 9,
    ];

    static uint[] Rotate(uint[] values, int by) => [.. values.Skip(by), .. values.Take(by)];

    static void CheckIntegers(string instructions, Func<uint, uint, uint, uint> expected)
    {
        for (int shift = 1; shift < 32; shift += 3)
        {
            uint[] b = Rotate(Integers, shift), c = Rotate(Integers, (2 * shift) + 1 & 31);
            uint[] result = PtxText.Run(Before + instructions + After, 32, 0, [.. Integers, .. b, .. c]);
            for (int i = 0; i < 32; i++)
                Assert.True(expected(Integers[i], b[i], c[i]) == result[96 + i],
                    $"{instructions} of {Integers[i]:x}, {b[i]:x}, {c[i]:x}: expected {expected(Integers[i], b[i], c[i]):x}, got {result[96 + i]:x}");
        }
    }

    static void CheckFloats(string instructions, Func<float, float, float, uint> expected)
    {
        uint[] a = [.. Numbers.Select(BitConverter.SingleToUInt32Bits)];
        for (int shift = 1; shift < 32; shift += 3)
        {
            uint[] b = Rotate(a, shift), c = Rotate(a, (2 * shift) + 1 & 31);
            uint[] result = PtxText.Run(Before + instructions + After, 32, 0, [.. a, .. b, .. c]);
            for (int i = 0; i < 32; i++)
            {
                float x = Numbers[i], y = BitConverter.UInt32BitsToSingle(b[i]), z = BitConverter.UInt32BitsToSingle(c[i]);
                uint value = expected(x, y, z), got = result[96 + i];
                bool bothNoNumber = float.IsNaN(BitConverter.UInt32BitsToSingle(value)) && float.IsNaN(BitConverter.UInt32BitsToSingle(got));
                Assert.True(bothNoNumber || value == got, $"{instructions} of {x}, {y}, {z}: expected {value:x}, got {got:x}");
            }
        }
    }

    static uint Bits(float value) => BitConverter.SingleToUInt32Bits(value);

    [Fact]
    public void Integer_arithmetic_wraps_and_divides_as_C_sharp_does()
    {
        CheckIntegers("add.s32 %r3, %r0, %r1;", (a, b, _) => a + b);
        CheckIntegers("sub.u32 %r3, %r0, %r1;", (a, b, _) => a - b);
        CheckIntegers("mul.lo.s32 %r3, %r0, %r1;", (a, b, _) => a * b);
        CheckIntegers("mul.hi.u32 %r3, %r0, %r1;", (a, b, _) => (uint)(((ulong)a * b) >> 32));
        CheckIntegers("mul.hi.s32 %r3, %r0, %r1;", (a, b, _) => (uint)(((long)(int)a * (int)b) >> 32));
        CheckIntegers("mad.lo.u32 %r3, %r0, %r1, %r2;", (a, b, c) => (a * b) + c);
        CheckIntegers("div.u32 %r3, %r0, %r1;", (a, b, _) => b == 0 ? uint.MaxValue : a / b);
        CheckIntegers("rem.u32 %r3, %r0, %r1;", (a, b, _) => b == 0 ? a : a % b);
        CheckIntegers("div.s32 %r3, %r0, %r1;", (a, b, _) => b == 0 ? uint.MaxValue : (uint)((long)(int)a / (int)b));
        CheckIntegers("rem.s32 %r3, %r0, %r1;", (a, b, _) => b == 0 ? a : (uint)((long)(int)a % (int)b));
        CheckIntegers("min.s32 %r3, %r0, %r1;", (a, b, _) => (uint)Math.Min((int)a, (int)b));
        CheckIntegers("max.u32 %r3, %r0, %r1;", (a, b, _) => Math.Max(a, b));
        CheckIntegers("neg.s32 %r3, %r0;", (a, _, _) => 0 - a);
        CheckIntegers("abs.s32 %r3, %r0;", (a, _, _) => (int)a < 0 ? 0 - a : a);
        CheckIntegers("mul.wide.s32 %rd2, %r0, %r1; mov.b64 {%r4, %r3}, %rd2;", (a, b, _) => (uint)(((long)(int)a * (int)b) >> 32));
        CheckIntegers("mad.wide.u32 %rd2, %r0, %r1, 5; mov.b64 {%r3, %r4}, %rd2;", (a, b, _) => (uint)(((ulong)a * b) + 5));
        CheckIntegers("mov.b64 %rd2, {%r0, %r1}; mul.hi.u64 %rd2, %rd2, %rd2; cvt.u32.u64 %r3, %rd2;", (a, b, _) =>
        {
            ulong x = a | ((ulong)b << 32);
            return (uint)Math.BigMul(x, x, out ulong _);
        });
    }

    [Fact]
    public void Bits_are_shifted_counted_and_picked()
    {
        CheckIntegers("and.b32 %r3, %r0, %r1;", (a, b, _) => a & b);
        CheckIntegers("or.b32 %r3, %r0, %r1;", (a, b, _) => a | b);
        CheckIntegers("xor.b32 %r3, %r0, %r1;", (a, b, _) => a ^ b);
        CheckIntegers("not.b32 %r3, %r0;", (a, _, _) => ~a);
        CheckIntegers("shl.b32 %r3, %r0, %r1;", (a, b, _) => b > 31 ? 0 : a << (int)b);
        CheckIntegers("shr.u32 %r3, %r0, %r1;", (a, b, _) => b > 31 ? 0 : a >> (int)b);
        CheckIntegers("shr.s32 %r3, %r0, %r1;", (a, b, _) => (uint)((int)a >> (int)Math.Min(b, 31)));
        CheckIntegers("popc.b32 %r3, %r0;", (a, _, _) => (uint)BitOperations.PopCount(a));
        CheckIntegers("clz.b32 %r3, %r0;", (a, _, _) => (uint)BitOperations.LeadingZeroCount(a));
        CheckIntegers("brev.b32 %r3, %r0;", (a, _, _) => Convert.ToUInt32(new string([.. a.ToString("b32").Reverse()]), 2));
        CheckIntegers("bfe.u32 %r3, %r0, 4, 8;", (a, _, _) => (a >> 4) & 0xFF);
        CheckIntegers("bfe.s32 %r3, %r0, 28, 8;", (a, _, _) => (uint)((int)a >> 28));
        CheckIntegers("bfe.s32 %r3, %r0, 4, 8;", (a, _, _) => (uint)(sbyte)(a >> 4));
        CheckIntegers("bfi.b32 %r3, %r0, %r1, 4, 8;", (a, b, _) => (b & ~0xFF0u) | ((a & 0xFF) << 4));
        CheckIntegers("lop3.b32 %r3, %r0, %r1, %r2, 0xE8;", (a, b, c) => (a & b) | (a & c) | (b & c));
        CheckIntegers("prmt.b32 %r3, %r0, %r1, 0x5410;", (a, b, _) => (a & 0xFFFF) | (b << 16));
        CheckIntegers("prmt.b32 %r3, %r0, %r1, 0xB732;", (a, b, _) =>
            (a >> 16 & 0xFF) | (a >> 24 << 8) | (b >> 24 << 16) | ((int)a < 0 ? 0xFF000000 : 0));
    }

    [Fact]
    public void Comparisons_treat_signs_and_missing_numbers_as_they_say()
    {
        const string select = " selp.b32 %r3, 1, 0, %p0;";
        CheckIntegers("setp.lt.s32 %p0, %r0, %r1;" + select, (a, b, _) => (int)a < (int)b ? 1u : 0);
        CheckIntegers("setp.lo.u32 %p0, %r0, %r1;" + select, (a, b, _) => a < b ? 1u : 0);
        CheckIntegers("setp.hs.u32 %p0, %r0, %r1;" + select, (a, b, _) => a >= b ? 1u : 0);
        CheckIntegers("setp.ne.s32 %p0, %r0, %r1;" + select, (a, b, _) => a != b ? 1u : 0);
        CheckIntegers("setp.lt.u32 %p1, %r0, 100; setp.gt.and.s32 %p0|%p2, %r1, 5, !%p1; selp.b32 %r4, 2, 0, %p2; selp.b32 %r3, 1, %r4, %p0;",
            (a, b, _) => a < 100 ? 0 : (int)b > 5 ? 1u : 2u);
        CheckFloats("setp.lt.f32 %p0, %f0, %f1;" + select, (a, b, _) => a < b ? 1u : 0);
        CheckFloats("setp.ge.f32 %p0, %f0, %f1;" + select, (a, b, _) => a >= b ? 1u : 0);
        CheckFloats("setp.ne.f32 %p0, %f0, %f1;" + select, (a, b, _) => a < b || a > b ? 1u : 0);
        CheckFloats("setp.neu.f32 %p0, %f0, %f1;" + select, (a, b, _) => a != b ? 1u : 0);
        CheckFloats("setp.equ.f32 %p0, %f0, %f1;" + select, (a, b, _) => !(a < b || a > b) ? 1u : 0);
        CheckFloats("setp.ltu.f32 %p0, %f0, %f1;" + select, (a, b, _) => !(a >= b) ? 1u : 0);
        CheckFloats("setp.leu.f32 %p0, %f0, %f1;" + select, (a, b, _) => !(a > b) ? 1u : 0);
        CheckFloats("setp.gtu.f32 %p0, %f0, %f1;" + select, (a, b, _) => !(a <= b) ? 1u : 0);
        CheckFloats("setp.geu.f32 %p0, %f0, %f1;" + select, (a, b, _) => !(a < b) ? 1u : 0);
        CheckFloats("setp.nan.f32 %p0, %f0, %f1;" + select, (a, b, _) => float.IsNaN(a) || float.IsNaN(b) ? 1u : 0);
        CheckFloats("testp.infinite.f32 %p0, %f0;" + select, (a, _, _) => float.IsInfinity(a) ? 1u : 0);
    }

    [Fact]
    public void Float_arithmetic_rounds_once()
    {
        const string move = " mov.b32 %r3, %f3;";
        CheckFloats("add.f32 %f3, %f0, %f1;" + move, (a, b, _) => Bits(a + b));
        CheckFloats("sub.rn.f32 %f3, %f0, %f1;" + move, (a, b, _) => Bits(a - b));
        CheckFloats("mul.f32 %f3, %f0, %f1;" + move, (a, b, _) => Bits(a * b));
        CheckFloats("fma.rn.f32 %f3, %f0, %f1, %f2;" + move, (a, b, c) => Bits(MathF.FusedMultiplyAdd(a, b, c)));
        CheckFloats("div.rn.f32 %f3, %f0, %f1;" + move, (a, b, _) => Bits(a / b));
        CheckFloats("min.f32 %f3, %f0, %f1;" + move, (a, b, _) => Bits(float.IsNaN(a) ? b : float.IsNaN(b) ? a : MathF.Min(a, b)));
        CheckFloats("max.f32 %f3, %f0, %f1;" + move, (a, b, _) => Bits(float.IsNaN(a) ? b : float.IsNaN(b) ? a : MathF.Max(a, b)));
        CheckFloats("neg.f32 %f3, %f0;" + move, (a, _, _) => Bits(-a));
        CheckFloats("abs.f32 %f3, %f0;" + move, (a, _, _) => Bits(MathF.Abs(a)));
        CheckFloats("sqrt.rn.f32 %f3, %f0;" + move, (a, _, _) => Bits(MathF.Sqrt(a)));
        CheckFloats("ex2.approx.f32 %f3, %f0;" + move, (a, _, _) => Bits((float)Math.Pow(2, a)));
        CheckFloats("lg2.approx.ftz.f32 %f3, %f0;" + move, (a, _, _) => Bits((float)Math.Log2(a == 1e-40f ? 0 : a)));
        CheckFloats("mul.ftz.f32 %f3, %f0, %f1;" + move, (a, b, _) => Bits(Flush(Flush(a) * Flush(b))));
        CheckFloats("cvt.f64.f32 %fd0, %f0; cvt.f64.f32 %fd1, %f1; fma.rn.f64 %fd0, %fd0, %fd1, 0d3FF0000000000000; cvt.rn.f32.f64 %f3, %fd0;" + move,
            (a, b, _) => Bits((float)Math.FusedMultiplyAdd(a, b, 1)));
    }

    static float Flush(float x) => float.IsSubnormal(x) ? MathF.CopySign(0, x) : x;

    [Fact]
    public void Conversions_round_saturate_and_extend()
    {
        CheckFloats("cvt.rzi.s32.f32 %r3, %f0;", (a, _, _) => (uint)int.CreateSaturating(a));
        CheckFloats("cvt.rni.s32.f32 %r3, %f0;", (a, _, _) => (uint)int.CreateSaturating(MathF.Round(a, MidpointRounding.ToEven)));
        CheckFloats("cvt.rmi.s32.f32 %r3, %f0;", (a, _, _) => (uint)int.CreateSaturating(MathF.Floor(a)));
        CheckFloats("cvt.rpi.u32.f32 %r3, %f0;", (a, _, _) => uint.CreateSaturating(MathF.Ceiling(a)));
        CheckFloats("cvt.rn.f16.f32 %rs0, %f0; cvt.f32.f16 %f3, %rs0; mov.b32 %r3, %f3;", (a, _, _) => Bits((float)(Half)a));
        CheckFloats("cvt.rn.f16x2.f32 %r3, %f0, %f1; and.b32 %r3, %r3, 0x7FFF7FFF; mov.b32 {%rs0, %rs1}, %r3; cvt.f32.f16 %f3, %rs1; mov.b32 %r3, %f3;",
            (a, _, _) => Bits(MathF.Abs((float)(Half)a)));
        CheckIntegers("cvt.u8.u32 %rs0, %r0; cvt.s32.s8 %r3, %rs0;", (a, _, _) => (uint)(sbyte)a);
        CheckIntegers("cvt.s16.s32 %rs0, %r0; cvt.u32.u16 %r3, %rs0;", (a, _, _) => (ushort)a);
        CheckIntegers("cvt.s64.s32 %rd2, %r0; shr.s64 %rd2, %rd2, 4; cvt.u32.u64 %r3, %rd2;", (a, _, _) => (uint)((int)a >> 4));
        CheckIntegers("cvt.rn.f32.s32 %f3, %r0; mov.b32 %r3, %f3;", (a, _, _) => Bits((int)a));
        CheckIntegers("cvt.rn.f32.u32 %f3, %r0; mov.b32 %r3, %f3;", (a, _, _) => Bits(a));
        CheckIntegers("mov.b64 %rd2, {%r0, %r1}; cvt.rn.f32.u64 %f3, %rd2; mov.b32 %r3, %f3;", (a, b, _) =>
        {
            var exact = new BigInteger(a | ((ulong)b << 32));
            // Nearest float by exact arithmetic: round the integer to 24 bits, ties to even.
            int drop = Math.Max(0, (int)exact.GetBitLength() - 24);
            var kept = exact >> drop;
            var rest = exact - (kept << drop);
            var half = drop == 0 ? BigInteger.One : BigInteger.One << (drop - 1);
            if (rest > half || (rest == half && drop > 0 && !kept.IsEven))
                kept++;
            return Bits((float)kept * MathF.Pow(2, drop));
        });
    }

    [Fact]
    public void Bfloat16_pairs_round_to_nearest_even()
    {
        CheckFloats("cvt.rn.bf16x2.f32 %r3, %f0, %f1;", (a, b, _) =>
        {
            static uint Narrow(float x) => float.IsNaN(x) ? 0x7FFF : (uint)BitConverter.SingleToUInt32Bits(Nearest(x)) >> 16;
            // The candidates are the two floats with 16 low zero bits around x; the even one wins a tie.
            static float Nearest(float x)
            {
                uint bits = Bits(x), down = bits & 0xFFFF0000;
                uint rest = bits & 0xFFFF;
                bool up = rest > 0x8000 || (rest == 0x8000 && (down >> 16 & 1) == 1);
                return BitConverter.UInt32BitsToSingle(up ? down + 0x10000 : down);
            }
            return (Narrow(a) << 16) | Narrow(b);
        });
    }

    [Fact]
    public void Warp_instructions_see_every_lane()
    {
        CheckWarp("redux.sync.add.s32 %r3, %r0, -1;", values => _ => (uint)values.Sum(v => (long)v));
        CheckWarp("redux.sync.min.s32 %r3, %r0, -1;", values => _ => (uint)values.Min(v => (int)v));
        CheckWarp("redux.sync.max.u32 %r3, %r0, -1;", values => _ => values.Max());
        CheckWarp("setp.gt.u32 %p0, %r0, 300; vote.sync.ballot.b32 %r3, %p0, -1;", values => _ =>
            (uint)Enumerable.Range(0, 32).Sum(i => values[i] > 300 ? 1L << i : 0));
        CheckWarp("setp.gt.u32 %p0, %r0, 300; vote.sync.any.pred %p1, %p0, -1; selp.b32 %r3, 1, 0, %p1;", _ => _ => 1);
        CheckWarp("setp.gt.u32 %p0, %r0, 300; vote.sync.all.pred %p1, %p0, -1; selp.b32 %r3, 1, 0, %p1;", _ => _ => 0);
        // Segments of eight lanes: clamp 7, mask 0x18 in bits 8..12.
        CheckWarp("shfl.sync.idx.b32 %r3, %r0, 2, 0x1807, -1;", values => lane => values[(lane & 24) + 2]);
        CheckWarp("shfl.sync.down.b32 %r3|%p0, %r0, 3, 0x1807, -1; @!%p0 mov.b32 %r3, 77;", values => lane => lane % 8 < 5 ? values[lane + 3] : 77);
        CheckWarp("mov.b32 %r3, %lanemask_lt; popc.b32 %r3, %r3;", _ => lane => (uint)lane);
    }

    static void CheckWarp(string instructions, Func<uint[], Func<int, uint>> expected)
    {
        uint[] result = PtxText.Run(Before + instructions + After, 32, 0, Integers);
        for (int lane = 0; lane < 32; lane++)
            Assert.True(expected(Integers)(lane) == result[96 + lane], $"{instructions}, lane {lane}: got {result[96 + lane]}");
    }

    [Fact]
    public void Atomics_act_lane_after_lane()
    {
        uint[] added = PtxText.Run("ld.param.u64 %rd0, [p]; mov.b32 %r0, %tid.x; mul.wide.u32 %rd1, %r0, 4; add.u64 %rd1, %rd1, %rd0; "
            + "atom.global.add.u32 %r1, [%rd0], 2; st.global.b32 [%rd1+128], %r1; red.global.max.s32 [%rd0+4], %r0; atom.global.inc.u32 %r2, [%rd0+8], 4; "
            + "atom.global.cas.b32 %r3, [%rd0+12], 9, %r0; ret;", 32, 0, 10, 0, 0, 9);
        Assert.Equal(10u + 64, added[0]);
        Assert.Equal(31u, added[1]);
        Assert.Equal(32u % 5, added[2]);
        Assert.Equal(0u, added[3]);
        for (uint i = 0; i < 32; i++)
            Assert.Equal(10 + (2 * i), added[32 + i]);
    }

    [Fact]
    public void Vectors_and_narrow_values_are_loaded_and_stored()
    {
        uint[] words = PtxText.Run("ld.param.u64 %rd0, [p]; ld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%rd0]; st.global.v2.b32 [%rd0+64], {%r3, %r2}; "
            + "ld.global.s8 %r4, [%rd0+3]; st.global.b32 [%rd0+72], %r4; st.global.b8 [%rd0+76], %r0; ld.u16 %rs0, [%rd0+2]; cvt.u32.u16 %r5, %rs0; "
            + "st.b32 [%rd0+80], %r5; ret;", 1, 0, 0xFE345678, 2, 3, 4);
        Assert.Equal([4, 3, 0xFFFFFFFE, 0x78, 0xFE34], words[16..21]);
    }

    [Theory]
    [InlineData("bf16")]
    [InlineData("f16")]
    public void Matrices_are_loaded_and_multiplied(string type)
    {
        // A [16, 16] and B^T [8, 16] as 16-bit values in shared memory, row by row; D = A B + 1.
        var random = new Random(5);
        float[] a = [.. Enumerable.Range(0, 256).Select(_ => random.Next(-8, 9) / 4f)], b = [.. Enumerable.Range(0, 128).Select(_ => random.Next(-8, 9) / 4f)];
        uint Narrow(float x) => type == "f16" ? BitConverter.HalfToUInt16Bits((Half)x) : Bits(x) >> 16;
        float[] all = [.. a, .. b];
        uint[] words = [.. Enumerable.Range(0, 192).Select(i => Narrow(all[2 * i]) | (Narrow(all[(2 * i) + 1]) << 16)), .. new uint[192]];
        uint[] result = PtxText.Run($$"""
            ld.param.u64 %rd0, [p]; mov.b32 %r0, %tid.x; mul.wide.u32 %rd1, %r0, 16; add.u64 %rd1, %rd1, %rd0; shl.b32 %r1, %r0, 4;
            ld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%rd1]; st.shared.v4.b32 [%r1], {%r2, %r3, %r4, %r5};
            setp.lt.u32 %p0, %r0, 16; @!%p0 bra FILLED;
            ld.global.v4.b32 {%r2, %r3, %r4, %r5}, [%rd1+512]; st.shared.v4.b32 [%r1+512], {%r2, %r3, %r4, %r5};
            FILLED: bar.sync 0;
            and.b32 %r2, %r0, 15; shl.b32 %r2, %r2, 5; shr.u32 %r3, %r0, 4; shl.b32 %r3, %r3, 4; add.u32 %r2, %r2, %r3;
            ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r4, %r5, %r6, %r7}, [%r2];
            and.b32 %r2, %r0, 7; shl.b32 %r2, %r2, 5; shr.u32 %r3, %r0, 3; and.b32 %r3, %r3, 1; shl.b32 %r3, %r3, 4; add.u32 %r2, %r2, %r3;
            ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r8, %r9}, [%r2+512];
            mov.f32 %f0, 0f3F800000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
            mma.sync.aligned.m16n8k16.row.col.f32.{{type}}.{{type}}.f32 {%f4, %f5, %f6, %f7}, {%r4, %r5, %r6, %r7}, {%r8, %r9}, {%f0, %f1, %f2, %f3};
            shr.u32 %r2, %r0, 2; and.b32 %r3, %r0, 3; shl.b32 %r2, %r2, 3; shl.b32 %r3, %r3, 1; add.u32 %r2, %r2, %r3;
            mul.wide.u32 %rd1, %r2, 4; add.u64 %rd1, %rd1, %rd0;
            st.global.v2.f32 [%rd1+768], {%f4, %f5}; st.global.v2.f32 [%rd1+1024], {%f6, %f7}; ret;
            """, 32, 768, words);
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++)
            {
                float expected = 1;
                for (int k = 0; k < 16; k++)
                    expected += a[(16 * row) + k] * b[(16 * column) + k];
                Assert.Equal(expected, BitConverter.UInt32BitsToSingle(result[192 + (8 * row) + column]));
            }
    }
}
