using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>
/// 12x32 floats or 12x16 doubles: 24 accumulators, two vectors of B and one broadcast of A, of the 32 registers of AVX-512.
/// </summary>
readonly unsafe struct Kernel512<T> : IMicroKernel<T> where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    public static int Rows => 12;

    public static int Columns => 2 * Vector512<T>.Count;

    public static void Multiply(int depth, T* a, T* b, T* c, long ldc, T alpha, T beta)
    {
        Vector512<T> left0 = default, right0 = default;
        Vector512<T> left1 = default, right1 = default;
        Vector512<T> left2 = default, right2 = default;
        Vector512<T> left3 = default, right3 = default;
        Vector512<T> left4 = default, right4 = default;
        Vector512<T> left5 = default, right5 = default;
        Vector512<T> left6 = default, right6 = default;
        Vector512<T> left7 = default, right7 = default;
        Vector512<T> left8 = default, right8 = default;
        Vector512<T> left9 = default, right9 = default;
        Vector512<T> left10 = default, right10 = default;
        Vector512<T> left11 = default, right11 = default;
        for (int k = 0; k < depth; k++)
        {
            var left = Vector512.Load(b);
            var right = Vector512.Load(b + Vector512<T>.Count);
            var x = Vector512.Create(a[0]);
            left0 = Simd.Fma(x, left, left0);
            right0 = Simd.Fma(x, right, right0);
            x = Vector512.Create(a[1]);
            left1 = Simd.Fma(x, left, left1);
            right1 = Simd.Fma(x, right, right1);
            x = Vector512.Create(a[2]);
            left2 = Simd.Fma(x, left, left2);
            right2 = Simd.Fma(x, right, right2);
            x = Vector512.Create(a[3]);
            left3 = Simd.Fma(x, left, left3);
            right3 = Simd.Fma(x, right, right3);
            x = Vector512.Create(a[4]);
            left4 = Simd.Fma(x, left, left4);
            right4 = Simd.Fma(x, right, right4);
            x = Vector512.Create(a[5]);
            left5 = Simd.Fma(x, left, left5);
            right5 = Simd.Fma(x, right, right5);
            x = Vector512.Create(a[6]);
            left6 = Simd.Fma(x, left, left6);
            right6 = Simd.Fma(x, right, right6);
            x = Vector512.Create(a[7]);
            left7 = Simd.Fma(x, left, left7);
            right7 = Simd.Fma(x, right, right7);
            x = Vector512.Create(a[8]);
            left8 = Simd.Fma(x, left, left8);
            right8 = Simd.Fma(x, right, right8);
            x = Vector512.Create(a[9]);
            left9 = Simd.Fma(x, left, left9);
            right9 = Simd.Fma(x, right, right9);
            x = Vector512.Create(a[10]);
            left10 = Simd.Fma(x, left, left10);
            right10 = Simd.Fma(x, right, right10);
            x = Vector512.Create(a[11]);
            left11 = Simd.Fma(x, left, left11);
            right11 = Simd.Fma(x, right, right11);
            a += 12;
            b += 2 * Vector512<T>.Count;
        }

        Store(c, left0, right0, alpha, beta);
        Store(c + ldc, left1, right1, alpha, beta);
        Store(c + 2 * ldc, left2, right2, alpha, beta);
        Store(c + 3 * ldc, left3, right3, alpha, beta);
        Store(c + 4 * ldc, left4, right4, alpha, beta);
        Store(c + 5 * ldc, left5, right5, alpha, beta);
        Store(c + 6 * ldc, left6, right6, alpha, beta);
        Store(c + 7 * ldc, left7, right7, alpha, beta);
        Store(c + 8 * ldc, left8, right8, alpha, beta);
        Store(c + 9 * ldc, left9, right9, alpha, beta);
        Store(c + 10 * ldc, left10, right10, alpha, beta);
        Store(c + 11 * ldc, left11, right11, alpha, beta);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Store(T* c, Vector512<T> left, Vector512<T> right, T alpha, T beta)
    {
        left *= alpha;
        right *= alpha;
        if (beta != T.Zero)
        {
            left = Simd.Fma(Vector512.Create(beta), Vector512.Load(c), left);
            right = Simd.Fma(Vector512.Create(beta), Vector512.Load(c + Vector512<T>.Count), right);
        }

        left.Store(c);
        right.Store(c + Vector512<T>.Count);
    }
}
