using System.Numerics;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Every test of a host product runs alone in its collection, since SIMD path and thread count are process-wide.</summary>
[Collection(nameof(HostProducts))]
public sealed unsafe class GemmTests : IDisposable
{
    static readonly int[] Sizes = [1, 5, 7, 8, 13, 16, 17, 33];
    readonly SimdPath path = Simd.Path;
    readonly int threads = Workers.Count;

    public static TheoryData<string> Paths => [.. Enum.GetNames<SimdPath>()];

    public void Dispose()
    {
        Simd.Path = path;
        Workers.Count = threads;
    }

    [Theory]
    [MemberData(nameof(Paths))]
    public void Multiply_of_floats_matches_naive_loops_for_odd_sizes(string simd)
    {
        Simd.Path = Enum.Parse<SimdPath>(simd);
        foreach (var (m, n, k) in Shapes())
        {
            CheckDense<float>(m, n, k, 1e-5);
        }
    }

    [Theory]
    [MemberData(nameof(Paths))]
    public void Multiply_of_doubles_matches_naive_loops_for_odd_sizes(string simd)
    {
        Simd.Path = Enum.Parse<SimdPath>(simd);
        foreach (var (m, n, k) in Shapes())
        {
            CheckDense<double>(m, n, k, 1e-13);
        }
    }

    [Fact]
    public void Multiply_crosses_task_pass_and_depth_blocks()
    {
        CheckDense<float>(97, 193, 385, 1e-5);
        CheckDense<float>(4033, 18, 17, 1e-5);
        CheckDense<float>(70, 3073, 19, 1e-5);   // many columns: tasks pack B for themselves
        CheckDense<float>(77, 3079, 390, 1e-5);
    }

    [Fact]
    public void Multiply_of_rows_a_page_apart_matches_naive_loops()
    {
        using var a = new HostMatrix<float>(37, 100, 1024, 1);
        using var b = new HostMatrix<float>(41, 100, 2048, 2);
        using var c = new HostMatrix<float>(37, 41, 44, 3);
        var expected = Naive(37, 41, 100, (i, p) => a[i, p], (p, j) => b[j, p], 1, 0, c);
        c.Poison();
        Gemm.Multiply(37, 41, 100, 1f, a.Pointer, a.Stride, false, b.Pointer, b.Stride, true, 0f, c.Pointer, c.Stride);
        c.AssertClose(expected, 1e-4, "rows a page apart");
    }

    [Fact]
    public void Multiply_with_no_depth_scales_the_output()
    {
        using var c = new HostMatrix<double>(20, 30, 30, 1);
        double before = c[3, 4];
        Gemm.Multiply(20, 30, 0, 1.0, null, 0, false, null, 30, false, 0.5, c.Pointer, 30);
        Assert.Equal(0.5 * before, c[3, 4]);
    }

    [Theory]
    [MemberData(nameof(Paths))]
    public void Multiply_with_a_stored_weight_matches_naive_loops(string simd)
    {
        Simd.Path = Enum.Parse<SimdPath>(simd);
        foreach (var (rows, columns) in new[] { (1, 1), (3, 5), (7, 64), (19, 67), (33, 128), (70, 193), (101, 448) })
        {
            foreach (var format in Enum.GetValues<WeightFormat>())
            {
                using var weight = new StoredWeight(rows, columns, format, seed: 5);
                foreach (int m in new[] { 1, 2, 3, 16, 17, 29, 67 })
                {
                    CheckWeight<float>(weight, m, 1e-5);
                    CheckWeight<double>(weight, m, 1e-13);
                }
            }
        }
    }

    [Fact]
    public void Multiply_is_bit_identical_for_any_number_of_threads()
    {
        foreach (var (m, n, k) in new[] { (1, 301, 192), (5, 301, 192), (200, 400, 500) })
        {
            using var weight = new StoredWeight(n, k, WeightFormat.Nf4Double, seed: 3);
            using var a = new HostMatrix<float>(m, k, k, 4);
            using var c = new HostMatrix<float>(m, n, n, 0);
            float[]? expected = null;
            foreach (int count in new[] { 1, 2, 3, 5, 2 })
            {
                Workers.Count = count;
                Gemm.Multiply(m, 1f, a.Pointer, k, weight.Weight, true, 0f, c.Pointer, n);
                expected ??= c.ToArray();
                Assert.Equal(expected, c.ToArray());
            }
        }
    }

