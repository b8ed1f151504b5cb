using System.Numerics;
using ILGPU;
using ILGPU.Runtime;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Atomic operations of every type, in global and shared memory.</summary>
public sealed class PtxEmulatorAtomicTests
{
    static readonly uint[] Values = [5, 0, 0xFFFFFFFF, 7, 0x80000000, 12, 12, 0x7FFFFFFF, 3, 100];

    static ulong Wide(uint value) => value * 0x1_0000_0001UL;

    public static TheoryData<string, bool> Operations() =>
    [
        .. from operation in new[]
        {
            "add.u32", "add.s32", "add.u64", "min.u32", "min.s32", "min.u64", "min.s64", "max.u32", "max.s32", "max.u64", "max.s64", "and.b32", "and.b64", "or.b32",
            "or.b64", "xor.b32", "xor.b64", "exch.b32", "exch.b64", "inc.u32", "dec.u32",
        }
        from shared in new[] { false, true } select (operation, shared),
    ];

    /// <summary>Lanes act in ascending order on one word that starts as 9; each gets the value before its own.</summary>
    [Theory]
    [MemberData(nameof(Operations))]
    public void Lanes_act_one_after_the_other(string operation, bool shared)
    {
        string[] parts = operation.Split('.');
        bool wide = parts[1].EndsWith("64", StringComparison.Ordinal);
        string r = wide ? "%rd" : "%r", bits = wide ? "b64" : "b32", space = shared ? "shared" : "global", at = shared ? "%r20" : "%rd0";
        string load = wide ? "cvt.u64.u32 %rd3, %r3; mad.lo.u64 %rd3, %rd3, 0x100000000, %rd3;" : "";
        uint[] words = [.. new uint[8], .. Values];
        int n = Values.Length;
        uint[] result = PtxText.Run(
            $"ld.param.u64 %rd0, [p]; mov.b32 %r0, %tid.x; mov.b32 %r20, 0; mad.wide.u32 %rd1, %r0, 4, %rd0; ld.global.b32 %r3, [%rd1+32]; {load} "
            + $"setp.eq.u32 %p0, %r0, 0; @%p0 st.{space}.{bits} [{at}], 9; bar.warp.sync -1; atom.{space}.{operation} {r}4, [{at}], {r}3; "
            + $"bar.warp.sync -1; ld.{space}.{bits} {r}5, [{at}]; mad.wide.u32 %rd1, %r0, 8, %rd0; st.global.{bits} [%rd1+128], {r}4; st.global.{bits} [%rd0+96], {r}5; ret;",
            n, shared ? 16 : 0, words);
        ulong current = 9;
        for (int i = 0; i < n; i++)
        {
            Assert.Equal(current, result[32 + (2 * i)] | (wide ? (ulong)result[33 + (2 * i)] << 32 : 0));
            ulong x = wide ? Wide(Values[i]) : Values[i];
            BigInteger Signed(ulong v) => wide ? (long)v : (int)v;
            current = parts[0] switch
            {
                "add" => current + x,
                "and" => current & x,
                "or" => current | x,
                "xor" => current ^ x,
                "exch" => x,
                "inc" => current >= x ? 0 : current + 1,
                "dec" => current == 0 || current > x ? x : current - 1,
                "min" when parts[1][0] == 's' => Signed(x) < Signed(current) ? x : current,
                "max" when parts[1][0] == 's' => Signed(x) > Signed(current) ? x : current,
                "min" => Math.Min(current, x),
                _ => Math.Max(current, x),
            };
            current &= wide ? ulong.MaxValue : uint.MaxValue;
        }
        Assert.Equal(current, result[24] | (wide ? (ulong)result[25] << 32 : 0));
    }

    [Theory]
    [InlineData("b32", "%r")]
    [InlineData("b64", "%rd")]
    [InlineData("b16", "%rs")]
    public void Compare_and_swap_lets_one_lane_win(string type, string r)
    {
        string widen = r switch { "%rd" => "cvt.u64.u32 %rd3, %r0;", "%rs" => "cvt.u16.u32 %rs3, %r0;", _ => "mov.b32 %r3, %r0;" };
        uint[] result = PtxText.Run(
            $"ld.param.u64 %rd0, [p]; mov.b32 %r0, %tid.x; add.u32 %r0, %r0, 50; {widen} atom.cas.{type} {r}4, [%rd0], 9, {r}3; st.global.{type} [%rd0+64], {r}4; ret;", 32, 0, 9);
        Assert.Equal(50u, result[0]);
        // The last lane saw the winner's value.
        Assert.Equal(50u, result[16]);
    }

    [Fact]
    public void Reductions_return_nothing_and_floats_are_added_in_order()
    {
        uint[] result = PtxText.Run(
            "ld.param.u64 %rd0, [p]; mov.b32 %r0, %tid.x; cvt.rn.f32.u32 %f0, %r0; cvt.rn.f64.u32 %fd0, %r0; rcp.rn.f32 %f1, %f0; setp.eq.u32 %p0, %r0, 0; @%p0 mov.f32 %f1, 0f00000000; "
            + "red.global.add.f32 [%rd0], %f1; red.relaxed.gpu.global.add.f64 [%rd0+8], %fd0; red.add.u32 [%rd0+16], 2; red.global.max.s64 [%rd0+24], -5; ret;", 32, 0);
        float sum = 0;
        for (int i = 1; i < 32; i++)
            sum += 1f / i;
        Assert.Equal(sum, BitConverter.UInt32BitsToSingle(result[0]));
        Assert.Equal(496.0, BitConverter.UInt64BitsToDouble(result[2] | ((ulong)result[3] << 32)));
        Assert.Equal(64u, result[4]);
        Assert.Equal(0u, result[6]);
    }

