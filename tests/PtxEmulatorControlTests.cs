using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Predication, divergence and where lanes meet again.</summary>
public sealed class PtxEmulatorControlTests
{
    const string Start = "ld.param.u64 %rd0, [p]; mov.b32 %r0, %tid.x; mad.wide.u32 %rd1, %r0, 4, %rd0; ";
    const string End = " st.global.b32 [%rd1], %r3; ret;";

    static void Check(string body, Func<int, uint> expected, int threads = 32)
    {
        uint[] result = PtxText.Run(Start + body, threads, 0);
        for (int i = 0; i < threads; i++)
            Assert.True(expected(i) == result[i], $"thread {i}: expected {expected(i)}, got {result[i]}");
    }

    [Fact]
    public void Predicated_instructions_run_in_their_lanes_only() => Check(
        "mov.b32 %r3, 1; setp.lt.u32 %p0, %r0, 9; @%p0 mov.b32 %r3, 2; @!%p0 add.u32 %r3, %r3, %r0; setp.eq.u32 %p0, %r0, 99; @%p0 mov.b32 %r3, 3;" + End,
        i => i < 9 ? 2u : (uint)i + 1);

    [Fact]
    public void Nested_branches_meet_where_they_join() => Check(
        """
        mov.b32 %r3, 0; setp.lt.u32 %p0, %r0, 16; @!%p0 bra ELSE;
        setp.lt.u32 %p1, %r0, 5; @%p1 bra FIVE; add.u32 %r3, %r3, 10; bra INNER; FIVE: add.u32 %r3, %r3, 20; INNER: activemask.b32 %r4; popc.b32 %r5, %r4; add.u32 %r3, %r3, %r5; bra JOIN;
        ELSE: add.u32 %r3, %r3, 30; JOIN: activemask.b32 %r4; popc.b32 %r5, %r4; mad.lo.u32 %r3, %r5, 100, %r3;
        """ + End, i => (uint)(3200 + (i < 5 ? 36 : i < 16 ? 26 : 30)));

    [Fact]
    public void Lanes_leave_a_loop_one_by_one_and_meet_behind_it() => Check(
        "mov.b32 %r3, 0; LOOP: setp.ge.u32 %p0, %r3, %r0; @%p0 bra OUT; add.u32 %r3, %r3, 1; bra LOOP; OUT: activemask.b32 %r4; popc.b32 %r4, %r4; mad.lo.u32 %r3, %r4, 1000, %r3;"
        + End, i => (uint)(32_000 + i));

    [Fact]
    public void Break_and_continue_inside_a_loop() => Check(
        // sum of odd j < 100, until it exceeds the thread's number.
        """
        mov.b32 %r3, 0; mov.b32 %r4, 0;
        LOOP: add.u32 %r4, %r4, 1; setp.ge.u32 %p0, %r4, 100; @%p0 bra OUT; and.b32 %r5, %r4, 1; setp.eq.u32 %p1, %r5, 0; @%p1 bra LOOP;
        add.u32 %r3, %r3, %r4; setp.gt.u32 %p2, %r3, %r0; @%p2 bra OUT; bra LOOP; OUT:
        """ + End, i =>
        {
            int sum = 0;
            for (int j = 1; j < 100 && sum <= i; j += 2)
                sum += j;
            return (uint)sum;
        });

    [Fact]
    public void Lanes_that_return_early_do_not_come_back() => Check(
        "mov.b32 %r3, 7; st.global.b32 [%rd1], %r3; setp.lt.u32 %p0, %r0, 20; @%p0 ret; setp.lt.u32 %p0, %r0, 25; @%p0 exit; activemask.b32 %r3;" + End,
        i => i < 25 ? 7u : 0xFE000000);

