// DynamicMap: the signed 8-bit "dynamic tree" data type, which spends its codes on seven decades of magnitude.
//
// Maths      absmax = max |x|;  code[i] = index of the map value nearest to x[i] · (1 / absmax);  x'[i] = map[code[i]] · absmax
//            map: for decade d = 0..6, the midpoints of 2^d + 1 even steps over [0.1, 1], times 10^(d−6), and their negatives; 0; 1. Sorted.
// Shapes     x [n] f32 → codes [n] u8, absmax f32: one block
// Numerics   values and midpoints in f32; a tie takes the lower code
// Source     Dettmers 2016, arXiv:1511.04561; Dettmers et al. 2022, arXiv:2110.02861 §2.1; the map as bitsandbytes stores it in files

using System.Numerics.Tensors;

namespace IlgpuPeft.Kernels;

/// <summary>The signed 8-bit dynamic data type of bitsandbytes, in which double quantisation stores block scales.</summary>
static class DynamicMap
{
    static readonly float[] Values = Create();

    /// <summary>The 256 values, ascending; zero is code 127, and there is 1 but no −1.</summary>
    public static ReadOnlySpan<float> Signed => Values;

    /// <summary>Quantises one block [n] to <paramref name="codes"/> [n] and returns its scale.</summary>
    public static float QuantizeBlock(ReadOnlySpan<float> x, Span<byte> codes)
    {
        float absMax = MathF.Abs(TensorPrimitives.MaxMagnitude(x));
        float inverse = 1 / MathF.Max(absMax, 1e-38f);
        for (int i = 0; i < x.Length; i++)
        {
            codes[i] = Nearest(x[i] * inverse);
        }

        return absMax;
    }

    /// <summary>How many midpoints between neighbouring values lie below <paramref name="x"/>, by bisection.</summary>
    static byte Nearest(float x)
    {
        int code = 0;
        for (int step = 128; step > 0; step /= 2)
        {
            int above = code + step;
            if (x > (Values[above - 1] + Values[above]) / 2)
            {
                code = above;
            }
        }

        return (byte)code;
    }

    static float[] Create()
    {
        var values = new List<float> { 0, 1 };
        for (int decade = 0; decade < 7; decade++)
        {
            int steps = 1 << decade;
            float scale = (float)Math.Pow(10, decade - 6);
            for (int i = 0; i < steps; i++)
            {
                float value = scale * ((Point(i, steps) + Point(i + 1, steps)) / 2);
                values.Add(value);
                values.Add(-value);
            }
        }

        values.Sort();
        return [.. values];
    }

    /// <summary>Point <paramref name="i"/> of the even steps from 0.1 to 1, counted from the nearer end so that both ends are exact.</summary>
    static float Point(int i, int steps)
    {
        float step = (1f - 0.1f) / steps;
        return i < (steps + 1) / 2 ? 0.1f + step * i : 1f - step * (steps - i);
    }
}
