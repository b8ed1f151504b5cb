using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Comparisons, selections and tests of properties.</summary>
public sealed class PtxEmulatorCompareTests
{
    static FloatDefinition Format(string type) => type switch { "f16" => FloatDefinition.F16, "f32" => FloatDefinition.F32, _ => FloatDefinition.F64 };

    /// <summary>-1, 0 or 1, or null where a number is missing.</summary>
    static int? Order(ulong a, ulong b, string type)
    {
        int bits = int.Parse(type[1..]);
        if (type[0] == 'u')
            return a.CompareTo(b);
        if (type[0] == 's')
            return ((long)a << (64 - bits)).CompareTo((long)b << (64 - bits));
        var format = Format(type);
        return format.IsNaN(a) || format.IsNaN(b) ? null : format.Value(a).CompareTo(format.Value(b));
    }

    static bool Holds(string comparison, int? order) => comparison switch
    {
        "eq" => order == 0,
        "ne" => order is not (0 or null),
        "lt" or "lo" => order < 0,
        "le" or "ls" => order <= 0,
        "gt" or "hi" => order > 0,
        "ge" or "hs" => order >= 0,
        "equ" => order is 0 or null,
        "neu" => order != 0,
        "ltu" => order is null or < 0,
        "leu" => order is null or <= 0,
        "gtu" => order is null or > 0,
        "geu" => order is null or >= 0,
        "num" => order != null,
        _ => order == null,
    };

    static string Register(string type) => type switch
    {
        "f32" => "%f",
        "f64" => "%fd",
        "s64" or "u64" => "%rd",
        "s32" or "u32" => "%r",
        _ => "%rs",
    };

    static ulong[] Values(string type) => type[0] == 'f' ? Format(type).Samples(4) : PtxOperation.Integers(int.Parse(type[1..]));

