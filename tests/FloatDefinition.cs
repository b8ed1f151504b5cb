using System.Numerics;

namespace IlgpuPeft.Tests;

/// <summary>A ratio of integers, the denominator positive.</summary>
readonly record struct Rational(BigInteger Top, BigInteger Bottom) : IComparable<Rational>
{
    public static Rational Of(BigInteger value) => new(value, 1);

    public static Rational PowerOfTwo(int exponent) => exponent < 0 ? new(1, BigInteger.One << -exponent) : new(BigInteger.One << exponent, 1);

    public static Rational operator +(Rational a, Rational b) => new((a.Top * b.Bottom) + (b.Top * a.Bottom), a.Bottom * b.Bottom);

    public static Rational operator -(Rational a, Rational b) => new((a.Top * b.Bottom) - (b.Top * a.Bottom), a.Bottom * b.Bottom);

    public static Rational operator *(Rational a, Rational b) => new(a.Top * b.Top, a.Bottom * b.Bottom);

    public static Rational operator /(Rational a, Rational b) => new(a.Top * b.Bottom * b.Top.Sign, a.Bottom * BigInteger.Abs(b.Top));

    public int CompareTo(Rational other) => (Top * other.Bottom).CompareTo(other.Top * Bottom);
}

/// <summary>
/// What IEEE 754 means by a format and by rounding, from the definition: patterns of positive numbers are in the order of their values,
/// so rounding is a search for the two patterns around a real number. Independent of any floating point arithmetic.
/// </summary>
sealed record FloatDefinition(int Bits, int Precision)
{
    public static readonly FloatDefinition F16 = new(16, 11), Bf16 = new(16, 8), F32 = new(32, 24), F64 = new(64, 53), Tf32 = new(19, 11);

    public ulong Sign => 1UL << (Bits - 1);

    public ulong Infinity => ((1UL << (Bits - Precision)) - 1) << (Precision - 1);

    /// <summary>Of halves and single precision, what a GPU returns where there is no number.</summary>
    public ulong NaN => Sign - 1;

    public bool IsNaN(ulong pattern) => (pattern & ~Sign) > Infinity;

    public bool IsFinite(ulong pattern) => (pattern & ~Sign) < Infinity;

    public bool IsNegative(ulong pattern) => (pattern & Sign) != 0;

    public bool IsZero(ulong pattern) => (pattern & ~Sign) == 0;

    /// <summary>The value of a pattern; infinity counts as the power of two that comes after the largest number.</summary>
    public Rational Value(ulong pattern)
    {
        ulong magnitude = pattern & ~Sign;
        int bias = (1 << (Bits - Precision - 1)) - 1, field = (int)(magnitude >> (Precision - 1));
        BigInteger mantissa = magnitude & ((1UL << (Precision - 1)) - 1);
        if (field > 0)
            mantissa += BigInteger.One << (Precision - 1);
        return Rational.Of(IsNegative(pattern) ? -mantissa : mantissa) * Rational.PowerOfTwo(Math.Max(field, 1) - bias - Precision + 1);
    }

    /// <summary>Rounds as `rn`, `rz`, `rm`, `rp` or `rna` say. Zero is positive.</summary>
    public ulong Round(Rational x, string mode) => Round(x.Top.Sign < 0, candidate => candidate.CompareTo(x.Top.Sign < 0 ? new Rational(-x.Top, x.Bottom) : x), mode);

    /// <summary>The rounded square root of a number that is not negative.</summary>
    public ulong RoundRoot(Rational x, string mode) => Round(false, candidate => (candidate * candidate).CompareTo(x), mode);

    /// <param name="negative">Sign of the number.</param>
    /// <param name="compare">Compares a candidate with the number's magnitude.</param>
    /// <param name="mode">Rounding mode.</param>
    ulong Round(bool negative, Func<Rational, int> compare, string mode)
    {
        ulong low = 0, high = Infinity;
        while (high - low > 1)
        {
            ulong middle = (low + high) / 2;
            if (compare(Value(middle)) <= 0)
                low = middle;
            else
                high = middle;
        }
        if (compare(Value(low)) != 0)
        {
            int half = compare((Value(low) + Value(low + 1)) * Rational.PowerOfTwo(-1));
            bool up = mode switch
            {
                "rz" => false,
                "rm" => negative,
                "rp" => !negative,
                "rna" => half <= 0,
                _ => half < 0 || (half == 0 && low % 2 == 1),
            };
            low += up ? 1u : 0;
        }
        return low | (negative ? Sign : 0);
    }

    /// <summary>Edges of the format (zeros, subnormals, one, the largest, infinities, NaN) and random patterns from a fixed seed.</summary>
    public ulong[] Samples(int random)
    {
        ulong one = ((1UL << (Bits - Precision - 1)) - 1) << (Precision - 1), hidden = 1UL << (Precision - 1);
        var source = new Random(Bits + Precision);
        ulong[] positive =
        [
            0, 1, 2, hidden - 1, hidden, hidden + 1, one - 1, one, one + 1, one + (hidden / 2), one + hidden, one + hidden + (hidden / 4),
            Infinity - 1, Infinity,
        ];
        // Random numbers near one another, so that sums and products neither vanish nor overflow.
        ulong[] near = [.. Enumerable.Range(0, random).Select(_ => one - (3 * hidden) + ((ulong)source.NextInt64() % (6 * hidden)) | (source.Next(2) == 0 ? Sign : 0))];
        return [.. positive, .. positive.Select(pattern => pattern | Sign), NaN, .. near];
    }
}
