using CsCheck;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

public class CopyTests
{
    public static TheoryData<string> Devices => Oracle.Devices;

    [Theory, MemberData(nameof(Devices))]
    public void Copy_betweenFloatTypes_roundsOnceToNearestEven(string device)
    {
        using Oracle oracle = new(device, 11);
        double[] ties = [1 + 1.0 / 256, 1 + 3.0 / 256, 1 + 1.0 / 2048, 1 + 3.0 / 2048, -1 - 1.0 / 256, 65520, 65519, 3.4e38, 1e-40, 1e-8, 0, -0.0];
        // Just above and below a tie of bfloat16 and of half, closer than a float can tell: two roundings would go wrong.
        double[] nearTies = [.. ties[..4].SelectMany(x => new[] { x + 1e-12, x - 1e-12, -x - 1e-12 })];
        int count = oracle.Device is null ? 5000 : 500;
        double[] values = [.. ties, .. nearTies, .. oracle.Values(count), .. oracle.Values(count).Select(x => x * 1.000000123456789)];
        foreach (DType from in Floats(oracle))
        {
            Slice source = oracle.Put([.. values.Select(x => Round(x, from))], from);
            double[] read = oracle.Get(source);
            foreach (DType to in Floats(oracle))
            {
                Slice copy = oracle.Fenced(new double[values.Length], to);
                oracle.Backend.Copy(source, copy);
                Assert.Equal(read.Select(x => Round(x, to)), oracle.Get(copy));
            }
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Copy_notANumberAndInfinity_stay(string device)
    {
        using Oracle oracle = new(device, 1);
        double[] values = [double.NaN, double.PositiveInfinity, double.NegativeInfinity, 1];
        foreach (DType from in Floats(oracle))
        {
            foreach (DType to in Floats(oracle))
            {
                Slice copy = oracle.Put(new double[4], to);
                oracle.Backend.Copy(oracle.Put(values, from), copy);
                Assert.Equal(values, oracle.Get(copy));
            }
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Copy_sameTypeManyElements_copiesExactly(string device)
    {
        using Oracle oracle = new(device, 1);
        foreach (DType type in Enum.GetValues<DType>())
        {
            double[] values = [.. oracle.Integers(50_001, 200).Select(x => (double)x)];
            Slice copy = oracle.Fenced(new double[values.Length], type);
            oracle.Backend.Copy(oracle.Put(values, type), copy);
            Assert.Equal(values, oracle.Get(copy));
        }
    }

    [Fact]
    public void Copy_doublesToFloatsOnADevice_saysWhatItConverts()
    {
        using Oracle oracle = new("emulator-f32", 1);
        Slice doubles = oracle.Put([1, 2], DType.F64), floats = oracle.Put([1, 2], DType.F32);
        Assert.Contains("F64 to F32 on emulator, expected two of F32, BF16 and F16", Assert.Throws<ArgumentException>(() => oracle.Backend.Copy(doubles, floats)).Message);
        Assert.Throws<ArgumentException>(() => oracle.Backend.Copy(floats, doubles));
    }

    [Fact]
    public void Copy_integersToFloats_throws()
    {
        using Oracle oracle = new("cpu", 1);
        Assert.Throws<ArgumentException>(() => oracle.Backend.Copy(oracle.Put([1, 2]), oracle.Put([1.0, 2])));
        Assert.Throws<ArgumentException>(() => oracle.Backend.Copy(oracle.Put([1.0, 2]), oracle.Put([1, 2])));
    }

    [Theory]
    [InlineData(7)]
    [InlineData(9)]
    public void UploadAndDownload_otherNumberOfBytes_throw(int bytes)
    {
        using Oracle oracle = new("cpu", 1);
        Slice two = oracle.Put([1.0, 2]);
        Assert.Contains($"source has {bytes} bytes, expected 8", Assert.Throws<ArgumentException>(() => oracle.Backend.Upload(new byte[bytes], two)).Message);
        Assert.Contains($"destination has {bytes} bytes, expected 8", Assert.Throws<ArgumentException>(() => oracle.Backend.Download(two, new byte[bytes])).Message);
    }

    [Fact]
    public void ToBFloat16_anyNumber_isNearest() =>
        Gen.Double.Where(double.IsFinite).Sample(x =>
        {
            Assert.Equal(Naive.RoundToBFloat16(x), Conversion.FromBFloat16(Conversion.ToBFloat16(x)));
            float single = (float)x;
            Assert.Equal(float.IsFinite(single) ? Naive.RoundToBFloat16(single) : single, Conversion.FromBFloat16(Conversion.ToBFloat16(single)));
        }, iter: 20_000, threads: 1);

    /// <summary>What a device converts between.</summary>
    static DType[] Floats(Oracle oracle) => oracle.Device is null ? [DType.F32, DType.F64, DType.BF16, DType.F16] : [DType.F32, DType.BF16, DType.F16];

    static double Round(double x, DType type) => type switch
    {
        DType.F32 => (float)x,
        DType.F16 => (double)(Half)x,
        DType.BF16 => Naive.RoundToBFloat16(x),
        _ => x,
    };
}
