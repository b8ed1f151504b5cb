using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>
/// 8x8 floats or 8x4 doubles: 16 accumulators, two vectors of B and one broadcast of A, of the 32 registers of Arm NEON.
/// </summary>
readonly unsafe struct Kernel128<T> : IMicroKernel<T> where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    public static int Rows => 8;

    public static int Columns => 2 * Vector128<T>.Count;

    public static void Multiply(int depth, T* a, T* b, T* c, long ldc, T alpha, T beta)
    {
        Vector128<T> left0 = default, right0 = default;
        Vector128<T> left1 = default, right1 = default;
        Vector128<T> left2 = default, right2 = default;
        Vector128<T> left3 = default, right3 = default;
        Vector128<T> left4 = default, right4 = default;
        Vector128<T> left5 = default, right5 = default;
        Vector128<T> left6 = default, right6 = default;
        Vector128<T> left7 = default, right7 = default;
        for (int k = 0; k < depth; k++)
        {
            var left = Vector128.Load(b);
            var right = Vector128.Load(b + Vector128<T>.Count);
            var x = Vector128.Create(a[0]);
            left0 = Simd.Fma(x, left, left0);
            right0 = Simd.Fma(x, right, right0);
            x = Vector128.Create(a[1]);
            left1 = Simd.Fma(x, left, left1);
            right1 = Simd.Fma(x, right, right1);
            x = Vector128.Create(a[2]);
            left2 = Simd.Fma(x, left, left2);
            right2 = Simd.Fma(x, right, right2);
            x = Vector128.Create(a[3]);
            left3 = Simd.Fma(x, left, left3);
            right3 = Simd.Fma(x, right, right3);
            x = Vector128.Create(a[4]);
            left4 = Simd.Fma(x, left, left4);
            right4 = Simd.Fma(x, right, right4);
            x = Vector128.Create(a[5]);
            left5 = Simd.Fma(x, left, left5);
            right5 = Simd.Fma(x, right, right5);
            x = Vector128.Create(a[6]);
            left6 = Simd.Fma(x, left, left6);
            right6 = Simd.Fma(x, right, right6);
            x = Vector128.Create(a[7]);
            left7 = Simd.Fma(x, left, left7);
            right7 = Simd.Fma(x, right, right7);
            a += 8;
            b += 2 * Vector128<T>.Count;
        }

        Store(c, left0, right0, alpha, beta);
        Store(c + ldc, left1, right1, alpha, beta);
        Store(c + 2 * ldc, left2, right2, alpha, beta);
        Store(c + 3 * ldc, left3, right3, alpha, beta);
        Store(c + 4 * ldc, left4, right4, alpha, beta);
        Store(c + 5 * ldc, left5, right5, alpha, beta);
        Store(c + 6 * ldc, left6, right6, alpha, beta);
        Store(c + 7 * ldc, left7, right7, alpha, beta);
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Store(T* c, Vector128<T> left, Vector128<T> right, T alpha, T beta)
    {
        left *= alpha;
        right *= alpha;
        if (beta != T.Zero)
        {
            left = Simd.Fma(Vector128.Create(beta), Vector128.Load(c), left);
            right = Simd.Fma(Vector128.Create(beta), Vector128.Load(c + Vector128<T>.Count), right);
        }

        left.Store(c);
        right.Store(c + Vector128<T>.Count);
    }
}