    public static TheoryData<string, string> Comparisons()
    {
        string[] ordered = ["eq", "ne", "lt", "le", "gt", "ge"], unsigned = ["lo", "ls", "hi", "hs"], unordered = ["equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];
        return
        [
            .. from type in new[] { "s16", "s32", "s64", "u16", "u32", "u64", "f16", "f32", "f64" } from name in ordered select (name, type),
            .. from type in new[] { "u16", "u32", "u64" } from name in unsigned select (name, type),
            .. from type in new[] { "f16", "f32", "f64" } from name in unordered select (name, type),
        ];
    }

    [Theory]
    [MemberData(nameof(Comparisons))]
    public void Comparisons_order_numbers_and_notice_missing_ones(string comparison, string type)
    {
        ulong[] values = Values(type);
        string r = Register(type);
        PtxOperation.Check($"setp.{comparison}.{type} %p0, {r}0, {r}1;", "%p0", values, values, (a, b) => Holds(comparison, Order(a, b, type)) ? 1u : 0);
    }

    [Theory]
    [InlineData("and", "")]
    [InlineData("or", "")]
    [InlineData("xor", "")]
    [InlineData("and", "!")]
    [InlineData("xor", "!")]
    public void A_second_predicate_is_combined_with_the_result_and_its_opposite(string combine, string not)
    {
        ulong[] values = PtxOperation.Integers(32);
        foreach (string result in (string[])["%p2", "%p3"])
            PtxOperation.Check($"setp.lt.u32 %p1, %r0, 100; setp.gt.{combine}.s32 %p2|%p3, %r1, 5, {not}%p1;", result, values, values, (a, b) =>
            {
                bool first = (int)b > 5 != (result == "%p3"), second = a < 100 != (not == "!");
                return (combine switch { "and" => first && second, "or" => first || second, _ => first != second }) ? 1u : 0;
            });
    }

    [Fact]
    public void Set_writes_ones_or_one_point_zero()
    {
        ulong[] values = FloatDefinition.F32.Samples(4);
        PtxOperation.Check("set.lt.u32.f32 %r3, %f0, %f1;", "%r3", values, values, (a, b) => Holds("lt", Order(a, b, "f32")) ? uint.MaxValue : 0);
        PtxOperation.Check("set.geu.f32.f32 %f3, %f0, %f1;", "%f3", values, values, (a, b) => Holds("geu", Order(a, b, "f32")) ? 0x3F800000u : 0);
        ulong[] integers = PtxOperation.Integers(32);
        PtxOperation.Check("setp.eq.s32 %p1, %r0, 0; set.gt.or.s32.s32 %r3, %r0, %r1, %p1;", "%r3", integers, integers, (a, b) =>
            (int)a > (int)b || a == 0 ? uint.MaxValue : 0);
    }

    [Fact]
    public void Ftz_compares_subnormals_as_zeros()
    {
        var format = FloatDefinition.F32;
        ulong[] values = format.Samples(2);
        ulong Flush(ulong x) => (x & ~format.Sign) < 0x80_0000 ? x & format.Sign : x;
        PtxOperation.Check("setp.eq.ftz.f32 %p0, %f0, %f1;", "%p0", values, values, (a, b) => Holds("eq", Order(Flush(a), Flush(b), "f32")) ? 1u : 0);
        PtxOperation.Check("setp.gtu.ftz.f32 %p0, %f0, %f1;", "%p0", values, values, (a, b) => Holds("gtu", Order(Flush(a), Flush(b), "f32")) ? 1u : 0);
    }

    [Fact]
    public void Pairs_of_halves_compare_into_two_predicates()
    {
        ulong[] halves = FloatDefinition.F16.Samples(2), pairs = [.. halves.Select((x, i) => x | (halves[^(i + 1)] << 16))];
        foreach (var (result, shift) in ((string, int)[])[("%p0", 0), ("%p1", 16)])
            PtxOperation.Check("setp.le.f16x2 %p0|%p1, %r0, %r1;", result, pairs, pairs, (a, b) => Holds("le", Order(a >> shift & 0xFFFF, b >> shift & 0xFFFF, "f16")) ? 1u : 0);
    }

    [Fact]
    public void Values_are_selected_by_predicate_or_by_sign()
    {
        ulong[] numbers = PtxOperation.Integers(64);
        PtxOperation.Check("setp.lt.s64 %p0, %rd0, %rd1; selp.b64 %rd3, %rd0, %rd1, %p0;", "%rd3", numbers, numbers, (a, b) => (ulong)Math.Min((long)a, (long)b));
        PtxOperation.Check("setp.lt.s32 %p0, %r0, %r1; selp.b32 %r3, 7, %r1, !%p0;", "%r3", numbers, numbers, (a, b) => (int)a < (int)b ? (uint)b : 7);
        PtxOperation.Check("slct.u64.s32 %rd3, %rd0, %rd1, %r1;", "%rd3", numbers, numbers, (a, b) => (int)b >= 0 ? a : b);
        var format = FloatDefinition.F32;
        // -0 is not negative, NaN counts as if it were.
        ulong[] floats = format.Samples(4);
        PtxOperation.Check("slct.b32.f32 %r3, 1, 2, %f0;", "%r3", floats, a => format.IsNaN(a) || (format.IsNegative(a) && !format.IsZero(a)) ? 2u : 1u);
        PtxOperation.Check("slct.ftz.b32.f32 %r3, 1, 2, %f0;", "%r3", floats, a => format.IsNaN(a) || (format.IsNegative(a) && (a & ~format.Sign) >= 0x80_0000) ? 2u : 1u);
    }

    [Theory]
    [InlineData("f32")]
    [InlineData("f64")]
    public void Properties_of_numbers_are_tested(string type)
    {
        var format = Format(type);
        string r = Register(type);
        ulong hidden = 1UL << (format.Precision - 1);
        void Check(string property, Func<ulong, bool> holds) =>
            PtxOperation.Check($"testp.{property}.{type} %p0, {r}0;", "%p0", format.Samples(4), a => holds(a & ~format.Sign) ? 1u : 0);
        Check("finite", x => x < format.Infinity);
        Check("infinite", x => x == format.Infinity);
        Check("number", x => x <= format.Infinity);
        Check("notanumber", x => x > format.Infinity);
        Check("normal", x => x >= hidden && x < format.Infinity);
        Check("subnormal", x => x > 0 && x < hidden);
        PtxOperation.Check($"copysign.{type} {r}3, {r}0, {r}1;", r + "3", format.Samples(2), format.Samples(2), (sign, value) =>
            (sign & format.Sign) | (value & ~format.Sign));
    }

    [Fact]
    public void Predicates_are_combined()
    {
        ulong[] values = [0, 1, 2, 3];
        const string two = "setp.ge.u32 %p1, %r0, 2; and.b32 %r4, %r0, 1; setp.ne.u32 %p2, %r4, 0; ";
        PtxOperation.Check(two + "and.pred %p0, %p1, %p2;", "%p0", values, a => a == 3 ? 1u : 0);
        PtxOperation.Check(two + "or.pred %p0, %p1, !%p2;", "%p0", values, a => a != 1 ? 1u : 0);
        PtxOperation.Check(two + "xor.pred %p0, %p1, %p2;", "%p0", values, a => a is 1 or 2 ? 1u : 0);
        PtxOperation.Check(two + "not.pred %p0, %p1;", "%p0", values, a => a < 2 ? 1u : 0);
        PtxOperation.Check(two + "mov.pred %p0, %p2;", "%p0", values, a => a & 1);
    }
}
