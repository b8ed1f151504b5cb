using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Products with 2 to 64 rows, which have register blocks of their own.</summary>
[Collection(nameof(HostProducts))]
public sealed unsafe class FewRowsTests : IDisposable
{
    readonly SimdPath path = Simd.Path;
    readonly int threads = Workers.Count;

    /// <summary>The two register blocks.</summary>
    public static TheoryData<string> Blocks => [nameof(SimdPath.Vector256), nameof(SimdPath.Vector512)];

    public void Dispose()
    {
        Simd.Path = path;
        Workers.Count = threads;
    }

    [Theory]
    [MemberData(nameof(Blocks))]
    public void Multiply_matches_the_formula_for_every_count_of_rows_and_format(string simd)
    {
        Simd.Path = Enum.Parse<SimdPath>(simd);
        foreach (var (n, k) in new[] { (1, 1), (13, 3), (37, 64), (25, 67), (12, 192) })
        {
            foreach (var format in Enum.GetValues<WeightFormat>())
            {
                using var weight = new StoredWeight(n, k, format, seed: 5);
                foreach (int m in Enumerable.Range(2, 16))
                {
                    Check(weight, m, 0);
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Blocks))]
    public void Multiply_crosses_depth_blocks_and_tasks(string simd)
    {
        Simd.Path = Enum.Parse<SimdPath>(simd);
        foreach (var (n, k) in new[] { (7, 1344), (14, 1345), (211, 641), (13, 1024) }) // 1024 floats: rows a page apart
        {
            foreach (var format in new[] { WeightFormat.F32, WeightFormat.BF16, WeightFormat.Nf4Double })
            {
                using var weight = new StoredWeight(n, k, format, seed: 6);
                foreach (int m in new[] { 2, 5, 9, 64 })
                {
                    Check(weight, m, 0.5);
                }
            }
        }
    }

    [Theory]
    [MemberData(nameof(Blocks))]
    public void Multiply_with_few_columns_matches_the_formula(string simd)
    {
        Simd.Path = Enum.Parse<SimdPath>(simd);
        const int M = 83, K = 70;
        using var a = new HostMatrix<float>(M, K, K + 3, 1);
        foreach (int n in Enumerable.Range(2, 16))
        {
            using var b = new HostMatrix<float>(n, K, K + 2, 2);
            foreach (double beta in new[] { 0.0, -0.5 })
            {
                using var c = new HostMatrix<float>(M, n, n + 5, 3);
                var expected = Expected(M, n, K, (i, p) => a[i, p], (j, p) => b[j, p], 1.25, beta, c);
                c.Poison(beta == 0);
                Gemm.Multiply(M, n, K, 1.25f, a.Pointer, a.Stride, false, b.Pointer, b.Stride, true, (float)beta, c.Pointer, c.Stride);
                c.AssertClose(expected, 1e-5 * Math.Sqrt(K), $"{n} columns, beta {beta}");
            }
        }
    }

    [Theory]
    [MemberData(nameof(Blocks))]
    public void A_rows_result_does_not_depend_on_how_many_there_are_or_where_it_stands(string simd)
    {
        Simd.Path = Enum.Parse<SimdPath>(simd);
        const int N = 40, K = 704, Most = 33;
        using var x = new HostMatrix<float>(Most, K, K, 4);
        foreach (var format in new[] { WeightFormat.F32, WeightFormat.F16, WeightFormat.BF16, WeightFormat.Nf4, WeightFormat.Nf4Double })
        {
            using var weight = new StoredWeight(N, K, format, seed: 3);
            float[] all = Product(x.Pointer, Most, weight);
            foreach (int m in Enumerable.Range(2, 16))
            {
                int first = Most - m;
                Assert.Equal(all[(first * N)..], Product(x.Pointer + first * K, m, weight));
            }
        }
    }

    [Theory]
    [MemberData(nameof(Blocks))]
    public void Multiply_reads_nothing_of_what_working_memory_held(string simd)
    {
        Simd.Path = Enum.Parse<SimdPath>(simd);
        Workers.Count = 1; // the same thread's memory
        using var nothing = new HostMatrix<float>(12, 643, 643, 1);
        using var x = new HostMatrix<float>(64, 643, 643, 2);
        nothing.Poison();
        x.Poison();
        foreach (var (n, k) in new[] { (12, 67), (5, 64), (7, 130) })
        {
            using var c = new HostMatrix<float>(64, 12, 12, 3);
            Gemm.Multiply(64, 12, 643, 1f, x.Pointer, x.Stride, false, nothing.Pointer, nothing.Stride, true, 0f, c.Pointer, c.Stride);
            using var weight = new StoredWeight(n, k, WeightFormat.BF16, seed: 5);
            Check(weight, 5, 0);
        }
    }

    [Theory]
    [MemberData(nameof(Blocks))]
    public void Multiply_is_bit_identical_for_any_number_of_threads(string simd)
    {
        Simd.Path = Enum.Parse<SimdPath>(simd);
        const int N = 611, K = 192;
        foreach (var format in new[] { WeightFormat.F32, WeightFormat.BF16, WeightFormat.Nf4Double })
        {
            using var weight = new StoredWeight(N, K, format, seed: 3);
            foreach (int m in new[] { 2, 7, 16, 17 })
            {
                using var x = new HostMatrix<float>(m, K, K, 4);
                Workers.Count = 1;
                float[] alone = Product(x.Pointer, m, weight);
                foreach (int count in new[] { 2, 3, 5 })
                {
                    Workers.Count = count;
                    Assert.Equal(alone, Product(x.Pointer, m, weight));
                }
            }
        }
    }

    static float[] Product(float* x, int m, StoredWeight stored)
    {
        int n = stored.Weight.Rows, k = stored.Weight.Columns;
        using var c = new HostMatrix<float>(m, n, n, 0);
        c.Poison();
        Gemm.Multiply(m, 1f, x, k, stored.Weight, true, 0f, c.Pointer, n);
        return c.ToArray();
    }

    static void Check(StoredWeight stored, int m, double beta)
    {
        int n = stored.Weight.Rows, k = stored.Weight.Columns;
        using var a = new HostMatrix<float>(m, k, k + 1, 7);
        using var c = new HostMatrix<float>(m, n, n + 3, 8);
        var expected = Expected(m, n, k, (i, p) => a[i, p], (j, p) => stored.Values[j * k + p], 1.25, beta, c);
        c.Poison(beta == 0);
        Gemm.Multiply(m, 1.25f, a.Pointer, a.Stride, stored.Weight, true, (float)beta, c.Pointer, c.Stride);
        c.AssertClose(expected, 1e-5 * Math.Sqrt(k), $"{m}x{n}x{k} {stored.Format}");
    }

    static double[,] Expected(int m, int n, int k, Func<int, int, double> a, Func<int, int, double> b, double alpha, double beta, HostMatrix<float> c)
    {
        var result = new double[m, n];
        for (int i = 0; i < m; i++)
        {
            for (int j = 0; j < n; j++)
            {
                double sum = 0;
                for (int p = 0; p < k; p++)
                {
                    sum += a(i, p) * b(j, p);
                }

                result[i, j] = alpha * sum + (beta == 0 ? 0 : beta * c[i, j]);
            }
        }

        return result;
    }
}
