using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// Runs instructions on tables of operands and compares with a definition. Registers %rs0-2, %r0-2, %rd0-2, %f0-2 and %fd0-2 hold the
/// (low bits of the) three operands of a thread; the result is the bits of one register, extended by zeros.
/// </summary>
static class PtxOperation
{
    const int Threads = 128;

    public static ulong[] Run(string instructions, string result, ulong[] a, ulong[]? b = null, ulong[]? c = null)
    {
        int blocks = (a.Length + Threads - 1) / Threads, count = blocks * Threads;
        string store = result[1..].TrimEnd("0123456789".ToCharArray()) switch
        {
            "rs" => $"cvt.u64.u16 %rd10, {result};",
            "r" => $"cvt.u64.u32 %rd10, {result};",
            "f" => $"mov.b32 %r28, {result}; cvt.u64.u32 %rd10, %r28;",
            "p" => $"selp.b64 %rd10, 1, 0, {result};",
            _ => $"mov.b64 %rd10, {result};",
        };
        string body = $$"""
            ld.param.u64 %rd8, [p]; mov.b32 %r30, %tid.x; mov.b32 %r31, %ctaid.x; mad.lo.u32 %r30, %r31, {{Threads}}, %r30;
            mul.wide.u32 %rd9, %r30, 8; add.u64 %rd8, %rd8, %rd9;
            ld.global.b64 %rd0, [%rd8]; ld.global.b64 %rd1, [%rd8+{{8 * count}}]; ld.global.b64 %rd2, [%rd8+{{16 * count}}];
            cvt.u32.u64 %r0, %rd0; cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2;
            cvt.u16.u64 %rs0, %rd0; cvt.u16.u64 %rs1, %rd1; cvt.u16.u64 %rs2, %rd2;
            mov.b32 %f0, %r0; mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b64 %fd0, %rd0; mov.b64 %fd1, %rd1; mov.b64 %fd2, %rd2;
            {{instructions}}
            {{store}} st.global.b64 [%rd8+{{24 * count}}], %rd10; ret;
            """;
        using var memory = new AllocationTable();
        var buffer = memory.Allocate(32 * count);
        unsafe
        {
            var words = new Span<ulong>((void*)buffer.Start, 4 * count);
            words.Clear();
            a.CopyTo(words);
            b?.CopyTo(words[count..]);
            c?.CopyTo(words[(2 * count)..]);
            new Launch(PtxProgram.Parse(PtxText.Kernel(body)), memory, new PtxEmulatorOptions { Workers = 1 })
            {
                GridDim = (blocks, 1, 1),
                BlockDim = (Threads, 1, 1),
                Arguments = BitConverter.GetBytes(buffer.Start),
            }.Run();
            return words.Slice(3 * count, a.Length).ToArray();
        }
    }

    /// <summary>Every value as operand, against the definition.</summary>
    public static void Check(string instructions, string result, ulong[] values, Func<ulong, ulong> expected) =>
        Check(instructions, result, values, values, values, (a, _, _) => expected(a));

    /// <summary>Every pair of values as operands.</summary>
    public static void Check(string instructions, string result, ulong[] first, ulong[] second, Func<ulong, ulong, ulong> expected)
    {
        ulong[] a = [.. first.SelectMany(x => second.Select(_ => x))], b = [.. first.SelectMany(_ => second)];
        Check(instructions, result, a, b, a, (x, y, _) => expected(x, y));
    }

    /// <summary>Three operands, element by element; see <see cref="Triples"/>.</summary>
    public static void Check(string instructions, string result, ulong[] a, ulong[] b, ulong[] c, Func<ulong, ulong, ulong, ulong> expected)
    {
        ulong[] got = Run(instructions, result, a, b, c);
        for (int i = 0; i < a.Length; i++)
        {
            ulong right = expected(a[i], b[i], c[i]);
            Assert.True(right == got[i], $"{instructions} of {a[i]:x}, {b[i]:x}, {c[i]:x}: expected {right:x}, got {got[i]:x}");
        }
    }

    /// <summary>All pairs of values, with a third that goes through all of them.</summary>
    public static (ulong[] A, ulong[] B, ulong[] C) Triples(ulong[] values)
    {
        int n = values.Length;
        int[] pairs = [.. Enumerable.Range(0, n * n)];
        return ([.. pairs.Select(i => values[i / n])], [.. pairs.Select(i => values[i % n])], [.. pairs.Select(i => values[(i / n * 7 + i % n * 3 + 1) % n])]);
    }

    /// <summary>Values of so many bits: edges, and random ones from a fixed seed.</summary>
    public static ulong[] Integers(int bits)
    {
        ulong all = bits == 64 ? ulong.MaxValue : (1UL << bits) - 1, top = 1UL << (bits - 1);
        var random = new Random(bits);
        ulong[] edges = [0, 1, 2, 3, 7, 31, 32, 33, 63, 64, 100, top - 1, top, top + 1, all - 1, all, all / 3, all / 3 * 2, 0x12345678_9ABCDEF0 & all];
        return [.. edges, .. Enumerable.Range(0, 9).Select(_ => (ulong)random.NextInt64() & all)];
    }
}
