using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Floating point arithmetic against exact rational numbers: rounding modes, signed zeros, subnormals, saturation, NaN.</summary>
public sealed class PtxEmulatorFloatTests
{
    /// <summary>An operation on real numbers; <see cref="Special"/> says what IEEE 754 makes of infinities.</summary>
    sealed record Definition(Func<Rational, Rational, Rational, Rational> Real, Func<double, double, double, double> Special)
    {
        /// <summary>The sign of a result that is exactly zero: what the signs of the two parts of a sum, or the factors, make it.</summary>
        public required Func<bool, bool, bool, bool, bool> ZeroIsNegative { get; init; }
    }

    static readonly Dictionary<string, Definition> Definitions = new()
    {
        ["add"] = new((a, b, _) => a + b, (a, b, _) => a + b) { ZeroIsNegative = (a, b, _, down) => a == b ? a : down },
        ["sub"] = new((a, b, _) => a - b, (a, b, _) => a - b) { ZeroIsNegative = (a, b, _, down) => a == !b ? a : down },
        ["mul"] = new((a, b, _) => a * b, (a, b, _) => a * b) { ZeroIsNegative = (a, b, _, _) => a != b },
        ["fma"] = new((a, b, c) => (a * b) + c, Math.FusedMultiplyAdd) { ZeroIsNegative = (a, b, c, down) => a != b == c ? c : down },
        ["div"] = new((a, b, _) => a / b, (a, b, _) => a / b) { ZeroIsNegative = (a, b, _, _) => a != b },
    };

    static ulong Expected(FloatDefinition format, string operation, string mode, ulong a, ulong b, ulong c)
    {
        var definition = Definitions[operation];
        ulong[] all = operation == "fma" ? [a, b, c] : [a, b];
        if (Array.Exists(all, format.IsNaN))
            return format.NaN;
        if (!Array.TrueForAll(all, format.IsFinite) || (operation == "div" && format.IsZero(b)))
        {
            // Every finite number but zero acts alike beside an infinity.
            double Class(ulong x) => (format.IsFinite(x) ? format.IsZero(x) ? 0 : 1 : double.PositiveInfinity) * (format.IsNegative(x) ? -1 : 1);
            double special = definition.Special(Class(a), Class(b), Class(c));
            if (double.IsNaN(special))
                return format.NaN;
            return (special == 0 ? 0 : format.Infinity) | (double.IsNegative(special) ? format.Sign : 0);
        }
        var exact = definition.Real(format.Value(a), format.Value(b), format.Value(c));
        if (exact.Top.IsZero)
            return definition.ZeroIsNegative(format.IsNegative(a), format.IsNegative(b), format.IsNegative(c), mode == "rm") ? format.Sign : 0;
        return format.Round(exact, mode);
    }

    static FloatDefinition Format(string type) => type switch
    {
        "f16" => FloatDefinition.F16,
        "bf16" => FloatDefinition.Bf16,
        "f32" => FloatDefinition.F32,
        _ => FloatDefinition.F64,
    };

    static string Registers(string type) => type switch { "f32" => "%f", "f64" => "%fd", _ => "%rs" };

    [Theory]
    [InlineData("add.f32", "rn")]
    [InlineData("add.rn.f32", "rn")]
    [InlineData("add.rz.f32", "rz")]
    [InlineData("add.rm.f32", "rm")]
    [InlineData("add.rp.f32", "rp")]
    [InlineData("sub.rm.f32", "rm")]
    [InlineData("sub.f64", "rn")]
    [InlineData("mul.f32", "rn")]
    [InlineData("mul.rz.f32", "rz")]
    [InlineData("mul.rm.f32", "rm")]
    [InlineData("mul.rp.f32", "rp")]
    [InlineData("div.rn.f32", "rn")]
    [InlineData("div.rz.f32", "rz")]
    [InlineData("div.rm.f32", "rm")]
    [InlineData("div.rp.f32", "rp")]
    [InlineData("div.full.f32", "rn")]
    [InlineData("add.rz.f64", "rz")]
    [InlineData("add.rm.f64", "rm")]
    [InlineData("mul.rp.f64", "rp")]
    [InlineData("div.rm.f64", "rm")]
    [InlineData("div.rn.f64", "rn")]
    [InlineData("add.f16", "rn")]
    [InlineData("sub.rn.f16", "rn")]
    [InlineData("mul.f16", "rn")]
    public void Two_operands_are_rounded_once(string opcode, string mode)
    {
        string[] parts = opcode.Split('.');
        var format = Format(parts[^1]);
        string r = Registers(parts[^1]);
        ulong[] values = format.Samples(6);
        ulong Normal(ulong bits) => format.IsNaN(bits) && format.Bits == 64 ? format.NaN : bits;
        // The sign of a NaN of double precision is not specified.
        string clean = format.Bits == 64 ? "testp.notanumber.f64 %p0, %fd3; @%p0 mov.b64 %fd3, 0x7fffffffffffffff;" : "";
        PtxOperation.Check($"{opcode} {r}3, {r}0, {r}1; {clean}", r + "3", values, values, (a, b) => Normal(Expected(format, parts[0], mode, a, b, 0)));
    }

