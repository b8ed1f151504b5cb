using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Loads, stores, addresses and asynchronous copies.</summary>
public sealed class PtxEmulatorMemoryTests
{
    const string Start = "ld.param.u64 %rd0, [p]; mov.b32 %r20, 0; ";

    [Theory]
    [InlineData("ld.global.u8 %r1, [%rd0+3];", 0xFE)]
    [InlineData("ld.global.s8 %r1, [%rd0+3];", 0xFFFFFFFE)]
    [InlineData("ld.global.b8 %rs0, [%rd0+3]; cvt.u32.u16 %r1, %rs0;", 0xFE)]
    [InlineData("ld.global.u16 %r1, [%rd0+2];", 0xFE34)]
    [InlineData("ld.global.s16 %r1, [%rd0+2];", 0xFFFFFE34)]
    [InlineData("ld.volatile.global.u32 %r1, [%rd0];", 0xFE345678)]
    [InlineData("ld.relaxed.gpu.global.b32 %r1, [%rd0];", 0xFE345678)]
    [InlineData("ld.acquire.sys.global.b32 %r1, [%rd0];", 0xFE345678)]
    [InlineData("ld.global.nc.b32 %r1, [%rd0];", 0xFE345678)]
    [InlineData("ld.global.nc.L1::no_allocate.b32 %r1, [%rd0];", 0xFE345678)]
    [InlineData("ld.global.L1::evict_last.L2::128B.b32 %r1, [%rd0];", 0xFE345678)]
    [InlineData("ld.global.cs.b32 %r1, [%rd0];", 0xFE345678)]
    [InlineData("createpolicy.fractional.L2::evict_last.b64 %rd3, 1.0; ld.global.L2::cache_hint.b32 %r1, [%rd0], %rd3;", 0xFE345678)]
    [InlineData("ldu.global.b32 %r1, [%rd0];", 0xFE345678)]
    [InlineData("ld.b32 %r1, [%rd0+4];", 2)]
    [InlineData("ld.global.b64 %rd3, [%rd0]; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r1, %rd3;", 2)]
    [InlineData("ld.global.v2.b64 {%rd3, %rd4}, [%rd0]; cvt.u32.u64 %r1, %rd4;", 3)]
    [InlineData("ld.global.nc.v4.f32 {%f0, %f1, %f2, %f3}, [%rd0]; mov.b32 %r1, %f3;", 4)]
    [InlineData("ld.global.v4.u8 {%r2, %r3, %r1, %r4}, [%rd0];", 0x34)]
    [InlineData("ld.global.v2.b32 {_, %r1}, [%rd0];", 2)]
    [InlineData("prefetch.global.L2 [%rd0]; prefetch.L1 [%rd0+4]; ld.global.b32 %r1, [%rd0+8];", 3)]
    public void Values_are_loaded(string load, uint expected) =>
        Assert.Equal(expected, PtxText.Run($"{Start}{load} st.global.b32 [%rd0+64], %r1; ret;", 1, 0, 0xFE345678, 2, 3, 4)[16]);

    [Fact]
    public void Values_are_stored()
    {
        uint[] words = PtxText.Run(Start + """
            mov.b32 %r1, 0x12345678; mov.b32 %r2, 9; st.global.b8 [%rd0+5], %r1; st.global.u16 [%rd0+10], %r1; st.volatile.global.v4.b32 [%rd0+16], {%r1, %r2, 7, %r2};
            st.global.wt.v2.b64 [%rd0+32], {%rd3, 5}; st.release.gpu.global.f32 [%rd0+48], 0.5; st.global.L1::no_allocate.v2.b16 [%rd0+52], {1, 2}; ret;
            """, 1, 0);
        Assert.Equal([0, 0x7800, 0x56780000, 0, 0x12345678, 9, 7, 9, 0, 0, 5, 0, 0x3F000000, 0x00020001], words[..14]);
    }

