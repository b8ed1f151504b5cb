// DynamicMap: the 8-bit "dynamic tree" data types, which spend their codes on seven decades of magnitude.
//
// Maths      absmax = max |x|;  code[i] = index of the map value nearest to x[i] · (1 / absmax);  x'[i] = map[code[i]] · absmax
//            map: for decade d = 0..6, the midpoints of n + 1 even points over [0.1, 1], times 10^(d−6); 0; 1. Sorted.
//            signed: n = 2^d, and their negatives. Unsigned: n = 2^(d+1)
// Shapes     x [n] f32 → codes [n] u8, absmax f32: one block
// Numerics   values and midpoints in f32, in PyTorch's order of operations, so that the signed map is the one in bitsandbytes' files; a tie takes the lower code
// Source     Dettmers 2016, arXiv:1511.04561; Dettmers et al. 2022, arXiv:2110.02861 §2.1; the maps as bitsandbytes stores them in files

using System.Numerics.Tensors;

namespace IlgpuPeft.Kernels;

/// <summary>The 8-bit dynamic data types of bitsandbytes: double quantisation stores block scales in the signed one, 8-bit optimizers their moments in both.</summary>
static class DynamicMap
{
    /// <summary>The code of zero in the signed type.</summary>
    public const int SignedZero = 127;

    const int Decades = 7;

    static readonly float[] PositiveValues = Positive(d => 1 << d), UnsignedValues = [0, .. Positive(d => 2 << d), 1];
    static readonly float[] SignedValues = [.. PositiveValues.Reverse().Select(value => -value), 0, .. PositiveValues, 1];
    static readonly float[] SignedMidpoints = Midpoints(SignedValues), UnsignedMidpoints = Midpoints(UnsignedValues);

    /// <summary>The 256 values, ascending; there is 1 but no −1.</summary>
    public static ReadOnlySpan<float> Signed => SignedValues;

    /// <summary>The 256 values, ascending, from code 0 for zero.</summary>
    public static ReadOnlySpan<float> Unsigned => UnsignedValues;

    /// <summary>Quantises one block [n] to <paramref name="codes"/> [n] of the signed type and returns its scale.</summary>
    public static float QuantizeBlock(ReadOnlySpan<float> x, Span<byte> codes)
    {
        float absMax = MathF.Abs(TensorPrimitives.MaxMagnitude(x));
        float inverse = Inverse(absMax);
        for (int i = 0; i < x.Length; i++)
        {
            codes[i] = NearestSigned(x[i] * inverse);
        }

        return absMax;
    }

    /// <summary>What a block's elements are multiplied with before they are looked up: finite for a block of zeros.</summary>
    public static float Inverse(float absMax) => 1 / MathF.Max(absMax, 1e-38f);

    /// <summary>The code of the signed value nearest to <paramref name="x"/>.</summary>
    public static byte NearestSigned(float x) => Nearest(x, SignedMidpoints);

    /// <summary>The code of the unsigned value nearest to <paramref name="x"/>.</summary>
    public static byte NearestUnsigned(float x) => Nearest(x, UnsignedMidpoints);

    /// <summary>How many midpoints between neighbouring values lie below <paramref name="x"/>, by bisection.</summary>
    static byte Nearest(float x, float[] midpoints)
    {
        int code = 0;
        for (int step = 128; step > 0; step /= 2)
        {
            code += x > midpoints[code + step - 1] ? step : 0;
        }

        return (byte)code;
    }

    static float[] Midpoints(float[] values) => [.. values.Zip(values.Skip(1), (low, high) => (low + high) / 2)];

    /// <summary>The values between 0 and 1, a decade's after another's.</summary>
    static float[] Positive(Func<int, int> count) => [.. Enumerable.Range(0, Decades).SelectMany(d => Midpoints(Linspace(count(d) + 1)).Select(x => x * (float)Math.Pow(10, d - Decades + 1)))];

    /// <summary>
    /// That many even points from 0.1 to 1, with the last digits of the PyTorch that made bitsandbytes' files: its loop takes sixteen points at a time in vectors of eight, which
    /// start at a point of their own and count up in steps that are rounded; what is left over is computed point by point, from the nearer end.
    /// </summary>
    static float[] Linspace(int count)
    {
        const int Lanes = 8;
        float step = (1 - 0.1f) / (count - 1);
        return [.. Enumerable.Range(0, count).Select(i => i < count / (2 * Lanes) * (2 * Lanes) ? Point(i / Lanes * Lanes) + step * (i % Lanes) : Point(i))];

        float Point(int i) => i < count / 2 ? MathF.FusedMultiplyAdd(step, i, 0.1f) : MathF.FusedMultiplyAdd(-step, count - 1 - i, 1);
    }
}
