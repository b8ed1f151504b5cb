using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Barriers of a block, of parts of it, and of a warp; what they order, and what they do not.</summary>
public sealed class PtxEmulatorBarrierTests
{
    /// <summary>Registers: %r0 thread, %r1 its byte in shared memory, %r2 warp, %rd1 its word in the buffer.</summary>
    const string Start = "ld.param.u64 %rd0, [p]; mov.b32 %r0, %tid.x; shl.b32 %r1, %r0, 2; shr.u32 %r2, %r0, 5; mad.wide.u32 %rd1, %r0, 4, %rd0; ";

    [Fact]
    public void Barriers_of_two_pairs_of_warps_are_independent()
    {
        // Each pair of warps swaps values through its own barrier, as often as its number says.
        uint[] result = PtxText.Run(Start + """
            shr.u32 %r3, %r0, 6; add.u32 %r4, %r3, 1; xor.b32 %r5, %r1, 128; mov.b32 %r7, 0; add.u32 %r8, %r3, 1;
            LOOP: add.u32 %r6, %r0, %r7; st.shared.b32 [%r1], %r6; barrier.sync.aligned %r4, 64; ld.shared.b32 %r9, [%r5]; bar.sync %r4, 64;
            add.u32 %r7, %r7, 1; setp.lt.u32 %p0, %r7, %r8; @%p0 bra LOOP; st.global.b32 [%rd1], %r9; ret;
            """, 128, 512);
        for (int i = 0; i < 128; i++)
            Assert.Equal((uint)((i ^ 32) + (i / 64)), result[i]);
    }

    [Fact]
    public void Producer_arrives_and_consumer_waits()
    {
        // Warp 0 fills and goes on; warps 1 and 2 wait for it, and for each other not at all.
        uint[] result = PtxText.Run(Start + """
            setp.ne.u32 %p0, %r2, 0; @%p0 bra CONSUME;
            add.u32 %r3, %r0, 100; st.shared.b32 [%r1], %r3; bar.arrive 3, 64; bar.arrive 4, 64; st.global.b32 [%rd1], %r3; ret;
            CONSUME: add.u32 %r4, %r2, 2; bar.sync %r4, 64; and.b32 %r5, %r1, 127; ld.shared.b32 %r6, [%r5]; st.global.b32 [%rd1], %r6; ret;
            """, 96, 128);
        for (int i = 0; i < 96; i++)
            Assert.Equal((uint)(100 + (i % 32)), result[i]);
    }

    [Fact]
    public void Barrier_of_a_part_orders_only_its_warps()
    {
        // Warps 0 and 1 meet; warp 2 reads what they wrote without meeting anybody.
        const string part = Start + "setp.eq.u32 %p0, %r2, 2; @%p0 bra READ; st.shared.b32 [%r1], %r0; bar.sync 1, 64; "
            + "xor.b32 %r3, %r1, 128; ld.shared.b32 %r4, [%r3]; ret; READ: and.b32 %r3, %r1, 127; ld.shared.b32 %r4, [%r3]; ret;";
        Assert.Contains("shared memory race", PtxText.Fails(part, 96, 256).Message);
        // A chain of two barriers hands on what came before the first.
        uint[] chained = PtxText.Run(Start + """
            setp.eq.u32 %p0, %r2, 0; @%p0 bra FIRST; setp.eq.u32 %p0, %r2, 1; @%p0 bra SECOND;
            bar.sync 2, 64; and.b32 %r3, %r1, 127; ld.shared.b32 %r4, [%r3]; st.global.b32 [%rd1], %r4; ret;
            SECOND: bar.sync 1, 64; bar.arrive 2, 64; ret;
            FIRST: add.u32 %r4, %r0, 7; st.shared.b32 [%r1], %r4; bar.arrive 1, 64; ret;
            """, 96, 128);
        for (int i = 64; i < 96; i++)
            Assert.Equal((uint)(i - 64 + 7), chained[i]);
    }

    [Fact]
    public void Access_after_arriving_is_not_ordered()
    {
        Assert.Contains("shared memory race", PtxText.Fails(Start + """
            setp.ne.u32 %p0, %r2, 0; @%p0 bra CONSUME;
            bar.arrive 1, 64; st.shared.b32 [%r1], %r0; ret;
            CONSUME: bar.sync 1, 64; and.b32 %r5, %r1, 127; st.shared.b32 [%r5], %r0; ret;
            """, 64, 128).Message);
    }