    [Fact]
    public void Halves_are_added_alone_and_in_pairs()
    {
        static uint Half(double x) => BitConverter.HalfToUInt16Bits((System.Half)x);
        uint[] result = PtxText.Run(
            $"ld.param.u64 %rd0, [p]; mov.b16 %rs0, {Half(1.5)}; mov.b32 %r0, {Half(0.25) | (Half(-2) << 16)}; "
            + "atom.global.add.noftz.f16 %rs1, [%rd0], %rs0; red.global.add.noftz.f16x2 [%rd0+4], %r0; ret;", 4, 0, 0, Half(1) | (Half(1) << 16));
        Assert.Equal(Half(6), result[0]);
        Assert.Equal(Half(2) | (Half(-7) << 16), result[1]);
    }

    [Fact]
    public void Float_sums_flush_subnormals_in_global_memory_only()
    {
        const string body = "ld.param.u64 %rd0, [p]; mov.b32 %r0, 0; st.shared.b32 [%r0], 3; mov.b32 %f0, 4; atom.shared.add.f32 %f1, [%r0], %f0; ld.shared.b32 %r1, [%r0]; "
            + "st.global.b32 [%rd0+8], %r1; atom.global.add.f32 %f1, [%rd0], %f0; ret;";
        uint[] result = PtxText.Run(body, 1, 16, 3);
        Assert.Equal(7u, result[2]);
        Assert.Equal(0u, result[0]);
    }

    static void Every(Index1D i, ArrayView<int> a, ArrayView<long> b, ArrayView<float> c, ArrayView<double> d, ArrayView<uint> e, ArrayView<ulong> f)
    {
        int x = (i * 37 % 101) - 50;
        Atomic.Add(ref a[0], x);
        Atomic.Max(ref a[1], x);
        Atomic.Min(ref a[2], x);
        Atomic.And(ref a[3], ~(1 << (x & 7)));
        Atomic.Or(ref a[4], 1 << (x & 7));
        Atomic.Xor(ref a[5], x);
        Atomic.Add(ref b[0], x);
        Atomic.Max(ref b[1], x);
        Atomic.Min(ref b[2], x);
        Atomic.Xor(ref b[3], x);
        Atomic.Add(ref c[0], x);
        Atomic.Max(ref c[1], (float)x);
        Atomic.Min(ref c[2], (float)x);
        Atomic.Add(ref d[0], x);
        Atomic.Max(ref d[1], (double)x);
        Atomic.Min(ref d[2], (double)x);
        Atomic.Add(ref e[0], (uint)i.X);
        Atomic.Max(ref e[1], (uint)i.X);
        Atomic.Add(ref f[0], (ulong)i.X);
        Atomic.Min(ref f[1], (ulong)i.X);
        Atomic.Exchange(ref f[2], (ulong)i.X);
        Atomic.CompareExchange(ref f[3], 0, (ulong)i.X + 1);
    }

    [Fact]
    public void Atomics_of_ILGPU_work_for_every_type()
    {
        using var context = Context.Create(builder => builder.Optimize(OptimizationLevel.O1));
        using var accelerator = context.CreatePtxEmulator();
        using var a = accelerator.Allocate1D<int>([0, 0, 0, -1, 0, 0]);
        using var b = accelerator.Allocate1D<long>(4);
        using var c = accelerator.Allocate1D<float>(3);
        using var d = accelerator.Allocate1D<double>(3);
        using var e = accelerator.Allocate1D<uint>(2);
        using var f = accelerator.Allocate1D<ulong>([0, 1000, 0, 0]);
        foreach (var buffer in (MemoryBuffer[])[b, c, d, e])
            buffer.AsRawArrayView().MemSetToZero();
        accelerator.LoadAutoGroupedStreamKernel<Index1D, ArrayView<int>, ArrayView<long>, ArrayView<float>, ArrayView<double>, ArrayView<uint>, ArrayView<ulong>>(Every)(
            300, a.View, b.View, c.View, d.View, e.View, f.View);
        int[] x = [.. Enumerable.Range(0, 300).Select(i => (i * 37 % 101) - 50)];
        int xor = x.Aggregate((p, q) => p ^ q);
        Assert.Equal([x.Sum(), x.Max(), x.Min(), ~0xFF, 0xFF, xor], a.GetAsArray1D());
        Assert.Equal([x.Sum(), x.Max(), x.Min(), x.Aggregate(0L, (p, q) => p ^ q)], b.GetAsArray1D());
        Assert.Equal([x.Sum(), x.Max(), x.Min()], c.GetAsArray1D());
        Assert.Equal([x.Sum(), x.Max(), x.Min()], d.GetAsArray1D());
        Assert.Equal([44850u, 299u], e.GetAsArray1D());
        Assert.Equal([44850UL, 0, 299, 1], f.GetAsArray1D());
    }

    [Theory]
    [InlineData("red.global.cas.b32 [%rd0], %r0, %r1;")]
    [InlineData("red.global.exch.b32 [%rd0], %r0;")]
    [InlineData("atom.global.min.f32 %f0, [%rd0], %f1;")]
    [InlineData("atom.global.add.f16 %rs0, [%rd0], %rs1;")]
    [InlineData("atom.global.add.noftz.bf16 %rs0, [%rd0], %rs1;")]
    [InlineData("atom.local.add.u32 %r0, [%rd0], %r1;")]
    [InlineData("red.global.add.noftz.v2.f32 [%rd0], {%f0, %f1};")]
    public void Atomics_that_sm_80_lacks_are_refused(string instruction) =>
        Assert.Contains("not known", Assert.Throws<PtxSyntaxException>(() => PtxProgram.Parse(PtxText.Kernel(instruction))).Message);
}
