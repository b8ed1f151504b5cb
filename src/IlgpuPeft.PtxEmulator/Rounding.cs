using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>How a result that a format does not hold is rounded: `.rn` (ties to even), `.rz`, `.rm`, `.rp`, `.rna` (ties away from zero).</summary>
enum Rounding { Nearest, Zero, Down, Up, Away }

/// <summary>A binary floating point format: its precision with the hidden bit, the exponent of its smallest subnormal, its size, and the bits of infinity and NaN.</summary>
sealed record FloatFormat(int Precision, int MinExponent, int Size, ulong Infinity, ulong NaN)
{
    public static readonly FloatFormat F16 = new(11, -24, 2, 0x7C00, 0x7FFF);
    public static readonly FloatFormat Bf16 = new(8, -133, 2, 0x7F80, 0x7FFF);
    public static readonly FloatFormat F32 = new(24, -149, 4, 0x7F80_0000, 0x7FFF_FFFF);
    public static readonly FloatFormat F64 = new(53, -1074, 8, 0x7FF0_0000_0000_0000, 0xFFF8_0000_0000_0000);

    public ulong Sign => 1UL << ((8 * Size) - 1);

    /// <summary>Bits of 1.</summary>
    public ulong One => Infinity / 2 >> (Precision - 1) << (Precision - 1);

    public bool IsNaN(ulong bits) => (bits & ~Sign) > Infinity;

    public bool IsNegative(ulong bits) => (bits & Sign) != 0;

    /// <summary>A subnormal number becomes a zero of its sign (`.ftz`).</summary>
    public ulong Flush(ulong bits) => (bits & ~Sign) < 1UL << (Precision - 1) ? bits & Sign : bits;

    /// <summary>`.sat`: clamps to [0, 1]; no number becomes 0.</summary>
    public ulong Saturate(ulong bits) => IsNaN(bits) || IsNegative(bits) ? 0 : Math.Min(bits, One);

    /// <summary>`.relu`: negative numbers become 0, no number becomes the canonical NaN.</summary>
    public ulong Rectify(ulong bits) => IsNaN(bits) ? NaN : IsNegative(bits) ? 0 : bits;

    /// <summary>The value of a pattern; double holds all values of all formats.</summary>
    public double ToDouble(ulong bits) => Size switch
    {
        8 => BitConverter.UInt64BitsToDouble(bits),
        4 => BitConverter.UInt32BitsToSingle((uint)bits),
        _ => Precision == Bf16.Precision ? Floats.FromBf16((ushort)bits) : (double)BitConverter.UInt16BitsToHalf((ushort)bits),
    };

    /// <summary>The pattern of a value, rounded.</summary>
    public ulong FromDouble(double value, Rounding rounding)
    {
        if (double.IsNaN(value))
            return Size == 8 ? BitConverter.DoubleToUInt64Bits(value) : NaN;
        ulong sign = double.IsNegative(value) ? Sign : 0;
        if (double.IsInfinity(value) || value == 0)
            return sign | (value == 0 ? 0 : Infinity);
        if (rounding != Rounding.Nearest)
            return ExactNumber.Of(value).Round(this, rounding);
        return Size switch
        {
            8 => BitConverter.DoubleToUInt64Bits(value),
            4 => BitConverter.SingleToUInt32Bits((float)value),
            _ => Precision == F16.Precision
                ? BitConverter.HalfToUInt16Bits((Half)value)
                : ExactNumber.Of(value).Round(this, rounding),
        };
    }
}

/// <summary>
/// Mantissa · 2^Exponent, exactly. Directed rounding goes through it: C# rounds to nearest only. Quotients and roots, which no such
/// number equals, end in a bit that says whether anything was cut off; they have enough bits that it decides every rounding.
/// </summary>
readonly record struct ExactNumber(BigInteger Mantissa, int Exponent)
{
    /// <summary>Bits that a quotient or root has at least: twice what any format holds, and some.</summary>
    const int CutAt = 128;

    /// <summary>A finite number.</summary>
    public static ExactNumber Of(double value)
    {
        ulong bits = BitConverter.DoubleToUInt64Bits(value);
        int exponent = (int)(bits >> 52 & 0x7FF);
        long mantissa = (long)(bits & 0xF_FFFF_FFFF_FFFF) | (exponent == 0 ? 0 : 1L << 52);
        return new ExactNumber(double.IsNegative(value) ? -mantissa : mantissa, Math.Max(exponent, 1) - 1075);
    }

    public static ExactNumber operator +(ExactNumber a, ExactNumber b)
    {
        int exponent = Math.Min(a.Exponent, b.Exponent);
        return new ExactNumber((a.Mantissa << (a.Exponent - exponent)) + (b.Mantissa << (b.Exponent - exponent)), exponent);
    }

    public static ExactNumber operator *(ExactNumber a, ExactNumber b) => new(a.Mantissa * b.Mantissa, a.Exponent + b.Exponent);

    /// <summary>The divisor is not zero.</summary>
    public static ExactNumber operator /(ExactNumber a, ExactNumber b)
    {
        var magnitude = BigInteger.DivRem(BigInteger.Abs(a.Mantissa) << CutAt, BigInteger.Abs(b.Mantissa), out var rest);
        int sign = a.Mantissa.Sign * b.Mantissa.Sign;
        return new ExactNumber(sign * ((magnitude << 1) + (rest.IsZero ? 0 : 1)), a.Exponent - b.Exponent - CutAt - 1);
    }

    /// <summary>Of a number that is not negative.</summary>
    public ExactNumber SquareRoot()
    {
        int shift = (2 * CutAt) + (Exponent & 1);
        var radicand = Mantissa << shift;
        // Newton's method from above falls until it has the floor of the root.
        var root = BigInteger.One << (int)((radicand.GetBitLength() / 2) + 1);
        while (true)
        {
            var next = (root + (radicand / root)) >> 1;
            if (next >= root)
                break;
            root = next;
        }
        return new ExactNumber((root << 1) + (root * root == radicand ? 0 : 1), ((Exponent - shift) / 2) - 1);
    }

    /// <summary>The pattern of the rounded number; zero is positive.</summary>
    public ulong Round(FloatFormat format, Rounding rounding)
    {
        bool negative = Mantissa.Sign < 0;
        var magnitude = BigInteger.Abs(Mantissa);
        if (magnitude.IsZero)
            return 0;
        int drop = Math.Max((int)magnitude.GetBitLength() - format.Precision, format.MinExponent - Exponent);
        var kept = drop > 0 ? magnitude >> drop : magnitude << -drop;
        if (drop > 0)
        {
            var rest = magnitude - (kept << drop);
            int half = rest.CompareTo(BigInteger.One << (drop - 1));
            bool up = rounding switch
            {
                Rounding.Nearest => half > 0 || (half == 0 && !kept.IsEven),
                Rounding.Away => half >= 0,
                Rounding.Down => negative && !rest.IsZero,
                Rounding.Up => !negative && !rest.IsZero,
                _ => false,
            };
            kept += up ? 1 : 0;
        }
        // The hidden bit, and a carry out of the mantissa, add themselves to the exponent field.
        var bits = ((BigInteger)(Exponent + drop - format.MinExponent) << (format.Precision - 1)) + kept;
        if (bits >= format.Infinity)
        {
            bool stays = rounding == Rounding.Zero || (rounding == Rounding.Down && !negative) || (rounding == Rounding.Up && negative);
            bits = format.Infinity - (stays ? 1u : 0u);
        }
        return (ulong)bits | (negative ? format.Sign : 0);
    }
}
