using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Products with 4-bit weights on tensor cores, against plain sums in double precision of the decoded weights, rounded to bfloat16.</summary>
public class Nf4TensorCoreMatMulTests
{
    const string Device = "emulator-bf16";

    [Theory]
    [InlineData(nameof(WeightFormat.Nf4))]
    [InlineData(nameof(WeightFormat.Nf4Double))]
    [InlineData(nameof(WeightFormat.Nf4Block128))]
    public void Multiply_decodes_within_the_product_for_few_rows(string format)
    {
        Check(17, 70, 96, Enum.Parse<WeightFormat>(format), transpose: true, DType.F32);
        Check(65, 33, 64, Enum.Parse<WeightFormat>(format), transpose: true, DType.BF16);
        Check(20, 96, 70, Enum.Parse<WeightFormat>(format), transpose: false, DType.F32);
        Check(128, 64, 129, Enum.Parse<WeightFormat>(format), transpose: false, DType.BF16);
    }

    [Theory]
    [InlineData(nameof(WeightFormat.Nf4))]
    [InlineData(nameof(WeightFormat.Nf4Double))]
    public void Multiply_decodes_first_for_many_rows_and_for_rows_that_are_not_whole_words(string format)
    {
        Check(129, 32, 64, Enum.Parse<WeightFormat>(format), transpose: true, DType.F32, nameof(Nf4Kernels));
        Check(18, 35, 171, Enum.Parse<WeightFormat>(format), transpose: true, DType.F32, nameof(Nf4Kernels));
        Check(18, 43, 35, Enum.Parse<WeightFormat>(format), transpose: false, DType.BF16, nameof(Nf4Kernels));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Multiply_gives_the_bits_of_a_product_with_the_restored_weight(bool transpose)
    {
        using Oracle oracle = new(Device, 4);
        using StoredWeight stored = new(96, 64, WeightFormat.Nf4Double, 5);
        using var scratch = new ScratchBuffers(oracle.Device!);
        var weight = stored.On(oracle.Backend);
        int m = 66, n = transpose ? 96 : 64, k = transpose ? 64 : 96;
        Slice fused = oracle.Fenced(new double[m * n], DType.F32), restored = oracle.Fenced(new double[m * n], DType.F32), dense = oracle.Put(new double[96 * 64]);
        MatMulCall call = new(m, n, k) { A = oracle.Put(oracle.Values(m * k)), B = dense, C = restored, TransposeB = transpose };
        Nf4Kernels.Dequantize(oracle.Device!, weight, dense);
        TensorCoreMatMul.Multiply(oracle.Device!, call);
        Nf4TensorCoreMatMul.Multiply(oracle.Device!, scratch, call with { C = fused }, weight);
        Assert.Equal(oracle.Get(restored), oracle.Get(fused));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Multiply_in_parts_matches_and_repeats(bool transpose)
    {
        double[] first = Check(17, 32, 544, WeightFormat.Nf4Double, transpose, DType.F32, nameof(TensorCoreMatMul));
        Assert.Equal(first, Check(17, 32, 544, WeightFormat.Nf4Double, transpose, DType.F32, nameof(TensorCoreMatMul)));
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Multiply_decodes_without_bank_conflicts(bool transpose)
    {
        using Oracle oracle = new(Device, 5);
        using StoredWeight weight = new(64, 64, WeightFormat.Nf4, 6);
        using var scratch = new ScratchBuffers(oracle.Device!);
        MatMulCall call = new(64, 64, 64) { A = oracle.Put(oracle.Values(64 * 64)), B = default, C = oracle.Fenced(new double[64 * 64], DType.F32), TransposeB = transpose };
        var stored = weight.On(oracle.Backend);
        var launch = oracle.Device!.Launch(() => Nf4TensorCoreMatMul.Multiply(oracle.Device!, scratch, call, stored));
        var counters = launch.Counters!;
        Assert.Equal(64 / 16 * (64 / 8) * (64 / 16), counters.MatrixMultiplies);

        // Codes are looked up 32 at a time, in 16 banks: a wavefront each. All else moves 128 bytes a wavefront.
        long lookups = 64 * 64 / 32, table = 1;
        Assert.Equal(lookups + table + (counters.SharedBytes - 4 * 64 * 64 - 4 * 16) / 128, counters.SharedWavefronts);
        Assert.Equal(64 * 64 * 2 / 32 + 64 * 64 / 2 / 32 + 64 / 8, counters.GlobalLoadSectors); // x, codes, and scales of 64 rows, 8 of them a sector
        Assert.Equal(0, counters.LocalBytes);
        string ptx = launch.Ptx();
        Assert.Contains("ld.global.v4", ptx);
        KernelRecords.CheckMemory(ptx, "TensorCoreMatMul.Kernel");
    }

    [Fact]
    public void Multiply_says_what_is_wrong_with_a_weight()
    {
        using Oracle oracle = new(Device, 7);
        using StoredWeight weight = new(4, 32, WeightFormat.Nf4, 8), dense = new(4, 32, WeightFormat.BF16, 9);
        using var scratch = new ScratchBuffers(oracle.Device!);
        MatMulCall call = new(1, 4, 32) { A = oracle.Put(oracle.Values(32)), B = default, C = oracle.Output(4) };
        Assert.Contains("the weight is [4, 32], expected [32, 4]", Fails(weight, call));
        Assert.Contains("the weight is BF16, expected NF4", Fails(dense, call with { TransposeB = true }));
        string Fails(StoredWeight wrong, MatMulCall with) =>
            Assert.Throws<ArgumentException>(() => Nf4TensorCoreMatMul.Multiply(oracle.Device!, scratch, with, wrong.On(oracle.Backend))).Message;
    }

    static double[] Check(int m, int n, int k, WeightFormat format, bool transpose, DType type, params string[] beside)
    {
        List<double[]> results = [.. TestDevices.WithTensorCores.Select(device => CheckOn(device, m, n, k, format, transpose, type, beside))];
        return results[0];
    }

    static double[] CheckOn(string device, int m, int n, int k, WeightFormat format, bool transpose, DType type, string[] beside)
    {
        const int rank = 8;
        using Oracle oracle = new(device, m + n + k);
        using StoredWeight weight = transpose ? new(n, k, format, 1) : new(k, n, format, 1);
        using var scratch = new ScratchBuffers(oracle.Device!);
        double[] a = oracle.Values(m * k), x = oracle.Values(m * rank), y = oracle.Values(n * rank), before = oracle.Values(m * n), bias = oracle.Values(n);
        Slice c = oracle.Fenced(before, type);
        MatMulCall call = new(m, n, k) { A = oracle.Put(a), B = default, C = c, TransposeB = transpose, Alpha = 0.5f, Accumulate = true, Bias = oracle.PutParameter(bias) };
        MatMulCall extension = call with { K = rank, A = oracle.Put(x), B = oracle.Put(y), Alpha = 2 };
        double[] sums = new double[m * n];
        TensorCoreMatMulTests.AddProduct(call, a, Array.ConvertAll(weight.Values, Rounded), 1, sums);
        TensorCoreMatMulTests.AddProduct(extension, x, y, 2, sums);
        var stored = weight.On(oracle.Backend);
        var launches = oracle.Device!.Launches(() => Nf4TensorCoreMatMul.Multiply(oracle.Device!, scratch, call, stored, extension));
        Assert.Equal(beside, launches.Select(launch => launch.Kernel).Where(kernel => kernel != "TensorCoreMatMul.Kernel").Select(kernel => kernel.Split('.')[0]).Distinct());
        oracle.Close([.. sums.Select((sum, i) => before[i] + bias[i % n] + 0.5 * sum)], c, type == DType.BF16 ? 4e-3 : 1e-5, $"{m} x {n} x {k} {format} {transpose}");
        return oracle.Get(c);
    }

    static double Rounded(double value) => BitConverter.UInt32BitsToSingle((uint)Intrinsics.NarrowToBf16((float)value) << 16);
}