    [Theory]
    [InlineData("bar.red.popc.u32 %r3, 0, %p0;", 40)]
    [InlineData("bar.red.popc.u32 %r3, 0, !%p0;", 56)]
    [InlineData("bar.red.and.pred %p1, 0, %p0; selp.b32 %r3, 1, 0, %p1;", 0)]
    [InlineData("bar.red.or.pred %p1, 0, %p0; selp.b32 %r3, 1, 0, %p1;", 1)]
    [InlineData("bar.red.and.pred %p1, 0, !%p2; selp.b32 %r3, 1, 0, %p1;", 1)]
    [InlineData("barrier.cta.red.popc.aligned.u32 %r3, 2, 96, %p0;", 40)]
    public void Reductions_over_the_block_reach_every_thread(string barrier, uint expected)
    {
        uint[] result = PtxText.Run(Start + $"setp.lt.u32 %p0, %r0, 40; setp.gt.u32 %p2, %r0, 1000; {barrier} st.global.b32 [%rd1], %r3; ret;", 96, 0);
        Assert.All(result[..96], value => Assert.Equal(expected, value));
    }

    [Fact]
    public void Reductions_over_a_part_count_its_threads()
    {
        uint[] result = PtxText.Run(Start + """
            setp.ge.u32 %p0, %r0, 60; mov.b32 %r3, 9; setp.eq.u32 %p1, %r2, 0; @%p1 bra END;
            bar.red.popc.u32 %r3, 5, 64, %p0; END: st.global.b32 [%rd1], %r3; ret;
            """, 96, 0);
        for (int i = 0; i < 96; i++)
            Assert.Equal(i < 32 ? 9u : 36, result[i]);
    }

    [Fact]
    public void Warp_barrier_orders_the_lanes_that_its_mask_names()
    {
        const string swap = Start + "st.shared.b32 [%r1], %r0; {0} xor.b32 %r3, %r1, 4; ld.shared.b32 %r4, [%r3]; st.global.b32 [%rd1], %r4; ret;";
        Assert.Contains("race", PtxText.Fails(swap.Replace("{0}", ""), 32, 128).Message);
        Assert.Equal(Enumerable.Range(0, 32).Select(i => (uint)(i ^ 1)), PtxText.Run(swap.Replace("{0}", "bar.warp.sync 0xFFFFFFFF;"), 32, 128)[..32]);
        Assert.Equal(Enumerable.Range(0, 32).Select(i => (uint)(i ^ 1)), PtxText.Run(swap.Replace("{0}", "mov.b32 %r9, -1; bar.warp.sync %r9;"), 32, 128)[..32]);
    }

    [Theory]
    [InlineData("bar.sync 16;", "barrier 16 does not exist")]
    [InlineData("bar.sync 1, 40;", "multiple of 32")]
    [InlineData("bar.sync 1, 128;", "up to the block's 96")]
    [InlineData("bar.sync %r0;", "lanes of one warp name different barriers")]
    [InlineData("setp.eq.u32 %p0, %r2, 0; @%p0 bra A; bar.sync 1; bra END; A: bar.sync 1, 64; END:", "another number of threads")]
    [InlineData("setp.eq.u32 %p0, %r2, 0; @%p0 bra A; bar.sync 1; bra END; A: bar.red.popc.u32 %r3, 1, %p0; END:", "in another way")]
    [InlineData("setp.eq.u32 %p0, %r2, 0; @%p0 bra A; bar.sync 1; bra END; A: bar.sync 2; END:", "this warp waits at barrier 2, others at barrier 1")]
    [InlineData("setp.ne.u32 %p0, %r2, 0; @%p0 bra END; bar.sync 1, 64; END: bar.sync 2, 64;", "divergent barrier")]
    [InlineData("setp.eq.u32 %p0, %r2, 0; @%p0 bar.arrive 1, 64; bar.sync 2;", null)]
    public void Barriers_that_cannot_be_complete_are_refused(string barriers, string? problem)
    {
        if (problem == null)
            PtxText.Run(Start + barriers + " ret;", 96, 0);
        else
            Assert.Contains(problem, PtxText.Fails(Start + barriers + " ret;", 96).Message);
    }
}
