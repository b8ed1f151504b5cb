using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

/// <summary>12 outputs by 8 rows: 24 accumulators, two vectors of x and one broadcast of w, of the 32 registers of AVX-512; or by 4 rows.</summary>
readonly unsafe struct FewRows512 : IFewRowsKernel
{
    public static int Outputs => 12;

    public static int Rows => 8;

    public static void Multiply(int quads, float* w, nint stride, float* panel, int rows, float* sums)
    {
        if (rows == Rows)
        {
            MultiplyWhole(quads, w, stride, panel, sums);
        }
        else
        {
            MultiplyHalf(quads, w, stride, panel, sums);
        }
    }

    static void MultiplyWhole(int quads, float* w, nint stride, float* panel, float* sums)
    {
        nint second = 2 * stride, third = 3 * stride;
        float* w0 = w, w4 = w + 4 * stride, w8 = w + 8 * stride;
        Vector512<float> left0 = Vector512.Load(sums), right0 = Vector512.Load(sums + 16);
        Vector512<float> left1 = Vector512.Load(sums + 32), right1 = Vector512.Load(sums + 48);
        Vector512<float> left2 = Vector512.Load(sums + 64), right2 = Vector512.Load(sums + 80);
        Vector512<float> left3 = Vector512.Load(sums + 96), right3 = Vector512.Load(sums + 112);
        Vector512<float> left4 = Vector512.Load(sums + 128), right4 = Vector512.Load(sums + 144);
        Vector512<float> left5 = Vector512.Load(sums + 160), right5 = Vector512.Load(sums + 176);
        Vector512<float> left6 = Vector512.Load(sums + 192), right6 = Vector512.Load(sums + 208);
        Vector512<float> left7 = Vector512.Load(sums + 224), right7 = Vector512.Load(sums + 240);
        Vector512<float> left8 = Vector512.Load(sums + 256), right8 = Vector512.Load(sums + 272);
        Vector512<float> left9 = Vector512.Load(sums + 288), right9 = Vector512.Load(sums + 304);
        Vector512<float> left10 = Vector512.Load(sums + 320), right10 = Vector512.Load(sums + 336);
        Vector512<float> left11 = Vector512.Load(sums + 352), right11 = Vector512.Load(sums + 368);
        for (int k = 0; k < quads; k++, panel += 32, w0 += 4, w4 += 4, w8 += 4)
        {
            var left = Vector512.Load(panel);
            var right = Vector512.Load(panel + 16);
            var four = Avx512F.BroadcastVector128ToVector512(w0);
            left0 = Simd.Fma(four, left, left0);
            right0 = Simd.Fma(four, right, right0);
            four = Avx512F.BroadcastVector128ToVector512(w0 + stride);
            left1 = Simd.Fma(four, left, left1);
            right1 = Simd.Fma(four, right, right1);
            four = Avx512F.BroadcastVector128ToVector512(w0 + second);
            left2 = Simd.Fma(four, left, left2);
            right2 = Simd.Fma(four, right, right2);
            four = Avx512F.BroadcastVector128ToVector512(w0 + third);
            left3 = Simd.Fma(four, left, left3);
            right3 = Simd.Fma(four, right, right3);
            four = Avx512F.BroadcastVector128ToVector512(w4);
            left4 = Simd.Fma(four, left, left4);
            right4 = Simd.Fma(four, right, right4);
            four = Avx512F.BroadcastVector128ToVector512(w4 + stride);
            left5 = Simd.Fma(four, left, left5);
            right5 = Simd.Fma(four, right, right5);
            four = Avx512F.BroadcastVector128ToVector512(w4 + second);
            left6 = Simd.Fma(four, left, left6);
            right6 = Simd.Fma(four, right, right6);
            four = Avx512F.BroadcastVector128ToVector512(w4 + third);
            left7 = Simd.Fma(four, left, left7);
            right7 = Simd.Fma(four, right, right7);
            four = Avx512F.BroadcastVector128ToVector512(w8);
            left8 = Simd.Fma(four, left, left8);
            right8 = Simd.Fma(four, right, right8);
            four = Avx512F.BroadcastVector128ToVector512(w8 + stride);
            left9 = Simd.Fma(four, left, left9);
            right9 = Simd.Fma(four, right, right9);
            four = Avx512F.BroadcastVector128ToVector512(w8 + second);
            left10 = Simd.Fma(four, left, left10);
            right10 = Simd.Fma(four, right, right10);
            four = Avx512F.BroadcastVector128ToVector512(w8 + third);
            left11 = Simd.Fma(four, left, left11);
            right11 = Simd.Fma(four, right, right11);
        }

        left0.Store(sums);
        right0.Store(sums + 16);
        left1.Store(sums + 32);
        right1.Store(sums + 48);
        left2.Store(sums + 64);
        right2.Store(sums + 80);
        left3.Store(sums + 96);
        right3.Store(sums + 112);
        left4.Store(sums + 128);
        right4.Store(sums + 144);
        left5.Store(sums + 160);
        right5.Store(sums + 176);
        left6.Store(sums + 192);
        right6.Store(sums + 208);
        left7.Store(sums + 224);
        right7.Store(sums + 240);
        left8.Store(sums + 256);
        right8.Store(sums + 272);
        left9.Store(sums + 288);
        right9.Store(sums + 304);
        left10.Store(sums + 320);
        right10.Store(sums + 336);
        left11.Store(sums + 352);
        right11.Store(sums + 368);
    }

    static void MultiplyHalf(int quads, float* w, nint stride, float* panel, float* sums)
    {
        nint second = 2 * stride, third = 3 * stride;
        float* w0 = w, w4 = w + 4 * stride, w8 = w + 8 * stride;
        Vector512<float> sum0 = Vector512.Load(sums);
        Vector512<float> sum1 = Vector512.Load(sums + 16);
        Vector512<float> sum2 = Vector512.Load(sums + 32);
        Vector512<float> sum3 = Vector512.Load(sums + 48);
        Vector512<float> sum4 = Vector512.Load(sums + 64);
        Vector512<float> sum5 = Vector512.Load(sums + 80);
        Vector512<float> sum6 = Vector512.Load(sums + 96);
        Vector512<float> sum7 = Vector512.Load(sums + 112);
        Vector512<float> sum8 = Vector512.Load(sums + 128);
        Vector512<float> sum9 = Vector512.Load(sums + 144);
        Vector512<float> sum10 = Vector512.Load(sums + 160);
        Vector512<float> sum11 = Vector512.Load(sums + 176);
        for (int k = 0; k < quads; k++, panel += 16, w0 += 4, w4 += 4, w8 += 4)
        {
            var x = Vector512.Load(panel);
            sum0 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w0), x, sum0);
            sum1 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w0 + stride), x, sum1);
            sum2 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w0 + second), x, sum2);
            sum3 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w0 + third), x, sum3);
            sum4 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w4), x, sum4);
            sum5 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w4 + stride), x, sum5);
            sum6 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w4 + second), x, sum6);
            sum7 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w4 + third), x, sum7);
            sum8 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w8), x, sum8);
            sum9 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w8 + stride), x, sum9);
            sum10 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w8 + second), x, sum10);
            sum11 = Simd.Fma(Avx512F.BroadcastVector128ToVector512(w8 + third), x, sum11);
        }

        sum0.Store(sums);
        sum1.Store(sums + 16);
        sum2.Store(sums + 32);
        sum3.Store(sums + 48);
        sum4.Store(sums + 64);
        sum5.Store(sums + 80);
        sum6.Store(sums + 96);
        sum7.Store(sums + 112);
        sum8.Store(sums + 128);
        sum9.Store(sums + 144);
        sum10.Store(sums + 160);
        sum11.Store(sums + 176);
    }

    public static void DecodeNf4(Weight weight, long start, int count, float* scales, float* destination) => Nf4Lookup.Decode(weight, start, count, scales, destination);

    public static void PermuteNf4(float* x, float* permuted, int count, nint next) => Nf4Lookup.Permute(x, permuted, count, next);
}
