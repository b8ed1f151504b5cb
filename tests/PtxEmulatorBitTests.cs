using System.Numerics;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Shifts, bit fields, counts and permutations, bit by bit from the definition.</summary>
public sealed class PtxEmulatorBitTests
{
    static readonly ulong[] Counts = [0, 1, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200, 255, 256, 0x80000000, 0xFFFFFFFF];

    static bool Bit(ulong x, int i) => (x >> i & 1) != 0;

    static ulong Collect(int bits, Func<int, bool> bit) => Enumerable.Range(0, bits).Aggregate(0UL, (x, i) => x | (bit(i) ? 1UL << i : 0));

    static string Register(int bits) => bits switch { 16 => "%rs", 32 => "%r", _ => "%rd" };

    [Theory]
    [InlineData(16)]
    [InlineData(32)]
    [InlineData(64)]
    public void Shifts_are_clamped_to_the_width(int bits)
    {
        string r = Register(bits);
        ulong[] values = PtxOperation.Integers(bits);
        PtxOperation.Check($"shl.b{bits} {r}3, {r}0, %r1;", r + "3", values, Counts, (a, by) => Collect(bits, i => by <= (ulong)i && Bit(a, i - (int)by)));
        PtxOperation.Check($"shr.u{bits} {r}3, {r}0, %r1;", r + "3", values, Counts, (a, by) => Collect(bits, i => by < (ulong)(bits - i) && Bit(a, i + (int)by)));
        PtxOperation.Check($"shr.s{bits} {r}3, {r}0, %r1;", r + "3", values, Counts, (a, by) => Collect(bits, i => Bit(a, by < (ulong)(bits - i) ? i + (int)by : bits - 1)));
    }

    [Theory]
    [InlineData("u32")]
    [InlineData("s32")]
    [InlineData("u64")]
    [InlineData("s64")]
    public void Bit_fields_are_extracted(string type)
    {
        int bits = int.Parse(type[1..]), top = bits - 1;
        string r = Register(bits);
        foreach (uint length in (uint[])[0, 1, 7, 31, 32, 33, 63, 64, 65, 255, 260])
            PtxOperation.Check($"bfe.{type} {r}3, {r}0, %r1, {length};", r + "3", PtxOperation.Integers(bits), Counts, (a, start) =>
            {
                int from = (int)(start & 0xFF), count = (int)(length & 0xFF);
                bool sign = type[0] == 's' && count > 0 && Bit(a, Math.Min(from + count - 1, top));
                return Collect(bits, i => i < count && from + i <= top ? Bit(a, from + i) : sign);
            });
    }

    [Theory]
    [InlineData(32)]
    [InlineData(64)]
    public void Bit_fields_are_inserted(int bits)
    {
        string r = Register(bits);
        ulong[] values = PtxOperation.Integers(bits);
        foreach (uint length in (uint[])[0, 1, 7, 31, 32, 64, 255])
            foreach (uint start in (uint[])[0, 3, 31, 32, 60, 64, 255])
                PtxOperation.Check($"bfi.b{bits} {r}3, {r}0, {r}1, {start}, {length};", r + "3", values, values, (field, into) =>
                    Collect(bits, i => i >= start && i < start + length ? Bit(field, i - (int)start) : Bit(into, i)));
    }

    [Theory]
    [InlineData(32)]
    [InlineData(64)]
    public void Bits_are_counted_found_and_reversed(int bits)
    {
        string r = Register(bits);
        ulong[] values = PtxOperation.Integers(bits);
        uint Highest(ulong a)
        {
            for (int i = bits - 1; i >= 0; i--)
                if (Bit(a, i))
                    return (uint)i;
            return uint.MaxValue;
        }
        ulong WithoutSign(ulong a) => Bit(a, bits - 1) ? Collect(bits, i => !Bit(a, i)) : a;
        PtxOperation.Check($"popc.b{bits} %r3, {r}0;", "%r3", values, a => (ulong)Enumerable.Range(0, bits).Count(i => Bit(a, i)));
        PtxOperation.Check($"clz.b{bits} %r3, {r}0;", "%r3", values, a => a == 0 ? (uint)bits : (uint)(bits - 1) - Highest(a));
        PtxOperation.Check($"brev.b{bits} {r}3, {r}0;", r + "3", values, a => Collect(bits, i => Bit(a, bits - 1 - i)));
        PtxOperation.Check($"bfind.u{bits} %r3, {r}0;", "%r3", values, a => Highest(a));
        PtxOperation.Check($"bfind.s{bits} %r3, {r}0;", "%r3", values, a => Highest(WithoutSign(a)));
        PtxOperation.Check($"bfind.shiftamt.u{bits} %r3, {r}0;", "%r3", values, a => a == 0 ? uint.MaxValue : (uint)(bits - 1) - Highest(a));
        PtxOperation.Check($"not.b{bits} {r}3, {r}0;", r + "3", values, a => Collect(bits, i => !Bit(a, i)));
        PtxOperation.Check($"cnot.b{bits} {r}3, {r}0;", r + "3", values, a => a == 0 ? 1u : 0);
    }

