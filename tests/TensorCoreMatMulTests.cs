using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Products on tensor cores, against plain sums in double precision of the same bfloat16 operands.</summary>
public class TensorCoreMatMulTests
{
    const string Device = "emulator-bf16";

    // Whole tiles, one beyond a tile, odd, rows that cannot be copied 16 bytes at a time, smaller than any tile.
    static readonly (int M, int N, int K)[] Shapes = [(64, 64, 64), (65, 72, 136), (33, 67, 65), (1, 172, 8), (16, 1, 1), (7, 40, 200)];

    public static TheoryData<bool, bool> Layouts => new() { { false, true }, { false, false }, { true, false }, { true, true } };

    [Theory]
    [MemberData(nameof(Layouts))]
    public void Multiply_in_small_tiles_matches_sums(bool transposeA, bool transposeB)
    {
        foreach (var (m, n, k) in Shapes)
        {
            Check<WarpTile32x32>(m, n, k, transposeA, transposeB, DType.F32);
        }
    }

    [Theory]
    [MemberData(nameof(Layouts))]
    public void Multiply_in_large_tiles_matches_sums(bool transposeA, bool transposeB)
    {
        Check<WarpTile64x64>(128, 128, 64, transposeA, transposeB, DType.F32);
        Check<WarpTile64x64>(129, 136, 72, transposeA, transposeB, DType.BF16);
        Check<WarpTile64x32>(130, 67, 70, transposeA, transposeB, DType.BF16);
    }

    [Theory]
    [InlineData(false, true, 8)]
    [InlineData(false, false, 5)]
    [InlineData(true, false, 70)]
    public void Multiply_adds_a_low_rank_product_to_the_same_sums(bool transposeA, bool transposeB, int rank)
    {
        Check<WarpTile32x32>(66, 40, 130, transposeA, transposeB, DType.F32, rank);
        Check<WarpTile64x64>(20, 68, 64, transposeA, transposeB, DType.BF16, rank);
    }

    [Fact]
    public void Multiply_in_more_rows_of_tiles_than_groups_go_down_reaches_every_tile() => Check<WarpTile32x32>(577, 70, 8, transposeA: false, transposeB: true, DType.BF16);

    [Fact]
    public void Multiply_takes_slices_that_begin_anywhere()
    {
        using Oracle oracle = new(Device, 2);
        double[] a = oracle.Values(24 * 16), b = oracle.Values(8 * 16), expected = new double[24 * 8];
        Slice c = oracle.Fenced([double.NaN, .. expected.Select(_ => double.NaN)], DType.F32);
        MatMulCall call = new(24, 8, 16) { A = oracle.Put([0, .. a]).Range(1, a.Length), B = oracle.Put([0, 0, .. b]).Range(2, b.Length), C = c.Range(1, expected.Length) };
        AddProduct(call, a, b, 1, expected);
        TensorCoreMatMul.Multiply(oracle.Device!, call);
        oracle.Close(expected, call.C, 1e-5, "slices");
        Assert.True(double.IsNaN(oracle.Get(c)[0]));
    }

    [Fact]
    public void Multiply_without_terms_gives_bias_and_what_was_there()
    {
        using Oracle oracle = new(Device, 3);
        Slice none = oracle.Put([0.0]).Range(0, 0), c = oracle.Fenced([1.0, 2, 3, 4]);
        TensorCoreMatMul.Multiply(oracle.Device!, new MatMulCall(2, 2, 0) { A = none, B = none, C = c, Bias = oracle.PutParameter([10.0, 20]), Accumulate = true });
        oracle.Close([11, 22, 13, 24], c, 0, "bias");
    }

    [Fact]
    public void Multiply_in_parts_adds_them_in_order()
    {
        using Oracle oracle = new(Device, 4);
        using var scratch = new ScratchBuffers(oracle.Device!);
        const int m = 9, n = 35, k = 700;
        double[] a = oracle.Values(m * k), b = oracle.Values(n * k), bias = oracle.Values(n), before = oracle.Values(m * n);
        MatMulCall call = new(m, n, k) { A = oracle.Put(a), B = oracle.Put(b), C = default, TransposeB = true, Alpha = 0.5f, Accumulate = true, Bias = oracle.PutParameter(bias) };
        double[] expected = [.. before.Select((x, i) => x + bias[i % n])];
        AddProduct(call, a, b, 0.5, expected);
        double[] Run()
        {
            Slice c = oracle.Fenced(before, DType.F32);
            var launches = oracle.Device!.Launches(() => TensorCoreMatMul.Multiply(oracle.Device!, call with { C = c }, scratch: scratch));
            Assert.Equal([2, 1], launches.Select(launch => launch.Shape.Grid.Y));
            oracle.Close(expected, c, 1e-5, "parts");
            return oracle.Get(c);
        }

        Assert.Equal(Run(), Run());
    }

