using IlgpuPeft.Kernels;
using IlgpuPeft.PtxEmulator;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Products on tensor cores, against plain sums in double precision of the same bfloat16 operands.</summary>
public class TensorCoreMatMulTests
{
    const string Device = "emulator-bf16";

    /// <summary>Aligned, one beyond a tile, odd, and smaller than any tile.</summary>
    public static TheoryData<int, int, int> Shapes => new()
    {
        { 128, 128, 128 }, { 129, 136, 72 }, { 65, 33, 65 }, { 1, 172, 8 }, { 16, 1, 1 }, { 7, 40, 200 },
    };

    [Theory]
    [MemberData(nameof(Shapes))]
    public void LargeTiles_xTimesTransposedWeight_equalSums(int m, int n, int k) => EqualSums<WarpTile64x64>(m, n, k, transposeA: false, transposeB: true, DType.BF16);

    [Theory]
    [MemberData(nameof(Shapes))]
    public void SmallTiles_xTimesTransposedWeight_equalSums(int m, int n, int k) => EqualSums<WarpTile32x32>(m, n, k, transposeA: false, transposeB: true, DType.F32);

    static void EqualSums<TTile>(int m, int n, int k, bool transposeA, bool transposeB, DType type) where TTile : unmanaged, IWarpTile<TTile>
    {
        using Oracle oracle = new(Device, m + n + k);
        double[] a = oracle.Values((long)m * k), b = oracle.Values((long)n * k), expected = new double[m * n];
        Slice c = oracle.Fenced([.. Enumerable.Repeat(double.NaN, m * n)], type);
        MatMulCall call = new(m, n, k) { A = oracle.Put(a), B = oracle.Put(b), C = c, TransposeA = transposeA, TransposeB = transposeB };
        TensorCoreMatMul.Multiply<TTile>(oracle.Device!, call, null, null);
        AddProduct(call, a, b, 1, expected);
        oracle.Close(expected, c, type == DType.BF16 ? 4e-3 : 1e-5, $"{m} x {n} x {k}");
    }

    /// <summary>Adds alpha·op(A)·op(B).</summary>
    static void AddProduct(MatMulCall call, double[] a, double[] b, double alpha, double[] sums)
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
public class DumpPtx
{
    [Fact]
    public void Dump()
    {
        using Oracle oracle = new("emulator-bf16", 1);
        MatMulCall call = new(1, 1, 1) { A = oracle.Put([1.0]), B = oracle.Put([1.0]), C = oracle.Output(1), TransposeB = true };
        try { TensorCoreMatMul.Multiply<WarpTile64x64>(oracle.Device!, call, null, null); }
        finally { System.IO.File.WriteAllText("/tmp/gemm.ptx", ((EmulatedKernel)oracle.Device!.Compiled[^1].Kernel).Ptx); }
    }
}
