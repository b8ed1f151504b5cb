namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// Floating point functions. The approximate ones of PTX (`ex2.approx`, ...) are computed to full precision and rounded once, so
/// they are a little better than a GPU's, whose errors NVIDIA bounds but does not specify bit by bit.
/// </summary>
static class Floats
{
    /// <summary>What a GPU's single precision gives where there is no number: positive, all mantissa bits set.</summary>
    public static readonly float NaN = BitConverter.UInt32BitsToSingle(0x7FFF_FFFF);

    public static float Canonical(float x) => float.IsNaN(x) ? NaN : x;

    /// <summary>A subnormal number becomes a zero of its sign (`.ftz`).</summary>
    public static float Flush(float x) => float.IsSubnormal(x) ? MathF.CopySign(0, x) : x;

    public static float ReciprocalSquareRoot(float x) => (float)(1 / Math.Sqrt(x));

    public static double ReciprocalSquareRoot(double x) => 1 / Math.Sqrt(x);

    public static float Exp2(float x) => (float)Math.Pow(2, x);

    public static float Log2(float x) => (float)Math.Log2(x);

    public static float Sin(float x) => (float)Math.Sin(x);

    public static float Cos(float x) => (float)Math.Cos(x);

    public static float Tanh(float x) => (float)Math.Tanh(x);

    /// <summary>`div.approx`: a product with the reciprocal, which is zero beyond 2^126.</summary>
    public static float DivideApproximately(float a, float b) => Canonical(MathF.Abs(b) > 8.507059e37f ? a * MathF.CopySign(0, b) : a / b);

    /// <summary>A double without its low 32 bits.</summary>
    public static double HighWord(double x) =>
        BitConverter.UInt64BitsToDouble(BitConverter.DoubleToUInt64Bits(x) & 0xFFFF_FFFF_0000_0000);

    /// <summary>Bits of the nearest bfloat16, ties to even; a NaN stays one.</summary>
    public static ushort ToBf16(float x)
    {
        if (float.IsNaN(x))
            return 0x7FFF;
        uint bits = BitConverter.SingleToUInt32Bits(x);
        return (ushort)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }

    /// <summary>Bits of the nearest float with 10 bits behind the point, ties away from zero: `cvt.rna.tf32.f32`.</summary>
    public static uint ToTf32(uint bits) => float.IsNaN(BitConverter.UInt32BitsToSingle(bits)) ? 0x7FFF_FFFF : (bits + 0x1000) & 0xFFFF_E000;

    public static float FromBf16(ushort bits) => BitConverter.UInt32BitsToSingle((uint)bits << 16);
}