    [Fact]
    public void Generic_addresses_reach_every_space_and_say_which()
    {
        uint[] words = PtxText.Run("""
            .local .align 8 .b8 mine[16];
            ld.param.u64 %rd0, [p]; mov.u64 %rd1, mine; cvta.local.u64 %rd2, %rd1; mov.u64 %rd3, 8; cvta.shared.u64 %rd4, %rd3;
            st.b32 [%rd2+4], 11; st.b32 [%rd4], 22; st.b32 [%rd0], 33;
            ld.local.b32 %r1, [%rd1+4]; ld.shared.b32 %r2, [%rd3]; st.global.b32 [%rd0+4], %r1; st.global.b32 [%rd0+8], %r2;
            isspacep.global %p0, %rd0; isspacep.shared %p1, %rd4; isspacep.local %p2, %rd2; isspacep.shared %p3, %rd0; isspacep.local %p4, %rd4; isspacep.global %p5, %rd2;
            selp.b32 %r3, 1, 0, %p0; @%p1 add.u32 %r3, %r3, 2; @%p2 add.u32 %r3, %r3, 4; @%p3 add.u32 %r3, %r3, 8; @%p4 add.u32 %r3, %r3, 16; @%p5 add.u32 %r3, %r3, 32;
            st.global.b32 [%rd0+12], %r3; cvta.to.shared.u64 %rd5, %rd4; ld.shared.b32 %r4, [%rd5]; st.global.b32 [%rd0+16], %r4; ret;
            """, 1, 16);
        Assert.Equal([33, 11, 22, 7, 22], words[..5]);
    }

    [Fact]
    public void Variables_of_the_module_start_with_their_values()
    {
        const string module = """
            .version 8.0
            .target sm_80
            .address_size 64
            .global .align 4 .b32 counter = 5;
            .const .align 4 .f32 table[4] = {1.5, 0f40000000};
            .global .align 8 .u16 rows[2][3] = {{1, 2, 3}, {4, 5}};
            .visible .entry kernel(.param .b64 p)
            {
            .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .f32 %f<4>;
            ld.param.u64 %rd0, [p]; atom.global.add.u32 %r0, [counter], 1; st.global.b32 [%rd0], %r0;
            ld.const.f32 %f0, [table]; ld.const.f32 %f1, [table+4]; add.f32 %f0, %f0, %f1; st.global.f32 [%rd0+4], %f0;
            mov.u64 %rd1, rows; cvta.global.u64 %rd1, %rd1; ld.u16 %r1, [%rd1+8]; st.global.b32 [%rd0+8], %r1; ld.const.b32 %r2, [table+12]; st.global.b32 [%rd0+12], %r2; ret;
            }
            """;
        using var memory = new PtxEmulator.AllocationTable();
        var buffer = memory.Allocate(64);
        var program = PtxEmulator.PtxProgram.Parse(module);
        for (uint launch = 0; launch < 2; launch++)
        {
            new PtxEmulator.Launch(program, memory, new PtxEmulator.PtxEmulatorOptions()) { Arguments = BitConverter.GetBytes(buffer.Start) }.Run();
            unsafe
            {
                // Variables live as long as the module: the second launch finds what the first left.
                Assert.Equal([5 + launch, BitConverter.SingleToUInt32Bits(3.5f), 5, 0], new ReadOnlySpan<uint>((void*)buffer.Start, 4).ToArray());
            }
        }
        Assert.Contains("has 12 bytes, expected 8", Assert.Throws<PtxEmulator.PtxSyntaxException>(() =>
            PtxEmulator.PtxProgram.Parse(module.Replace("counter = 5", "counter[2] = {1, 2, 3}"))).Message);
    }