    [Fact]
    public void Multiply_allocates_nothing_after_the_first_call()
    {
        using var weight = new StoredWeight(300, 192, WeightFormat.Nf4Double, seed: 3);
        using var a = new HostMatrix<float>(40, 192, 192, 4);
        using var c = new HostMatrix<float>(40, 300, 300, 0);
        long Allocated(int calls)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            for (int i = 0; i < calls; i++)
            {
                Gemm.Multiply(40, 1f, a.Pointer, 192, weight.Weight, true, 0f, c.Pointer, 300);
                Gemm.Multiply(1, 1f, a.Pointer, 192, weight.Weight, true, 0f, c.Pointer, 300);
            }

            return GC.GetAllocatedBytesForCurrentThread() - before;
        }

        Allocated(3);
        Assert.Equal(0, Allocated(100));
    }

    [Fact]
    public void Multiply_refuses_a_weight_of_codes_without_scales()
    {
        using var weight = new StoredWeight(8, 64, WeightFormat.Nf4, seed: 1);
        using var a = new HostMatrix<float>(2, 64, 64, 4);
        using var c = new HostMatrix<float>(2, 8, 8, 0);
        var broken = weight.Weight with { Scales = null };
        var error = Assert.Throws<ArgumentException>(() => Gemm.Multiply(2, 1f, a.Pointer, 64, broken, true, 0f, c.Pointer, 8));
        Assert.Contains("U8", error.Message);
    }

    static IEnumerable<(int M, int N, int K)> Shapes()
    {
        foreach (int m in Sizes)
        {
            foreach (int n in Sizes)
            {
                yield return (m, n, (7 * m + 3 * n) % 41 + 1);
            }
        }
    }

    static void CheckDense<T>(int m, int n, int k, double tolerance) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        for (int bits = 0; bits < 4; bits++)
        {
            bool ta = (bits & 1) != 0, tb = (bits & 2) != 0;
            using var a = new HostMatrix<T>(ta ? k : m, ta ? m : k, (ta ? m : k) + 3, 1);
            using var b = new HostMatrix<T>(tb ? n : k, tb ? k : n, (tb ? k : n) + 2, 2);
            foreach (var (alpha, beta) in new[] { (1.0, 0.0), (-0.75, 1.0), (2.0, 0.5) })
            {
                using var c = new HostMatrix<T>(m, n, n + 5, 3);
                var expected = Naive(m, n, k, (i, p) => ta ? a[p, i] : a[i, p], (p, j) => tb ? b[j, p] : b[p, j], alpha, beta, c);
                c.Poison(beta == 0);
                Gemm.Multiply(m, n, k, T.CreateTruncating(alpha), a.Pointer, a.Stride, ta, b.Pointer, b.Stride, tb, T.CreateTruncating(beta), c.Pointer, c.Stride);
                c.AssertClose(expected, tolerance * Math.Sqrt(k), $"{typeof(T).Name} {m}x{n}x{k} transposed {ta} {tb} alpha {alpha} beta {beta}");
            }
        }
    }

    static void CheckWeight<T>(StoredWeight stored, int m, double tolerance) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int o = stored.Weight.Rows, i = stored.Weight.Columns;
        foreach (bool transpose in new[] { true, false })
        {
            var (n, k) = transpose ? (o, i) : (i, o);
            using var a = new HostMatrix<T>(m, k, k + 1, 7);
            foreach (double beta in new[] { 0.0, 1.0 })
            {
                using var c = new HostMatrix<T>(m, n, n + 3, 8);
                var expected = Naive(m, n, k, (r, p) => a[r, p], (p, j) => transpose ? stored.Values[j * i + p] : stored.Values[p * i + j], 1.25, beta, c);
                c.Poison(beta == 0);
                Gemm.Multiply(m, T.CreateTruncating(1.25), a.Pointer, a.Stride, stored.Weight, transpose, T.CreateTruncating(beta), c.Pointer, c.Stride);
                c.AssertClose(expected, tolerance * Math.Sqrt(k), $"{typeof(T).Name} {m}x{n}x{k} {stored.Format} transposed {transpose}");
            }
        }
    }

    static double[,] Naive<T>(int m, int n, int k, Func<int, int, double> a, Func<int, int, double> b, double alpha, double beta, HostMatrix<T> c)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        var left = new double[m * k];
        var right = new double[n * k]; // transposed
        for (int p = 0; p < k; p++)
        {
            for (int i = 0; i < m; i++)
            {
                left[i * k + p] = a(i, p);
            }

            for (int j = 0; j < n; j++)
            {
                right[j * k + p] = b(p, j);
            }
        }

        var result = new double[m, n];
        for (int i = 0; i < m; i++)
        {
            for (int j = 0; j < n; j++)
            {
                double sum = 0;
                for (int p = 0; p < k; p++)
                {
                    sum += left[i * k + p] * right[j * k + p];
                }

                result[i, j] = alpha * sum + beta * c[i, j];
            }
        }

        return result;
    }
}

[CollectionDefinition(nameof(HostProducts), DisableParallelization = true)]
public static class HostProducts;