    [Fact]
    public void Indexed_branches_send_each_lane_to_its_target() => Check(
        """
        and.b32 %r4, %r0, 3; TARGETS: .branchtargets A, B, C, A; brx.idx %r4, TARGETS;
        A: mov.b32 %r3, 100; bra JOIN; B: mov.b32 %r3, 200; bra JOIN; C: mov.b32 %r3, 300; JOIN: activemask.b32 %r5; popc.b32 %r5, %r5; add.u32 %r3, %r3, %r5;
        """ + End, i => (uint)((i % 4) switch { 1 => 200, 2 => 300, _ => 100 }) + 32);

    [Fact]
    public void Indexed_branch_beyond_its_targets_is_refused() => Assert.Contains("picks target 2 of 2", PtxText.Fails(
        "mov.b32 %r0, %tid.x; T: .branchtargets A, B; brx.idx %r0, T; A: ret; B: ret;").Message);

    [Fact]
    public void Guarded_indexed_branch_leaves_the_other_lanes_behind_it() => Check(
        "mov.b32 %r3, 1; setp.lt.u32 %p0, %r0, 8; and.b32 %r4, %r0, 1; T: .branchtargets A, B; @%p0 brx.idx %r4, T; add.u32 %r3, %r3, 1; bra JOIN; "
        + "A: mov.b32 %r3, 10; bra JOIN; B: mov.b32 %r3, 20; JOIN: activemask.b32 %r5; popc.b32 %r5, %r5; add.u32 %r3, %r3, %r5;" + End,
        i => (uint)(i < 8 ? i % 2 == 0 ? 42 : 52 : 34));

    [Fact]
    public void Partial_warp_runs_its_threads_only() => Check("vote.sync.ballot.b32 %r3, 1, 0xFF;".Replace("1, 0xFF", "%p0, 0xFF").Insert(0, "setp.eq.u32 %p0, 0, 0; ") + End,
        i => i < 8 ? 0xFFu : 0, threads: 8);

    [Fact]
    public void Literals_are_read_in_every_notation() => Check(
        "mov.b32 %r3, 0x1F; add.u32 %r3, %r3, 0b101; add.u32 %r3, %r3, 017; add.s32 %r3, %r3, -1; add.u32 %r3, %r3, 3U; mov.f32 %f0, 0f40000000; mul.f32 %f0, %f0, 1.5; "
        + "add.f32 %f0, %f0, -2.5e-1; cvt.rni.u32.f32 %r4, %f0; add.u32 %r3, %r3, %r4; mov.b64 {%r5, _}, 0x100000007; add.u32 %r3, %r3, %r5;" + End,
        _ => 31 + 5 + 15 - 1 + 3 + 3 + 7);

    [Fact]
    public void Trap_ends_the_launch() => Assert.Contains("trap", PtxText.Fails("trap;").Message);

    [Theory]
    [InlineData("add.s32 %r0, %r1, %r2, %r3;", "4 operands, expected 3")]
    [InlineData("bra L, M; L: M: ret;", "2 operands, expected 1")]
    [InlineData("ret %r0;", "1 operands, expected 0")]
    [InlineData("mov.b32 %r0, 08;", "'08' is not a number")]
    [InlineData("elect.sync %r0|%p0, -1;", "elect.sync")]
    [InlineData("mapa.u64 %rd0, %rd1, %r0;", "mapa.u64")]
    [InlineData("tex.2d.v4.f32.f32 {%f0, %f1, %f2, %f3}, [%rd0, {%f0, %f1}];", "tex.2d")]
    [InlineData("vadd.s32.s32.s32 %r0, %r1, %r2;", "vadd")]
    [InlineData("mbarrier.init.shared.b64 [%r0], 1;", "mbarrier.init")]
    public void What_the_emulator_does_not_know_is_an_error_with_its_line(string instruction, string named)
    {
        var error = Assert.Throws<PtxEmulator.PtxSyntaxException>(() => PtxEmulator.PtxProgram.Parse(PtxText.Kernel("ret;\n" + instruction)));
        Assert.Contains(named, error.Message);
        Assert.Contains($"line {error.Line}", error.Message);
    }
}