    [Theory]
    [InlineData("fma.rn.f32", "rn")]
    [InlineData("fma.rz.f32", "rz")]
    [InlineData("fma.rm.f32", "rm")]
    [InlineData("fma.rp.f32", "rp")]
    [InlineData("mad.rn.f32", "rn")]
    [InlineData("fma.rn.f64", "rn")]
    [InlineData("fma.rp.f64", "rp")]
    [InlineData("fma.rz.f64", "rz")]
    [InlineData("fma.rn.f16", "rn")]
    [InlineData("fma.rn.bf16", "rn")]
    public void Fused_multiply_add_is_rounded_once(string opcode, string mode)
    {
        string[] parts = opcode.Split('.');
        var format = Format(parts[^1]);
        string r = Registers(parts[^1]), clean = format.Bits == 64 ? "testp.notanumber.f64 %p0, %fd3; @%p0 mov.b64 %fd3, 0x7fffffffffffffff;" : "";
        var (a, b, c) = PtxOperation.Triples(format.Samples(12));
        PtxOperation.Check($"{opcode} {r}3, {r}0, {r}1, {r}2; {clean}", r + "3", a, b, c, (x, y, z) => Expected(format, "fma", mode, x, y, z));
    }

    [Theory]
    [InlineData("sqrt.rn.f32", "rn")]
    [InlineData("sqrt.rz.f32", "rz")]
    [InlineData("sqrt.rm.f32", "rm")]
    [InlineData("sqrt.rp.f32", "rp")]
    [InlineData("sqrt.rn.f64", "rn")]
    [InlineData("sqrt.rz.f64", "rz")]
    [InlineData("sqrt.rp.f64", "rp")]
    [InlineData("rcp.rn.f32", "rn")]
    [InlineData("rcp.rz.f32", "rz")]
    [InlineData("rcp.rm.f32", "rm")]
    [InlineData("rcp.rp.f32", "rp")]
    [InlineData("rcp.rn.f64", "rn")]
    [InlineData("rcp.rm.f64", "rm")]
    public void Roots_and_reciprocals_are_rounded_once(string opcode, string mode)
    {
        string[] parts = opcode.Split('.');
        var format = Format(parts[^1]);
        string r = Registers(parts[^1]), clean = format.Bits == 64 ? "testp.notanumber.f64 %p0, %fd3; @%p0 mov.b64 %fd3, 0x7fffffffffffffff;" : "";
        ulong one = format.Round(Rational.Of(1), "rn");
        PtxOperation.Check($"{opcode} {r}3, {r}0; {clean}", r + "3", format.Samples(60), a =>
        {
            if (parts[0] == "rcp")
                return Expected(format, "div", mode, one, a, 0);
            if (format.IsNaN(a) || (format.IsNegative(a) && !format.IsZero(a)))
                return format.NaN;
            return format.IsZero(a) || a == format.Infinity ? a : format.RoundRoot(format.Value(a), mode);
        });
    }

