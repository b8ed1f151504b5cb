using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Instructions by which lanes see each other: shuffles, votes, matches, reductions, and registers that say where a lane is.</summary>
public sealed class PtxEmulatorWarpTests
{
    /// <summary>Runs a body in which %r0 is the lane's value and %r30 its number; returns %r3 of every lane.</summary>
    static uint[] Run(string body, Func<int, uint> value, int threads = 32) => PtxText.Run(
        "ld.param.u64 %rd0, [p]; mov.b32 %r30, %tid.x; mad.wide.u32 %rd1, %r30, 4, %rd0; ld.global.b32 %r0, [%rd1]; "
        + body + " st.global.b32 [%rd1], %r3; ret;", threads, 0, [.. Enumerable.Range(0, threads).Select(value)])[..threads];

    static uint Value(int lane) => (uint)(lane * 2654435761L);

    public static TheoryData<string, int, int, int> Shuffles() =>
    [
        .. from mode in new[] { "up", "down", "bfly", "idx" } from distance in new[] { 0, 1, 3, 8, 15, 31 } from width in new[] { 32, 16, 8, 4 } select (mode, distance, width, 31),
        ("down", 3, 32, 20), ("idx", 30, 32, 12), ("bfly", 8, 32, 9),
    ];

    [Theory]
    [MemberData(nameof(Shuffles))]
    public void Shuffles_stay_within_segment_and_clamp(string mode, int by, int width, int clamp)
    {
        // Bits 8..12 keep the number of a lane's segment, bits 0..4 clamp the lane within it; `up` has its limit below.
        int segment = 32 - width, limit = mode == "up" ? 0 : clamp;
        uint[] result = Run($"shfl.sync.{mode}.b32 %r3|%p0, %r0, {by}, {(segment << 8) | limit}, -1; @!%p0 xor.b32 %r3, %r3, 1;", Value);
        for (int lane = 0; lane < 32; lane++)
        {
            int first = lane & segment, end = first | (limit & ~segment);
            int source = mode switch { "up" => lane - by, "down" => lane + by, "bfly" => lane ^ by, _ => first | (by & ~segment) };
            bool inside = mode == "up" ? source >= first : source <= end;
            Assert.Equal(inside ? Value(source) : Value(lane) ^ 1, result[lane]);
        }
    }

    [Fact]
    public void Shuffles_among_the_lanes_of_one_path_name_them()
    {
        uint[] result = Run("mov.b32 %r3, 5; setp.ge.u32 %p0, %r30, 24; @!%p0 bra END; shfl.sync.bfly.b32 %r3, %r0, 1, 31, 0xFF000000; END:", Value);
        for (int lane = 0; lane < 32; lane++)
            Assert.Equal(lane < 24 ? 5 : Value(lane ^ 1), result[lane]);
    }

    [Fact]
    public void Shuffle_from_a_lane_that_is_not_named_or_elsewhere_is_refused()
    {
        Assert.Contains("does not name", PtxText.Fails("mov.b32 %r0, %tid.x; shfl.sync.idx.b32 %r1, %r0, 20, 31, 0xFFFF; ret;").Message);
        Assert.Contains("on another path", PtxText.Fails(
            "mov.b32 %r0, %tid.x; setp.ge.u32 %p0, %r0, 24; @!%p0 bra END; shfl.sync.idx.b32 %r1, %r0, 3, 31, 0xFF000000; END: ret;").Message);
        Assert.Contains("has returned", PtxText.Fails(
            "mov.b32 %r0, %tid.x; setp.lt.u32 %p0, %r0, 4; @%p0 ret; shfl.sync.idx.b32 %r1, %r0, 3, 31, 0xFFFFFFF0; ret;").Message);
    }

    [Theory]
    [InlineData("ballot.b32 %r3, %p0, -1;", 0xFFFF8000)]
    [InlineData("ballot.b32 %r3, !%p0, -1;", 0x00007FFF)]
    [InlineData("any.pred %p1, %p0, -1; selp.b32 %r3, 1, 0, %p1;", 1)]
    [InlineData("all.pred %p1, %p0, -1; selp.b32 %r3, 1, 0, %p1;", 0)]
    [InlineData("uni.pred %p1, %p0, -1; selp.b32 %r3, 1, 0, %p1;", 0)]
    public void Votes_count_every_lane(string vote, uint expected) =>
        Assert.All(Run($"setp.ge.u32 %p0, %r30, 15; vote.sync.{vote}", Value), result => Assert.Equal(expected, result));

    [Fact]
    public void Votes_of_a_path_count_its_lanes_only()
    {
        uint[] result = Run("setp.ge.u32 %p0, %r30, 15; mov.b32 %r3, 0; setp.lt.u32 %p1, %r30, 20; @!%p1 bra END; "
            + "vote.sync.ballot.b32 %r3, %p0, 0xFFFFF; setp.ge.u32 %p2, %r30, 0; vote.sync.all.pred %p3, %p2, 0xFFFFF; @%p3 add.u32 %r3, %r3, 1; END:", Value);
        for (int lane = 0; lane < 32; lane++)
            Assert.Equal(lane < 20 ? 0xF8001u : 0, result[lane]);
    }