    [Fact]
    public void The_nth_set_bit_is_found_in_both_directions()
    {
        foreach (int offset in (int[])[0, 1, 2, 5, -1, -2, -5])
            PtxOperation.Check($"fns.b32 %r3, %r0, %r1, {offset};", "%r3", PtxOperation.Integers(32), [0, 1, 7, 16, 30, 31], (mask, start) =>
            {
                int[] set = [.. Enumerable.Range(0, 32).Where(i => Bit(mask, i))];
                int found = offset switch
                {
                    0 => Bit(mask, (int)start) ? (int)start : -1,
                    > 0 => set.Where(i => i >= (int)start).Skip(offset - 1).DefaultIfEmpty(-1).First(),
                    _ => set.Where(i => i <= (int)start).Reverse().Skip(-offset - 1).DefaultIfEmpty(-1).First(),
                };
                return (uint)found;
            });
    }

    [Fact]
    public void Funnel_shifts_clamp_or_wrap()
    {
        ulong[] values = PtxOperation.Integers(32);
        foreach (uint count in (uint[])[0, 1, 8, 31, 32, 33, 40, 0xFFFFFFFF])
        {
            foreach (string mode in (string[])["wrap", "clamp"])
            {
                int by = (int)(mode == "wrap" ? count % 32 : Math.Min(count, 32));
                PtxOperation.Check($"shf.l.{mode}.b32 %r3, %r0, %r1, {count};", "%r3", values, values, (low, high) =>
                    (ulong)((((((BigInteger)high << 32) + low) << by) >> 32) & uint.MaxValue));
                PtxOperation.Check($"shf.r.{mode}.b32 %r3, %r0, %r1, {count};", "%r3", values, values, (low, high) =>
                    (ulong)(((((BigInteger)high << 32) + low) >> by) & uint.MaxValue));
            }
        }
    }

    [Fact]
    public void Fields_are_extended_and_masks_made()
    {
        ulong[] values = PtxOperation.Integers(32);
        foreach (string mode in (string[])["wrap", "clamp"])
        {
            int Width(ulong count) => (int)(mode == "wrap" ? count % 32 : Math.Min(count, 32));
            PtxOperation.Check($"szext.{mode}.u32 %r3, %r0, %r1;", "%r3", values, Counts, (a, n) => Collect(32, i => i < Width(n) && Bit(a, i)));
            PtxOperation.Check($"szext.{mode}.s32 %r3, %r0, %r1;", "%r3", values, Counts, (a, n) => Width(n) == 0 ? 0 : Collect(32, i => Bit(a, Math.Min(i, Width(n) - 1))));
            PtxOperation.Check($"bmsk.{mode}.b32 %r3, %r0, %r1;", "%r3", Counts, Counts, (a, n) => Collect(32, i => i >= Width(a) && i < Width(a) + Width(n)));
        }
    }

    [Fact]
    public void All_256_functions_of_three_bits()
    {
        ulong[] a = PtxOperation.Integers(32), b = [.. a.Skip(5), .. a.Take(5)], c = [.. a.Skip(11), .. a.Take(11)];
        for (int table = 0; table < 256; table++)
        {
            int results = table;
            PtxOperation.Check($"lop3.b32 %r3, %r0, %r1, %r2, {table};", "%r3", a, b, c, (x, y, z) =>
                Collect(32, i => (results >> ((Bit(x, i) ? 4 : 0) + (Bit(y, i) ? 2 : 0) + (Bit(z, i) ? 1 : 0)) & 1) != 0));
        }
    }

    [Theory]
    [InlineData("", null)]
    [InlineData(".f4e", "0123 1234 2345 3456")]
    [InlineData(".b4e", "0765 1076 2107 3210")]
    [InlineData(".rc8", "0000 1111 2222 3333")]
    [InlineData(".ecl", "0123 1123 2223 3333")]
    [InlineData(".ecr", "0000 0111 0122 0123")]
    [InlineData(".rc16", "0101 2323 0101 2323")]
    public void Bytes_are_permuted_in_every_mode(string mode, string? table)
    {
        var (a, b, c) = PtxOperation.Triples(PtxOperation.Integers(32));
        PtxOperation.Check($"prmt.b32{mode} %r3, %r0, %r1, %r2;", "%r3", a, b, c, (low, high, select) =>
        {
            ulong result = 0;
            for (int i = 0; i < 4; i++)
            {
                // The tables name the bytes from the lowest of the result on.
                int selector = table == null ? (int)(select >> (4 * i) & 15) : table.Split(' ')[select & 3][i] - '0';
                ulong value = (selector & 7) < 4 ? low >> (8 * (selector & 3)) & 0xFF : high >> (8 * (selector & 3)) & 0xFF;
                if ((selector & 8) != 0)
                    value = value >= 0x80 ? 0xFFu : 0;
                result |= value << (8 * i);
            }
            return result;
        });
    }
}