    [Theory]
    [InlineData("ca", 4, 4)]
    [InlineData("ca", 8, 8)]
    [InlineData("ca", 16, 16)]
    [InlineData("cg", 16, 16)]
    [InlineData("ca", 8, 3)]
    [InlineData("cg", 16, 5)]
    [InlineData("cg", 16, 0)]
    public void Asynchronous_copies_fill_up_with_zeros(string cache, int size, int used)
    {
        uint[] source = [0x11223344, 0x55667788, 0x99AABBCC, 0xDDEEFF00];
        string operand = used == size ? "" : $", {used}";
        uint[] words = PtxText.Run(Start + $$"""
            st.shared.v4.b32 [%r20], {7, 7, 7, 7}; bar.warp.sync -1; cp.async.{{cache}}.shared.global [%r20], [%rd0], {{size}}{{operand}}; cp.async.commit_group; cp.async.wait_group 0;
            ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r20]; st.global.v4.b32 [%rd0+64], {%r1, %r2, %r3, %r4}; ret;
            """, 1, 64, source);
        byte[] expected = [.. source.SelectMany(BitConverter.GetBytes).Take(used), .. new byte[size - used]];
        byte[] all = [.. expected, .. Enumerable.Repeat((byte[])[7, 0, 0, 0], 4).SelectMany(b => b).Skip(size)];
        Assert.Equal(all, words[16..20].SelectMany(BitConverter.GetBytes));
    }

    [Theory]
    [InlineData("%p0", 0)]
    [InlineData("!%p0", 42)]
    public void Ignored_source_is_not_read(string ignore, uint expected)
    {
        // Where it is ignored the address may be anything.
        string address = expected == 0 ? "8" : "%rd0";
        Assert.Equal(expected, PtxText.Run(Start + $"""
            setp.eq.u32 %p0, 0, 0; mov.b64 %rd3, {address}; cp.async.ca.shared.global.L2::128B [%r20], [%rd3], 4, {ignore}; cp.async.wait_all;
            ld.shared.b32 %r1, [%r20]; st.global.b32 [%rd0+64], %r1; ret;
            """, 1, 64, 42)[16]);
    }

    [Fact]
    public void Groups_of_copies_arrive_in_their_order()
    {
        // Three groups; each wait lets one more be read.
        uint[] words = PtxText.Run(Start + """
            cp.async.ca.shared.global [%r20], [%rd0], 4; cp.async.commit_group; cp.async.ca.shared.global [%r20+4], [%rd0+4], 4; cp.async.ca.shared.global [%r20+8], [%rd0+8], 4;
            cp.async.commit_group; cp.async.ca.shared.global [%r20+12], [%rd0+12], 4; cp.async.commit_group;
            cp.async.wait_group 2; ld.shared.b32 %r1, [%r20]; cp.async.wait_group 1; ld.shared.b32 %r2, [%r20+4]; ld.shared.b32 %r3, [%r20+8];
            cp.async.wait_group 0; ld.shared.b32 %r4, [%r20+12]; st.global.v4.b32 [%rd0+64], {%r1, %r2, %r3, %r4}; ret;
            """, 1, 64, 5, 6, 7, 8);
        Assert.Equal([5, 6, 7, 8], words[16..20]);
    }

    [Theory]
    [InlineData("cp.async.cg.shared.global [%r20], [%rd0], 8;", "copies of 8 bytes")]
    [InlineData("cp.async.ca.shared.global [%r20], [%rd0], 12;", "copies of 12 bytes")]
    [InlineData("cp.async.bulk.commit_group;", "cp.async.bulk")]
    [InlineData("ld.global.v8.f32 {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, [%rd0];", "ld.global.v8")]
    [InlineData("ld.global.v4.b64 {%rd0, %rd1, %rd2, %rd3}, [%rd4];", "ld.global.v4.b64")]
    [InlineData("ld.global.b32 %r0, %rd0;", "brackets")]
    [InlineData("isspacep.const %p0, %rd0;", "isspacep.const")]
    public void Forms_that_do_not_exist_are_refused(string instruction, string named) =>
        Assert.Contains(named, Assert.Throws<PtxEmulator.PtxSyntaxException>(() => PtxEmulator.PtxProgram.Parse(PtxText.Kernel(instruction))).Message);

    [Fact]
    public void Copy_that_is_told_to_read_more_than_it_copies_is_refused() =>
        Assert.Contains("is told to read 5", PtxText.Fails(Start + "mov.b32 %r1, 5; cp.async.ca.shared.global [%r20], [%rd0], 4, %r1; ret;", 1, 64).Message);
}
