using System.Runtime.InteropServices;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>NF4 on kernel devices: the bytes of the host, and no more memory traffic than the format asks for.</summary>
public class Nf4KernelTests
{
    [Theory]
    [InlineData(1, 64)]
    [InlineData(65, 64)]
    [InlineData(200, 32)]
    [InlineData(9000, 128)]
    [InlineData(40_001, 4096)]
    public void Quantize_givesTheBytesOfTheHost(int count, int blockSize)
    {
        using Oracle oracle = new("emulator-f32", 41);
        foreach (var type in (DType[])[DType.F32, DType.BF16])
        {
            double[] values = [.. oracle.Values(count).Select(value => type == DType.BF16 ? Naive.RoundToBFloat16(value) : value)];
            CheckQuantize(oracle, values, type, blockSize);
        }
    }

    [Fact]
    public void Quantize_aWeightOnAThreshold_takesTheLowerCode_andExtremesStayFinite()
    {
        using Oracle oracle = new("emulator-f32", 42);
        float[] thresholds = Nf4.Thresholds.ToArray();
        CheckQuantize(oracle, [1, .. thresholds, .. thresholds.Select(MathF.BitIncrement)], DType.F32, 64);
        CheckQuantize(oracle, [.. new double[64], float.Epsilon, -1e-42f, .. new double[62], float.MaxValue, -float.MaxValue / 2, 1], DType.F32, 64);
    }

    [Fact]
    public void Quantize_aWholeModel_givesTheBytesOfTheTorchReference()
    {
        using Oracle oracle = new("emulator-f32", 43);
        using var model = WeightFiles.Open(TestAssets.Path("golden/cases/qlora_nf4/model"));
        using var expected = Safetensors.Open(TestAssets.Path("golden/cases/qlora_nf4/nf4.safetensors"));
        foreach (string name in expected.Tensors.Select(info => info.Name).Where(name => name.EndsWith(".packed")).Select(name => name["nf4.".Length..^".packed".Length]))
        {
            var weights = new float[model.Find(name)!.Count];
            model.Read(name, weights);
            var (packed, absMax) = Quantize(oracle, Array.ConvertAll(weights, x => (double)x), DType.F32, 64);
            Assert.True(expected.Bytes($"nf4.{name}.packed").SequenceEqual(packed), name);
            Assert.True(expected.Bytes($"nf4.{name}.absmax").SequenceEqual(MemoryMarshal.AsBytes<float>(absMax)), name);
        }
    }

    [Fact]
    public void Quantize_aWeightThatIsNotFinite_namesItsBlock()
    {
        using Oracle oracle = new("emulator-f32", 44);
        double[] values = oracle.Values(200);
        values[130] = double.NaN;
        Assert.Contains("from 128 on, in block 2, is not a finite number", Assert.Throws<ArgumentException>(() => Quantize(oracle, values, DType.F32, 64)).Message);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(256)]
    [InlineData(1000)]
    public void DoubleQuantize_givesTheBytesOfTheHost(int count)
    {
        using Oracle oracle = new("emulator-f32", 45);
        float[] absMax = [.. oracle.Values(count).Select(value => (float)Math.Abs(value))];
        Slice codes = oracle.Put(new double[count], DType.U8), nested = oracle.OutputParameter((count + 255) / 256);
        using var scratch = new ScratchBuffers(oracle.Device!);
        float offset = Nf4Kernels.DoubleQuantize(oracle.Device!, scratch, oracle.PutParameter(Array.ConvertAll(absMax, x => (double)x)), codes, nested);
        var expected = new byte[count];
        var expectedNested = new float[(count + 255) / 256];
        Assert.Equal(Nf4.DoubleQuantize(absMax, expected, expectedNested), offset);
        Assert.Equal(Array.ConvertAll(expected, x => (double)x), oracle.Get(codes));
        Assert.Equal(Array.ConvertAll(expectedNested, x => (double)x), oracle.Get(nested));
    }

    [Theory]
    [InlineData(WeightFormat.Nf4)]
    [InlineData(WeightFormat.Nf4Double)]
    [InlineData(WeightFormat.Nf4Block128)]
    internal void Dequantize_isTableTimesScale_bitForBit(WeightFormat format)
    {
        foreach (string device in TestDevices.WithKernels)
        {
            using Oracle oracle = new(device, 46);
            foreach (var (rows, columns) in ((int, int)[])[(1, 1), (7, 13), (3, 64), (90, 413)])
            {
                using StoredWeight stored = new(rows, columns, format, 5);
                foreach (var type in (DType[])[DType.F32, DType.BF16])
                {
                    Slice restored = oracle.Fenced([.. stored.Values.Select(_ => double.NaN)], type);
                    Nf4Kernels.Dequantize(oracle.Device!, stored.On(oracle.Backend), restored);
                    Assert.Equal(stored.Values.Select(value => type == DType.BF16 ? Naive.RoundToBFloat16(value) : value), oracle.Get(restored));
                }
            }
        }
    }

    [Theory]
    [InlineData(WeightFormat.Nf4, DType.F32)]
    [InlineData(WeightFormat.Nf4, DType.BF16)]
    [InlineData(WeightFormat.Nf4Double, DType.F32)]
    [InlineData(WeightFormat.Nf4Double, DType.BF16)]
    internal void Dequantize_movesTheBytesOfTheFormat(WeightFormat format, DType type)
    {
        using Oracle oracle = new("emulator-f32", 47);
        using StoredWeight stored = new(512, 128, format, 5);
        var weight = stored.On(oracle.Backend);
        Slice restored = oracle.Put(new double[512 * 128], type);
        var launch = oracle.Device!.Launch(() => Nf4Kernels.Dequantize(oracle.Device!, weight, restored));
        var counters = launch.Counters!;
        Assert.InRange(counters.SectorBytes(), 0, 1.1 * (weight.Bytes + restored.Bytes));
        Assert.Equal(counters.GlobalStoreRequests * 32 * 4 * type.Size(), counters.GlobalStoreBytes);
        string ptx = launch.Ptx();
        Assert.Contains("ld.global.v4", ptx);
        KernelRecords.CheckMemory(ptx, $"decoding {format}");
    }

    internal static void CheckQuantize(Oracle oracle, double[] values, DType type, int blockSize)
    {
        var (packed, absMax) = Quantize(oracle, values, type, blockSize);
        var expected = new byte[packed.Length];
        var expectedAbsMax = new float[absMax.Length];
        Nf4.Quantize(Array.ConvertAll(values, x => (float)x), expected, expectedAbsMax, blockSize);
        Assert.Equal(expected, packed);
        Assert.Equal(expectedAbsMax, absMax);
    }

    static (byte[] Packed, float[] AbsMax) Quantize(Oracle oracle, double[] values, DType type, int blockSize)
    {
        Slice packed = oracle.Fenced(new double[(values.Length + 1) / 2], DType.U8), absMax = oracle.OutputParameter((values.Length + blockSize - 1) / blockSize);
        Nf4Kernels.Quantize(oracle.Device!, oracle.Put(values, type), packed, absMax, blockSize);
        return (Array.ConvertAll(oracle.Get(packed), x => (byte)x), Array.ConvertAll(oracle.Get(absMax), x => (float)x));
    }
}
