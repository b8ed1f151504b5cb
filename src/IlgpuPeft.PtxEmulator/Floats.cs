namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// Floating point functions. The approximate ones of PTX (`ex2.approx`, ...) are computed to full precision and rounded once, so
/// they are a little better than a GPU's, whose errors NVIDIA bounds but does not specify bit by bit.
/// </summary>
static class Floats
{
    /// <summary>A subnormal number becomes a zero of its sign (`.ftz`).</summary>
    public static float Flush(float x) => float.IsSubnormal(x) ? MathF.CopySign(0, x) : x;

    public static float ReciprocalSquareRoot(float x) => (float)(1 / Math.Sqrt(x));

    public static double ReciprocalSquareRoot(double x) => 1 / Math.Sqrt(x);

    public static float Exp2(float x) => (float)Math.Pow(2, x);

    public static float Log2(float x) => (float)Math.Log2(x);

    public static float Sin(float x) => (float)Math.Sin(x);

    public static float Cos(float x) => (float)Math.Cos(x);

    public static float Tanh(float x) => (float)Math.Tanh(x);

    /// <summary>Fused in double precision, which holds the product of two halves exactly.</summary>
    public static Half MultiplyAdd(Half a, Half b, Half c) => (Half)Math.FusedMultiplyAdd((double)a, (double)b, (double)c);

    /// <summary>Bits of the nearest bfloat16, ties to even; a NaN stays one.</summary>
    public static ushort ToBf16(float x)
    {
        if (float.IsNaN(x))
            return 0x7FFF;
        uint bits = BitConverter.SingleToUInt32Bits(x);
        return (ushort)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }

    public static float FromBf16(ushort bits) => BitConverter.UInt32BitsToSingle((uint)bits << 16);
}
