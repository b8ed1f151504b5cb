using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

/// <summary>6 outputs by 4 rows: 12 accumulators, two vectors of x and one broadcast of w, of the 16 registers of AVX2; or by 2 rows.</summary>
readonly unsafe struct FewRows256 : IFewRowsKernel
{
    public static int Outputs => 6;

    public static int Rows => 4;

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
        float* w0 = w, w4 = w + 4 * stride;
        Vector256<float> left0 = Vector256.Load(sums), right0 = Vector256.Load(sums + 8);
        Vector256<float> left1 = Vector256.Load(sums + 16), right1 = Vector256.Load(sums + 24);
        Vector256<float> left2 = Vector256.Load(sums + 32), right2 = Vector256.Load(sums + 40);
        Vector256<float> left3 = Vector256.Load(sums + 48), right3 = Vector256.Load(sums + 56);
        Vector256<float> left4 = Vector256.Load(sums + 64), right4 = Vector256.Load(sums + 72);
        Vector256<float> left5 = Vector256.Load(sums + 80), right5 = Vector256.Load(sums + 88);
        for (int k = 0; k < quads; k++, panel += 16, w0 += 4, w4 += 4)
        {
            var left = Vector256.Load(panel);
            var right = Vector256.Load(panel + 8);
            var four = Avx.BroadcastVector128ToVector256(w0);
            left0 = Simd.Fma(four, left, left0);
            right0 = Simd.Fma(four, right, right0);
            four = Avx.BroadcastVector128ToVector256(w0 + stride);
            left1 = Simd.Fma(four, left, left1);
            right1 = Simd.Fma(four, right, right1);
            four = Avx.BroadcastVector128ToVector256(w0 + second);
            left2 = Simd.Fma(four, left, left2);
            right2 = Simd.Fma(four, right, right2);
            four = Avx.BroadcastVector128ToVector256(w0 + third);
            left3 = Simd.Fma(four, left, left3);
            right3 = Simd.Fma(four, right, right3);
            four = Avx.BroadcastVector128ToVector256(w4);
            left4 = Simd.Fma(four, left, left4);
            right4 = Simd.Fma(four, right, right4);
            four = Avx.BroadcastVector128ToVector256(w4 + stride);
            left5 = Simd.Fma(four, left, left5);
            right5 = Simd.Fma(four, right, right5);
        }

        left0.Store(sums);
        right0.Store(sums + 8);
        left1.Store(sums + 16);
        right1.Store(sums + 24);
        left2.Store(sums + 32);
        right2.Store(sums + 40);
        left3.Store(sums + 48);
        right3.Store(sums + 56);
        left4.Store(sums + 64);
        right4.Store(sums + 72);
        left5.Store(sums + 80);
        right5.Store(sums + 88);
    }

    static void MultiplyHalf(int quads, float* w, nint stride, float* panel, float* sums)
    {
        nint second = 2 * stride, third = 3 * stride;
        float* w0 = w, w4 = w + 4 * stride;
        Vector256<float> sum0 = Vector256.Load(sums);
        Vector256<float> sum1 = Vector256.Load(sums + 8);
        Vector256<float> sum2 = Vector256.Load(sums + 16);
        Vector256<float> sum3 = Vector256.Load(sums + 24);
        Vector256<float> sum4 = Vector256.Load(sums + 32);
        Vector256<float> sum5 = Vector256.Load(sums + 40);
        for (int k = 0; k < quads; k++, panel += 8, w0 += 4, w4 += 4)
        {
            var x = Vector256.Load(panel);
            sum0 = Simd.Fma(Avx.BroadcastVector128ToVector256(w0), x, sum0);
            sum1 = Simd.Fma(Avx.BroadcastVector128ToVector256(w0 + stride), x, sum1);
            sum2 = Simd.Fma(Avx.BroadcastVector128ToVector256(w0 + second), x, sum2);
            sum3 = Simd.Fma(Avx.BroadcastVector128ToVector256(w0 + third), x, sum3);
            sum4 = Simd.Fma(Avx.BroadcastVector128ToVector256(w4), x, sum4);
            sum5 = Simd.Fma(Avx.BroadcastVector128ToVector256(w4 + stride), x, sum5);
        }

        sum0.Store(sums);
        sum1.Store(sums + 8);
        sum2.Store(sums + 16);
        sum3.Store(sums + 24);
        sum4.Store(sums + 32);
        sum5.Store(sums + 40);
    }

    public static void DecodeNf4(Weight weight, long start, int count, float* scales, float* destination) => Nf4MatVec.Decode(weight, start, count, scales, destination);

    public static void PermuteNf4(float* x, float* permuted, int count, nint next) => Nf4MatVec.Permute(x, permuted, count, next);
}
