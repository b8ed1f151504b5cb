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
    static readonly float[] Values = [.. Positive.ToArray().Reverse().Select(value => -value), 0, .. Positive, 1];
    static readonly float[] Midpoints = [.. Values.Zip(Values.Skip(1), (low, high) => (low + high) / 2)];

    /// <summary>The 256 values, ascending; zero is code 127, and there is 1 but no −1.</summary>
    public static ReadOnlySpan<float> Signed => Values;

    /// <summary>
    /// The values between 0 and 1, a decade's after another's: 1, 2, 4 ... 64 of them. Stored, not computed, because the last digit of the
    /// files' values comes from the order of operations in PyTorch's vectorised <c>linspace</c>.
    /// </summary>
    static ReadOnlySpan<float> Positive =>
    [
        5.5000004e-7f,
        3.2500002e-6f, 7.75e-6f,
        2.1249998e-5f, 4.375e-5f, 6.625e-5f, 8.875e-5f,
        0.00015625001f, 0.00026875004f, 0.00038125002f, 0.00049375003f, 0.0006062501f, 0.00071875006f, 0.00083125f, 0.0009437501f,
        0.0012812499f, 0.00184375f, 0.00240625f, 0.00296875f, 0.0035312497f, 0.00409375f, 0.0046562497f, 0.0052187503f,
        0.00578125f, 0.00634375f, 0.00690625f, 0.00746875f, 0.00803125f, 0.00859375f, 0.009156249f, 0.00971875f,
        0.01140625f, 0.01421875f, 0.01703125f, 0.01984375f, 0.02265625f, 0.02546875f, 0.028281247f, 0.03109375f,
        0.033906247f, 0.036718752f, 0.03953125f, 0.042343747f, 0.04515625f, 0.04796875f, 0.05078125f, 0.05359375f,
        0.05640625f, 0.059218753f, 0.062031247f, 0.06484375f, 0.067656256f, 0.070468746f, 0.07328125f, 0.07609375f,
        0.07890625f, 0.08171874f, 0.08453125f, 0.08734375f, 0.09015625f, 0.092968754f, 0.095781244f, 0.09859375f,
        0.107031256f, 0.12109375f, 0.13515624f, 0.14921875f, 0.16328125f, 0.17734374f, 0.19140625f, 0.20546874f,
        0.21953125f, 0.23359376f, 0.24765626f, 0.26171875f, 0.27578127f, 0.28984374f, 0.30390626f, 0.31796873f,
        0.33203125f, 0.3460937f, 0.36015624f, 0.37421876f, 0.38828123f, 0.40234375f, 0.4164062f, 0.43046874f,
        0.44453126f, 0.45859373f, 0.47265625f, 0.48671877f, 0.50078124f, 0.51484376f, 0.5289062f, 0.54296875f,
        0.5570313f, 0.5710938f, 0.58515626f, 0.5992187f, 0.61328125f, 0.6273438f, 0.64140624f, 0.65546876f,
        0.6695313f, 0.68359375f, 0.6976563f, 0.7117188f, 0.72578126f, 0.7398438f, 0.75390625f, 0.7679688f,
        0.78203124f, 0.7960937f, 0.8101562f, 0.82421875f, 0.8382812f, 0.85234374f, 0.8664062f, 0.8804687f,
        0.89453125f, 0.9085938f, 0.92265624f, 0.9367187f, 0.9507812f, 0.96484375f, 0.9789062f, 0.99296874f,
    ];

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
            code += x > Midpoints[code + step - 1] ? step : 0;
        }

        return (byte)code;
    }
}