    [Theory]
    [InlineData(32)]
    [InlineData(64)]
    public void Matches_find_equal_values(int bits)
    {
        string widen = bits == 64 ? "cvt.u64.u32 %rd3, %r0; shl.b64 %rd3, %rd3, 20;" : "", operand = bits == 64 ? "%rd3" : "%r0";
        uint[] any = Run($"{widen} match.any.sync.b{bits} %r3, {operand}, -1;", lane => (uint)(lane % 5));
        for (int lane = 0; lane < 32; lane++)
            Assert.Equal((uint)Enumerable.Range(0, 32).Where(other => other % 5 == lane % 5).Sum(other => 1L << other), any[lane]);
        string all = $"{widen} match.all.sync.b{bits} %r3|%p0, {operand}, -1; @!%p0 mov.b32 %r3, 77;";
        Assert.All(Run(all, _ => 9), mask => Assert.Equal(uint.MaxValue, mask));
        Assert.All(Run(all, lane => lane == 6 ? 8u : 9), mask => Assert.Equal(77u, mask));
    }

    [Theory]
    [InlineData("add.u32")]
    [InlineData("add.s32")]
    [InlineData("min.u32")]
    [InlineData("min.s32")]
    [InlineData("max.u32")]
    [InlineData("max.s32")]
    [InlineData("and.b32")]
    [InlineData("or.b32")]
    [InlineData("xor.b32")]
    public void Reductions_combine_every_lane_of_a_path(string operation)
    {
        uint Expected(IEnumerable<uint> values) => operation switch
        {
            "add.u32" or "add.s32" => values.Aggregate((a, b) => a + b),
            "min.u32" => values.Min(),
            "min.s32" => (uint)values.Min(v => (int)v),
            "max.u32" => values.Max(),
            "max.s32" => (uint)values.Max(v => (int)v),
            "and.b32" => values.Aggregate((a, b) => a & b),
            "or.b32" => values.Aggregate((a, b) => a | b),
            _ => values.Aggregate((a, b) => a ^ b),
        };
        uint[] all = [.. Enumerable.Range(0, 32).Select(Value)];
        Assert.All(Run($"redux.sync.{operation} %r3, %r0, -1;", Value), result => Assert.Equal(Expected(all), result));
        uint[] part = Run($"mov.b32 %r3, 5; setp.ge.u32 %p0, %r30, 7; @!%p0 bra END; redux.sync.{operation} %r3, %r0, 0xFFFFFF80; END:", Value);
        for (int lane = 0; lane < 32; lane++)
            Assert.Equal(lane < 7 ? 5 : Expected(all[7..]), part[lane]);
    }

    [Fact]
    public void Activemask_is_the_lanes_of_the_path()
    {
        uint[] result = Run("setp.lt.u32 %p0, %r30, 11; @%p0 bra LOW; activemask.b32 %r3; bra END; LOW: activemask.b32 %r3; END:", Value);
        for (int lane = 0; lane < 32; lane++)
            Assert.Equal(lane < 11 ? 0x7FFu : 0xFFFFF800, result[lane]);
    }

    [Theory]
    [InlineData("%laneid", "lane")]
    [InlineData("%lanemask_eq", "eq")]
    [InlineData("%lanemask_lt", "lt")]
    [InlineData("%lanemask_le", "le")]
    [InlineData("%lanemask_gt", "gt")]
    [InlineData("%lanemask_ge", "ge")]
    [InlineData("%warpid", "warp")]
    [InlineData("%nwarpid", "warps")]
    [InlineData("%ntid.x", "threads")]
    [InlineData("%nctaid.x", "one")]
    [InlineData("WARP_SZ", "size")]
    public void Special_registers_say_where_a_lane_is(string register, string meaning)
    {
        uint[] result = Run($"mov.u32 %r3, {register};", Value, threads: 96);
        for (int i = 0; i < 96; i++)
        {
            int lane = i % 32;
            uint Mask(Func<int, bool> member) => (uint)Enumerable.Range(0, 32).Where(member).Sum(other => 1L << other);
            Assert.Equal(meaning switch
            {
                "lane" => (uint)lane,
                "eq" => Mask(other => other == lane),
                "lt" => Mask(other => other < lane),
                "le" => Mask(other => other <= lane),
                "gt" => Mask(other => other > lane),
                "ge" => Mask(other => other >= lane),
                "warp" => (uint)i / 32,
                "warps" => 3u,
                "threads" => 96u,
                "size" => 32u,
                _ => 1u,
            }, result[i]);
        }
    }

    [Fact]
    public void Clocks_count_instructions_and_never_run_backwards()
    {
        uint[] result = Run("mov.u32 %r1, %clock; add.u32 %r2, %r0, 1; add.u32 %r2, %r2, 1; mov.u32 %r4, %clock; sub.u32 %r3, %r4, %r1;", Value);
        Assert.All(result, difference => Assert.Equal(3u, difference));
        uint[] wide = Run("mov.u64 %rd3, %clock64; mov.u64 %rd4, %globaltimer; setp.gt.u64 %p0, %rd4, %rd3; selp.b32 %r3, 1, 0, %p0;", Value);
        Assert.All(wide, later => Assert.Equal(1u, later));
    }
}
