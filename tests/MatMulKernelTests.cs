using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Dense products of kernel devices, in all layouts and element types, against plain loops in double.</summary>
public class MatMulKernelTests
{
    static readonly (int M, int N, int K)[] Shapes = [(1, 1, 1), (5, 37, 70), (8, 172, 24), (65, 3, 33), (70, 68, 36), (12, 16, 530)];

    public static TheoryData<string> KernelDevices => TestDevices.MatrixWithKernels.Rows();

    [Theory]
    [MemberData(nameof(KernelDevices))]
    public void Multiply_matches_naive_loops_in_every_layout(string device)
    {
        using Oracle oracle = new(device, 11);
        foreach (var (m, n, k) in Shapes)
        {
            for (int variant = 0; variant < 8; variant++)
            {
                bool ta = (variant & 1) != 0, tb = (variant & 2) != 0, accumulate = (variant & 4) != 0;
                Check(oracle, m, n, k, ta, tb, accumulate, oracle.Backend.Activation, oracle.Backend.Activation, oracle.Backend.Activation);
            }
        }
    }

    [Theory]
    [InlineData(DType.F32, DType.BF16, DType.F32)]
    [InlineData(DType.BF16, DType.F32, DType.F32)]
    [InlineData(DType.BF16, DType.BF16, DType.F32)]
    [InlineData(DType.F32, DType.F32, DType.BF16)]
    [InlineData(DType.F32, DType.F16, DType.F32)]
    public void Multiply_takes_operands_of_different_types(DType a, DType b, DType c)
    {
        using Oracle oracle = new("emulator-bf16-portable", 12);
        Check(oracle, 9, 20, 40, false, true, false, a, b, c);
        Check(oracle, 9, 20, 40, true, false, true, a, b, c);
    }

    [Fact]
    public void Multiply_without_terms_gives_the_bias()
    {
        using Oracle oracle = new("emulator-f32", 13);
        Slice bias = oracle.Put([1.0, 2, 3]), c = oracle.Output(6), some = oracle.Put([0.0]);
        Multiply(oracle, new MatMulCall(2, 3, 0) { A = some.Range(0, 0), B = some.Range(0, 0), C = c, Bias = bias });
        oracle.Close([1, 2, 3, 1, 2, 3], c, 0, "bias");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Multiply_portable_reads_shared_memory_without_bank_conflicts(bool transpose)
    {
        using Oracle oracle = new("emulator-f32", 14);
        foreach (var type in (DType[])[DType.F32, DType.BF16])
        {
            MatMulCall call = new(64, 64, 64)
            {
                A = oracle.Put(oracle.Values(64 * 64), type),
                B = oracle.Put(oracle.Values(64 * 64), type),
                C = oracle.Output(64 * 64),
                TransposeA = transpose,
                TransposeB = !transpose,
            };
            var counters = oracle.Device!.Counters(() => Multiply(oracle, call));

            // Four 16-byte reads a term and thread, a wavefront each quarter warp: 16 a warp. The tiles: 2 operands of 64 x 64 floats, 128 bytes a wavefront.
            Assert.Equal(2 * 64 * 16 + 2 * 64 * 64 / 32, counters.SharedWavefronts);
            Assert.Equal(2 * 64 * 64 * type.Size() / 32, counters.GlobalLoadSectors);
        }
    }

    static void Check(Oracle oracle, int m, int n, int k, bool ta, bool tb, bool accumulate, DType typeA, DType typeB, DType typeC)
    {
        const float alpha = -0.75f;
        double[] a = oracle.Values(m * k), b = oracle.Values(k * n), bias = oracle.Values(n), before = oracle.Values(m * n);
        Slice c = oracle.Fenced(accumulate ? before : [.. before.Select(_ => double.NaN)], typeC);
        Multiply(oracle, new MatMulCall(m, n, k)
        {
            A = oracle.Put(a, typeA),
            B = oracle.Put(b, typeB),
            C = c,
            Alpha = alpha,
            Bias = oracle.PutParameter(bias),
            Accumulate = accumulate,
            TransposeA = ta,
            TransposeB = tb,
        });
        var expected = new double[m * n];
        double terms = 0;
        for (int i = 0; i < m; i++)
        {
            for (int j = 0; j < n; j++)
            {
                double sum = bias[j] + (accumulate ? before[i * n + j] : 0), size = Math.Abs(sum);
                for (int p = 0; p < k; p++)
                {
                    double term = alpha * a[ta ? p * m + i : i * k + p] * b[tb ? j * k + p : p * n + j];
                    sum += term;
                    size += Math.Abs(term);
                }

                expected[i * n + j] = sum;
                terms += size * size;
            }
        }

        double tolerance = typeC == DType.BF16 || (typeA, typeB) != (DType.F32, DType.F32) ? 1e-2 : 1e-5;
        oracle.Close(expected, c, tolerance, $"{m} x {n} x {k} transposed {ta} {tb} accumulate {accumulate}", Math.Sqrt(terms));
    }

    static void Multiply(Oracle oracle, MatMulCall call)
    {
        using var scratch = new ScratchBuffers(oracle.Device!);
        bool tensorCores = oracle.Backend is KernelBackend<BF16> { UsesTensorCores: true };
        MatMulKernels.Multiply(oracle.Device!, scratch, tensorCores, call);
    }
}
