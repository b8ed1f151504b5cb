namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// Arithmetic on bit patterns of any format with any rounding. Operands are widened to double, which is exact; to nearest, C# computes
/// where it rounds once, everything else is computed exactly and then rounded.
/// </summary>
static class FloatArithmetic
{
    public static ulong Add(FloatFormat format, Rounding rounding, ulong a, ulong b)
    {
        double x = format.ToDouble(a), y = format.ToDouble(b);
        if (rounding == Rounding.Nearest && format.Size == 4)
            return format.FromDouble((float)x + (float)y, rounding);
        // Of two halves double holds the sum.
        if ((rounding == Rounding.Nearest && format != FloatFormat.Bf16) || !double.IsFinite(x) || !double.IsFinite(y))
            return format.FromDouble(x + y, Rounding.Nearest);
        return Sum(format, rounding, ExactNumber.Of(x) + ExactNumber.Of(y), double.IsNegative(x), double.IsNegative(y));
    }

    public static ulong Subtract(FloatFormat format, Rounding rounding, ulong a, ulong b) =>
        Add(format, rounding, a, format.IsNaN(b) ? b : b ^ format.Sign);

    public static ulong Multiply(FloatFormat format, Rounding rounding, ulong a, ulong b)
    {
        double x = format.ToDouble(a), y = format.ToDouble(b), product = x * y;
        // Double holds products of all formats but itself.
        if (format.Size < 8 || rounding == Rounding.Nearest || !double.IsFinite(x) || !double.IsFinite(y) || x == 0 || y == 0)
            return format.FromDouble(product, rounding);
        return (ExactNumber.Of(x) * ExactNumber.Of(y)).Round(format, rounding);
    }

    public static ulong MultiplyAdd(FloatFormat format, Rounding rounding, ulong a, ulong b, ulong c)
    {
        double x = format.ToDouble(a), y = format.ToDouble(b), z = format.ToDouble(c);
        if (rounding == Rounding.Nearest && format.Size == 4)
            return format.FromDouble(MathF.FusedMultiplyAdd((float)x, (float)y, (float)z), rounding);
        // Of halves, what double cuts off is too small to decide a tie.
        if ((rounding == Rounding.Nearest && format != FloatFormat.Bf16) || !double.IsFinite(x) || !double.IsFinite(y) || !double.IsFinite(z))
            return format.FromDouble(Math.FusedMultiplyAdd(x, y, z), Rounding.Nearest);
        var exact = (ExactNumber.Of(x) * ExactNumber.Of(y)) + ExactNumber.Of(z);
        return Sum(format, rounding, exact, double.IsNegative(x) != double.IsNegative(y), double.IsNegative(z));
    }

    public static ulong Divide(FloatFormat format, Rounding rounding, ulong a, ulong b)
    {
        double x = format.ToDouble(a), y = format.ToDouble(b);
        if (rounding == Rounding.Nearest && format.Size == 4)
            return format.FromDouble((float)x / (float)y, rounding);
        if (rounding == Rounding.Nearest || !double.IsFinite(x) || !double.IsFinite(y) || x == 0 || y == 0)
            return format.FromDouble(x / y, Rounding.Nearest);
        return (ExactNumber.Of(x) / ExactNumber.Of(y)).Round(format, rounding);
    }

    public static ulong SquareRoot(FloatFormat format, Rounding rounding, ulong a)
    {
        double x = format.ToDouble(a);
        if (rounding == Rounding.Nearest && format.Size == 4)
            return format.FromDouble(MathF.Sqrt((float)x), rounding);
        if (rounding == Rounding.Nearest || !double.IsFinite(x) || x <= 0)
            return format.FromDouble(Math.Sqrt(x), Rounding.Nearest);
        return ExactNumber.Of(x).SquareRoot().Round(format, rounding);
    }

    /// <summary>The smaller, -0 below +0. Of a number and a NaN the number, or with <paramref name="propagate"/> (`.NaN`) the canonical NaN.</summary>
    public static ulong Minimum(FloatFormat format, bool propagate, ulong a, ulong b)
    {
        if (format.IsNaN(a) || format.IsNaN(b))
            return propagate || (format.IsNaN(a) && format.IsNaN(b)) ? format.NaN : format.IsNaN(a) ? b : a;
        double x = format.ToDouble(a), y = format.ToDouble(b);
        return x < y || (x == y && format.IsNegative(a)) ? a : b;
    }

    public static ulong Maximum(FloatFormat format, bool propagate, ulong a, ulong b)
    {
        if (format.IsNaN(a) || format.IsNaN(b))
            return Minimum(format, propagate, a, b);
        return Minimum(format, propagate, a ^ format.Sign, b ^ format.Sign) ^ format.Sign;
    }

    /// <summary>Rounds a sum. One that is exactly zero has the sign of both its parts, or if they differ is -0 only when rounding down.</summary>
    static ulong Sum(FloatFormat format, Rounding rounding, ExactNumber sum, bool firstNegative, bool secondNegative)
    {
        if (!sum.Mantissa.IsZero)
            return sum.Round(format, rounding);
        bool negative = firstNegative == secondNegative ? firstNegative : rounding == Rounding.Down;
        return negative ? format.Sign : 0;
    }
}
