using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>
/// 6x16 floats or 6x8 doubles: 12 accumulators, two vectors of B and one broadcast of A fill the 16 registers of AVX2.
/// </summary>
readonly unsafe struct Kernel256<T> : IMicroKernel<T> where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    public static int Rows => 6;

    public static int Columns => 2 * Vector256<T>.Count;

    public static void Multiply(int depth, T* a, T* b, T* c, long ldc, T alpha, T beta)
    {
        Vector256<T> left0 = default, right0 = default;
        Vector256<T> left1 = default, right1 = default;
        Vector256<T> left2 = default, right2 = default;
        Vector256<T> left3 = default, right3 = default;
        Vector256<T> left4 = default, right4 = default;
        Vector256<T> left5 = default, right5 = default;
        for (int k = 0; k < depth; k++)
        {
            var left = Vector256.Load(b);
            var right = Vector256.Load(b + Vector256<T>.Count);
            var x = Vector256.Create(a[0]);
            left0 = Simd.Fma(x, left, left0);
            right0 = Simd.Fma(x, right, right0);
            x = Vector256.Create(a[1]);
            left1 = Simd.Fma(x, left, left1);
            right1 = Simd.Fma(x, right, right1);
            x = Vector256.Create(a[2]);
            left2 = Simd.Fma(x, left, left2);
            right2 = Simd.Fma(x, right, right2);
            x = Vector256.Create(a[3]);
            left3 = Simd.Fma(x, left, left3);
            right3 = Simd.Fma(x, right, right3);
            x = Vector256.Create(a[4]);
            left4 = Simd.Fma(x, left, left4);
            right4 = Simd.Fma(x, right, right4);
            x = Vector256.Create(a[5]);
            left5 = Simd.Fma(x, left, left5);
            right5 = Simd.Fma(x, right, right5);
            a += 6;
            b += 2 * Vector256<T>.Count;
        }

        Store(c, left0, right0, alpha, beta);
        Store(c + ldc, left1, right1, alpha, beta);
        Store(c + 2 * ldc, left2, right2, alpha, beta);
        Store(c + 3 * ldc, left3, right3, alpha, beta);
        Store(c + 4 * ldc, left4, right4, alpha, beta);
        Store(c + 5 * ldc, left5, right5, alpha, beta);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Store(T* c, Vector256<T> left, Vector256<T> right, T alpha, T beta)
    {
        left *= alpha;
        right *= alpha;
        if (beta != T.Zero)
        {
            left = Simd.Fma(Vector256.Create(beta), Vector256.Load(c), left);
            right = Simd.Fma(Vector256.Create(beta), Vector256.Load(c + Vector256<T>.Count), right);
        }

        left.Store(c);
        right.Store(c + Vector256<T>.Count);
    }
}