    [Fact]
    public void Multiply_of_long_sums_is_within_what_truncation_takes()
    {
        const int m = 8, n = 8, k = 8192;
        foreach (string device in TestDevices.WithTensorCores)
        {
            using Oracle oracle = new(device, 9);
            double[] a = [.. oracle.Values(m * k).Select(Math.Abs)], b = [.. oracle.Values(n * k).Select(Math.Abs)], expected = new double[m * n];
            MatMulCall call = new(m, n, k) { A = oracle.Put(a), B = oracle.Put(b), C = oracle.Fenced(expected, DType.F32), TransposeB = true };
            AddProduct(call, a, b, 1, expected);

            TensorCoreMatMul.Multiply(oracle.Device!, call);

            // A term loses half a unit in the sum's last place, which is half as large on the way as at the end, and nothing makes up for it: all terms have one sign.
            oracle.Close(expected, call.C, k * Math.Pow(2, -25), "long sums");
        }
    }

    [Theory]
    [MemberData(nameof(Layouts))]
    public void Multiply_of_whole_tiles_wastes_nothing(bool transposeA, bool transposeB)
    {
        CountsAreLeast<WarpTile32x32>(transposeA, transposeB);
        CountsAreLeast<WarpTile64x64>(transposeA, transposeB);
    }

    [Fact]
    public void Multiply_in_ptx_is_straight_runs_of_tensor_core_instructions()
    {
        using KernelBackend<BF16> backend = new(KernelDevices.Open("emulator")); // which has compiled nothing yet
        Slice operand = backend.Allocate(DType.BF16, 64, "test"), result = backend.Allocate(DType.F32, 64, "test");
        TensorCoreMatMul.Multiply<WarpTile64x64>(backend.Device, new MatMulCall(8, 8, 8) { A = operand, B = operand, C = result, TransposeB = true }, null, null);
        string ptx = Assert.Single(backend.Device.Texts()).Ptx;
        string[] lines = [.. ptx.Split('\n').Select(line => line.Trim())];

        // The loops over the low-rank product and over the product hold a step each: 4 x (4 x 8) multiplies, 4 x (4 + 4) loads of fragments.
        Assert.Equal(2 * 128, lines.Count(line => line.StartsWith("mma.sync.aligned.m16n8k16", StringComparison.Ordinal)));
        Assert.Equal(2 * 32, lines.Count(line => line.StartsWith("ldmatrix.sync.aligned.m8n8.x4", StringComparison.Ordinal)));
        int first = Array.FindIndex(lines, line => line.StartsWith("mma", StringComparison.Ordinal));
        Assert.All(lines[first..(first + 32)], line => Assert.StartsWith("mma", line));
        Assert.Equal(8, lines[(first + 32)..(first + 44)].Count(line => line.StartsWith("ldmatrix", StringComparison.Ordinal))); // of the step after the next: the next one is under way
        Assert.Contains(lines, line => line.StartsWith("cp.async.cg.shared.global", StringComparison.Ordinal) && line.Contains(", 16, "));
        Assert.Contains("st.global.v4", ptx);
        KernelRecords.CheckMemory(ptx, "TensorCoreMatMul.Kernel");
    }

    [Fact]
    public void Multiply_says_what_is_wrong_with_a_call()
    {
        using Oracle oracle = new(Device, 6);
        Slice c = oracle.Output(4), four = oracle.Put([1.0, 2, 3, 4]);
        MatMulCall call = new(2, 2, 2) { A = four, B = four, C = c };
        Assert.Contains("B has 4 elements, expected 6", Fails(call with { N = 3, C = oracle.Output(6) }));
        Assert.Contains("C has 4 elements, expected 6", Fails(call with { M = 3 }));
        Assert.Contains("A is F32, expected BF16", Fails(call with { A = oracle.PutParameter([1.0, 2, 3, 4]) }));
        Assert.Contains("the extension is 1 x 2, expected 2 x 2", Assert.Throws<ArgumentException>(() => TensorCoreMatMul.Multiply(oracle.Device!, call, call with { M = 1 })).Message);
        using KernelBackend<F32> plain = new(KernelDevice.Rent("simulator"));
        Assert.Contains("simulator has no tensor cores", Assert.Throws<NotSupportedException>(() => TensorCoreMatMul.Multiply(plain.Device, call)).Message);
        string Fails(MatMulCall wrong) => Assert.Throws<ArgumentException>(() => TensorCoreMatMul.Multiply(oracle.Device!, wrong)).Message;
    }