    [Theory]
    [InlineData("add.ftz.f32", "rn")]
    [InlineData("sub.rz.ftz.f32", "rz")]
    [InlineData("mul.ftz.f32", "rn")]
    [InlineData("mul.rp.ftz.f32", "rp")]
    [InlineData("div.rn.ftz.f32", "rn")]
    [InlineData("div.rz.ftz.f32", "rz")]
    [InlineData("add.ftz.f16", "rn")]
    public void Ftz_takes_and_gives_zeros_for_subnormals(string opcode, string mode)
    {
        string[] parts = opcode.Split('.');
        var format = Format(parts[^1]);
        string r = Registers(parts[^1]);
        ulong Flush(ulong x) => (x & ~format.Sign) < 1UL << (format.Precision - 1) ? x & format.Sign : x;
        ulong[] values = format.Samples(4);
        PtxOperation.Check($"{opcode} {r}3, {r}0, {r}1;", r + "3", values, values, (a, b) =>
            Flush(Expected(format, parts[0], mode, Flush(a), Flush(b), 0)));
    }

    [Theory]
    [InlineData("add.sat.f32", "rn")]
    [InlineData("mul.rz.sat.f32", "rz")]
    [InlineData("sub.ftz.sat.f32", "rn")]
    [InlineData("mul.sat.f16", "rn")]
    public void Sat_clamps_to_one_and_makes_NaN_zero(string opcode, string mode)
    {
        string[] parts = opcode.Split('.');
        var format = Format(parts[^1]);
        string r = Registers(parts[^1]);
        ulong Flush(ulong x) => parts.Contains("ftz") && (x & ~format.Sign) < 1UL << (format.Precision - 1) ? x & format.Sign : x;
        ulong one = format.Round(Rational.Of(1), "rn");
        ulong[] values = format.Samples(4);
        PtxOperation.Check($"{opcode} {r}3, {r}0, {r}1;", r + "3", values, values, (a, b) =>
        {
            ulong result = Flush(Expected(format, parts[0], mode, Flush(a), Flush(b), 0));
            return format.IsNaN(result) || format.IsNegative(result) ? 0 : Math.Min(result, one);
        });
    }

    [Theory]
    [InlineData("min.f32", "f32", false, false)]
    [InlineData("max.f32", "f32", true, false)]
    [InlineData("min.NaN.f32", "f32", false, true)]
    [InlineData("max.NaN.f32", "f32", true, true)]
    [InlineData("min.f16", "f16", false, false)]
    [InlineData("max.NaN.f16", "f16", true, true)]
    [InlineData("min.bf16", "bf16", false, false)]
    [InlineData("max.bf16", "bf16", true, false)]
    public void Minimum_and_maximum_order_zeros_and_ignore_or_propagate_NaN(string opcode, string type, bool maximum, bool propagate)
    {
        var format = Format(type);
        string r = Registers(type);
        ulong[] values = format.Samples(4);
        PtxOperation.Check($"{opcode} {r}3, {r}0, {r}1;", r + "3", values, values, (a, b) =>
        {
            if (format.IsNaN(a) || format.IsNaN(b))
                return propagate || (format.IsNaN(a) && format.IsNaN(b)) ? format.NaN : format.IsNaN(a) ? b : a;
            // -0 is below +0, so patterns as sign and magnitude are in order.
            long Order(ulong x) => format.IsNegative(x) ? -1 - (long)(x & ~format.Sign) : (long)x;
            return Order(a) < Order(b) != maximum ? a : b;
        });
    }

    [Theory]
    [InlineData("neg.f32", "f32")]
    [InlineData("neg.f16", "f16")]
    [InlineData("neg.bf16", "bf16")]
    [InlineData("abs.f32", "f32")]
    [InlineData("abs.f16", "f16")]
    [InlineData("abs.bf16", "bf16")]
    [InlineData("neg.f64", "f64")]
    [InlineData("abs.f64", "f64")]
    [InlineData("abs.ftz.f32", "f32")]
    public void Signs_are_turned_and_dropped(string opcode, string type)
    {
        var format = Format(type);
        string r = Registers(type);
        PtxOperation.Check($"{opcode} {r}3, {r}0;", r + "3", [.. format.Samples(8).Where(x => !format.IsNaN(x))], a =>
        {
            ulong result = opcode[0] == 'n' ? a ^ format.Sign : a & ~format.Sign;
            return opcode.Contains("ftz") && result < 1UL << (format.Precision - 1) ? 0 : result;
        });
    }
}
