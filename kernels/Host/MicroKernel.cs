using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>Vector width of the host kernels.</summary>
enum SimdPath
{
    Scalar,
    Vector128,
    Vector256,
    Vector512,
}

/// <summary>The inner loop of a matrix product: one register tile of C.</summary>
unsafe interface IMicroKernel<T> where T : unmanaged
{
    /// <summary>Rows of the tile, and width of a packed panel of A.</summary>
    static abstract int Rows { get; }

    /// <summary>Columns of the tile, and width of a packed panel of B.</summary>
    static abstract int Columns { get; }

    /// <summary>
    /// C[Rows, Columns] = beta·C + alpha·Σ_k a[k, Rows]·b[k, Columns], summed in k order. With beta = 0, C is written without being read.
    /// </summary>
    static abstract void Multiply(int depth, T* a, T* b, T* c, long ldc, T alpha, T beta);
}

/// <summary>What the vector micro-kernels share.</summary>
static unsafe class Simd
{
    /// <summary>The widest vectors the hardware has. Tests set it to run every path on one machine.</summary>
    public static SimdPath Path { get; set; } =
        Vector512.IsHardwareAccelerated ? SimdPath.Vector512
        : Vector256.IsHardwareAccelerated ? SimdPath.Vector256
        : Vector128.IsHardwareAccelerated ? SimdPath.Vector128
        : SimdPath.Scalar;

    // The JIT decides `typeof(T) ==` at compile time, so each of these is one instruction where the hardware has it.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector128<T> Fma<T>(Vector128<T> x, Vector128<T> y, Vector128<T> sum) where T : unmanaged => typeof(T) == typeof(float)
        ? Vector128.FusedMultiplyAdd(x.AsSingle(), y.AsSingle(), sum.AsSingle()).As<float, T>()
        : Vector128.FusedMultiplyAdd(x.AsDouble(), y.AsDouble(), sum.AsDouble()).As<double, T>();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector256<T> Fma<T>(Vector256<T> x, Vector256<T> y, Vector256<T> sum) where T : unmanaged => typeof(T) == typeof(float)
        ? Vector256.FusedMultiplyAdd(x.AsSingle(), y.AsSingle(), sum.AsSingle()).As<float, T>()
        : Vector256.FusedMultiplyAdd(x.AsDouble(), y.AsDouble(), sum.AsDouble()).As<double, T>();

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector512<T> Fma<T>(Vector512<T> x, Vector512<T> y, Vector512<T> sum) where T : unmanaged => typeof(T) == typeof(float)
        ? Vector512.FusedMultiplyAdd(x.AsSingle(), y.AsSingle(), sum.AsSingle()).As<float, T>()
        : Vector512.FusedMultiplyAdd(x.AsDouble(), y.AsDouble(), sum.AsDouble()).As<double, T>();
}

/// <summary>4x4 without vectors: for hardware that .NET has no vectors for.</summary>
readonly unsafe struct ScalarKernel<T> : IMicroKernel<T> where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    public static int Rows => 4;

    public static int Columns => 4;

    public static void Multiply(int depth, T* a, T* b, T* c, long ldc, T alpha, T beta)
    {
        T* sums = stackalloc T[4 * 4];
        new Span<T>(sums, 4 * 4).Clear();
        for (int k = 0; k < depth; k++)
        {
            for (int i = 0; i < 4; i++)
            {
                for (int j = 0; j < 4; j++)
                {
                    sums[4 * i + j] += a[4 * k + i] * b[4 * k + j];
                }
            }
        }

        for (int i = 0; i < 4; i++)
        {
            for (int j = 0; j < 4; j++)
            {
                T* at = c + i * ldc + j;
                *at = beta == T.Zero ? alpha * sums[4 * i + j] : alpha * sums[4 * i + j] + beta * *at;
            }
        }
    }
}