    static void Check<TTile>(int m, int n, int k, bool transposeA, bool transposeB, DType type, int rank = 0) where TTile : unmanaged, IWarpTile<TTile>
    {
        foreach (string device in TestDevices.WithTensorCores)
        {
            Check<TTile>(device, m, n, k, transposeA, transposeB, type, rank);
        }
    }

    static void Check<TTile>(string device, int m, int n, int k, bool transposeA, bool transposeB, DType type, int rank) where TTile : unmanaged, IWarpTile<TTile>
    {
        using Oracle oracle = new(device, m + n + k);
        string what = $"{m} x {n} x {k} transposed {transposeA} {transposeB} rank {rank}";
        double[] a = oracle.Values(m * k), b = oracle.Values(n * k), expected = new double[m * n];
        Slice c = oracle.Fenced([.. expected.Select(_ => double.NaN)], type);
        MatMulCall call = new(m, n, k) { A = oracle.Put(a), B = oracle.Put(b), C = c, TransposeA = transposeA, TransposeB = transposeB };
        MatMulCall? extension = null;
        AddProduct(call, a, b, 1, expected);
        if (rank > 0)
        {
            double[] x = oracle.Values(m * rank), y = oracle.Values(n * rank), bias = oracle.Values(n), before = oracle.Values(m * n);
            c = oracle.Fenced(before, type);
            call = call with { C = c, Alpha = -0.75f, Bias = oracle.PutParameter(bias), Accumulate = true };
            extension = call with { K = rank, A = oracle.Put(x), B = oracle.Put(y), Alpha = 1.5f };
            AddProduct(extension.Value, x, y, 1.5, expected);
            expected = [.. expected.Select((sum, i) => before[i] + bias[i % n] - 0.75 * sum)];
        }

        TensorCoreMatMul.Multiply<TTile>(oracle.Device!, call, extension, null);
        oracle.Close(expected, c, type == DType.BF16 ? 4e-3 : 1e-5, what);
        if (type == DType.BF16)
        {
            Assert.NotEqual(expected, oracle.Get(c));
        }
    }

    static void CountsAreLeast<TTile>(bool transposeA, bool transposeB) where TTile : unmanaged, IWarpTile<TTile>
    {
        using Oracle oracle = new(Device, 7);
        int m = 2 * TTile.Rows, n = 2 * TTile.Columns, k = 128;
        var call = Call(oracle, m, n, k, transposeA, transposeB, oracle.Fenced(new double[m * n], DType.F32));
        var counters = oracle.Device!.Counters(() => TensorCoreMatMul.Multiply<TTile>(oracle.Device!, call, null, null));
        Assert.Equal(m / 16 * (n / 8) * (k / 16), counters.MatrixMultiplies);

        // Tiles are written once; each of 2 x 2 warps reads half of both; sums are written and read once. A wavefront serves 128 bytes.
        Assert.Equal(2 * k * (m + n) * 3 + 2 * sizeof(float) * m * n, counters.SharedBytes);
        Assert.Equal(counters.SharedBytes / 128, counters.SharedWavefronts);
        Assert.Equal(2 * k * (m + n) / 32, counters.GlobalLoadSectors);
        Assert.Equal(sizeof(float) * m * n / 32, counters.GlobalStoreSectors);
        Assert.Equal(k / 64 + 1, counters.Barriers);
        Assert.Equal(0, counters.LocalBytes);
        Assert.Equal(0, counters.DivergentBranches);
    }

    static MatMulCall Call(Oracle oracle, int m, int n, int k, bool transposeA, bool transposeB, Slice c) =>
        new(m, n, k) { A = oracle.Put(oracle.Values(m * k)), B = oracle.Put(oracle.Values(n * k)), C = c, TransposeA = transposeA, TransposeB = transposeB };

    /// <summary>Adds alpha·op(A)·op(B).</summary>
    internal static void AddProduct(MatMulCall call, double[] a, double[] b, double alpha, double[] sums)
    {
        var (m, n, k) = (call.M, call.N, call.K);
        for (int row = 0; row < m; row++)
        {
            for (int column = 0; column < n; column++)
            {
                double sum = 0;
                for (int i = 0; i < k; i++)
                {
                    sum += a[call.TransposeA ? i * m + row : row * k + i] * b[call.TransposeB ? column * k + i : i * n + column];
                }

                sums[row * n + column] += alpha * sum;
            }
        }
    }
}
