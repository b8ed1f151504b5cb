using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// One device under test: puts inputs into its memory, hands out outputs that are poisoned and fenced, and compares them with what <see cref="Naive"/> says.
/// Inputs are drawn from a seed that every failure prints, and rounded to float, so that all devices see the same numbers.
/// </summary>
/// <param name="device">One of <see cref="TestDevices"/>.</param>
/// <param name="seed">Of the inputs.</param>
/// <param name="exactIn">The type that holds drawn inputs exactly; the device's own for activations, if left out.</param>
sealed class Oracle(string device, int seed, DType? exactIn = null) : IDisposable
{
    const int Fence = 16;
    const float Poison = float.NaN;
    const float Canary = -12345.678f;

    readonly Dictionary<nint, Slice> fenced = [];
    readonly Random random = new(seed);

    /// <summary>The devices that every operation is tested on.</summary>
    public static TheoryData<string> Devices => TestDevices.All.Rows();

    /// <summary>The devices that matrix products and attention are tested on.</summary>
    public static TheoryData<string> MatrixDevices => TestDevices.Matrix.Rows();

    public Backend Backend { get; } = TestDevices.Open(device);

    /// <summary>The device that kernels run on, mostly a thousand times slower than a GPU, so that tests keep to small shapes; null on the host.</summary>
    public KernelDevice? Device => TestDevices.DeviceOf(Backend);

    /// <summary>Allowed relative error where no sum is formed.</summary>
    public double Exact => ExactIn(Backend.Activation);

    /// <summary>Allowed relative error of sums.</summary>
    public double Sums => SumsIn(Backend.Activation);

    /// <summary>Allowed relative error where no sum is formed, of a result in the type of parameters.</summary>
    public double ExactParameter => ExactIn(Backend.Parameter);

    /// <summary>Allowed relative error of sums in the type of parameters.</summary>
    public double SumsParameter => SumsIn(Backend.Parameter);

    static double ExactIn(DType type) => type switch { DType.F64 => 1e-14, DType.F32 => 1e-6, _ => 4e-3 };

    static double SumsIn(DType type) => type switch { DType.F64 => 1e-13, DType.F32 => 1e-5, _ => 1e-2 };

    /// <summary>Normal numbers with an occasional outlier of 20 times their size, as activations of language models have them; all of them exact in the device's activation type.</summary>
    public double[] Values(long count, double outliers = 0.01)
    {
        var values = new double[count];
        foreach (ref double value in values.AsSpan())
        {
            double normal = Math.Sqrt(-2 * Math.Log(1 - random.NextDouble())) * Math.Cos(2 * Math.PI * random.NextDouble());
            value = Stored(random.NextDouble() < outliers ? 20 * normal : normal);
        }

        return values;
    }

    public int[] Integers(int count, int below) => [.. Enumerable.Range(0, count).Select(_ => random.Next(below))];

    public Slice Put(double[] values) => Put(values, Backend.Activation);

    /// <summary>A norm weight, a low-rank factor, a moment: what is in the type of parameters.</summary>
    public Slice PutParameter(double[] values) => Put(values, Backend.Parameter);

    public Slice Put(double[] values, DType type)
    {
        Slice slice = Backend.Allocate(type, values.Length, "test");
        Backend.Upload(Encode(values, type), slice);
        return slice;
    }

    public Slice Put(int[] values)
    {
        Slice slice = Backend.Allocate(DType.I32, values.Length, "test");
        Backend.Upload(MemoryMarshal.AsBytes<int>(values), slice);
        return slice;
    }

    /// <summary>An output: NaN all over, between canaries that <see cref="Get"/> looks after.</summary>
    public Slice Output(long count) => Fenced([.. Enumerable.Repeat((double)Poison, (int)count)], Backend.Activation);

    /// <summary>An output in the type of parameters.</summary>
    public Slice OutputParameter(long count) => Fenced([.. Enumerable.Repeat((double)Poison, (int)count)], Backend.Parameter);

    /// <summary>An output that starts as <paramref name="values"/>: for what is added to.</summary>
    public Slice Fenced(double[] values) => Fenced(values, Backend.Activation);

    /// <summary>A gradient of a parameter, which is added to.</summary>
    public Slice FencedParameter(double[] values) => Fenced(values, Backend.Parameter);

    public Slice Fenced(double[] values, DType type)
    {
        IEnumerable<double> fence = Enumerable.Repeat((double)Canary, Fence);
        Slice whole = Put([.. fence, .. values, .. fence], type);
        Slice inner = whole.Range(Fence, values.Length);
        fenced[inner.Address] = whole;
        return inner;
    }

    /// <summary>The elements of a slice; of a fenced one, after a look at its canaries.</summary>
    public double[] Get(Slice slice)
    {
        if (fenced.TryGetValue(slice.Address, out Slice whole))
        {
            double[] all = Decode(whole), canary = Decode(Encode([Canary], slice.Type), slice.Type);
            Assert.All(all[..Fence].Concat(all[^Fence..]), x => Assert.Equal(canary[0], x));
        }

        return Decode(slice);
    }

    /// <summary>
    /// ‖actual − expected‖ / ‖expected‖ within <paramref name="tolerance"/>; a NaN fails. Where the expected numbers are differences of larger
    /// ones, <paramref name="terms"/> is the norm of these, and the error is relative to it.
    /// </summary>
    public void Close(double[] expected, Slice actual, double tolerance, string what, double terms = 0)
    {
        double[] values = Get(actual);
        Assert.Equal(expected.Length, values.Length);
        double error = 0, size = 0, worst = -1;
        int at = 0;
        for (int i = 0; i < expected.Length; i++)
        {
            double difference = Math.Abs(values[i] - expected[i]);
            error += difference * difference;
            size += expected[i] * expected[i];
            if (!(difference <= worst))
            {
                (worst, at) = (double.IsNaN(difference) ? double.PositiveInfinity : difference, i);
            }
        }

        double relative = Math.Sqrt(error) / Math.Max(Math.Max(Math.Sqrt(size), terms), double.Epsilon);
        if (error != 0 && !(relative <= tolerance))
        {
            Assert.Fail($"{what} on {device}, seed {seed}: relative error {relative:g3}, allowed {tolerance:g3}. " +
                $"Worst at {at} of {expected.Length}: expected {expected[at]:r}, got {values[at]:r}.");
        }
    }

    /// <summary>What <paramref name="run"/> computes comes out the same, bit for bit, when it runs again and for any number of threads.</summary>
    public static void Repeats(Func<double[]> run)
    {
        int before = Workers.Count;
        double[] first = run();
        try
        {
            foreach (int threads in (ReadOnlySpan<int>)[1, 2, 3, 7, before])
            {
                Workers.Count = threads;
                Assert.Equal(first.Select(BitConverter.DoubleToInt64Bits), run().Select(BitConverter.DoubleToInt64Bits));
            }
        }
        finally
        {
            Workers.Count = before;
        }
    }

    public void Dispose() => Backend.Dispose();

    /// <summary>The value nearest to this that a float and the type of inputs hold.</summary>
    double Stored(double value) => (exactIn ?? Backend.Activation) == DType.BF16 ? BitConverter.UInt32BitsToSingle((uint)Intrinsics.NarrowToBf16((float)value) << 16) : (float)value;

    static byte[] Encode(double[] values, DType type) => type switch
    {
        DType.F32 => MemoryMarshal.AsBytes<float>(Array.ConvertAll(values, x => (float)x)).ToArray(),
        DType.F64 => MemoryMarshal.AsBytes<double>(values).ToArray(),
        DType.F16 => MemoryMarshal.AsBytes<Half>(Array.ConvertAll(values, x => (Half)x)).ToArray(),
        DType.BF16 => MemoryMarshal.AsBytes<ushort>(Array.ConvertAll(values, x => Intrinsics.NarrowToBf16((float)x))).ToArray(),
        DType.I32 => MemoryMarshal.AsBytes<int>(Array.ConvertAll(values, x => (int)x)).ToArray(),
        DType.I64 => MemoryMarshal.AsBytes<long>(Array.ConvertAll(values, x => (long)x)).ToArray(),
        _ => Array.ConvertAll(values, x => (byte)x),
    };

    double[] Decode(Slice slice)
    {
        byte[] bytes = new byte[slice.Bytes];
        Backend.Download(slice, bytes);
        return Decode(bytes, slice.Type);
    }

    static double[] Decode(byte[] bytes, DType type) => type switch
    {
        DType.F32 => Array.ConvertAll(MemoryMarshal.Cast<byte, float>(bytes).ToArray(), x => (double)x),
        DType.F64 => MemoryMarshal.Cast<byte, double>(bytes).ToArray(),
        DType.F16 => Array.ConvertAll(MemoryMarshal.Cast<byte, Half>(bytes).ToArray(), x => (double)x),
        DType.BF16 => Array.ConvertAll(MemoryMarshal.Cast<byte, ushort>(bytes).ToArray(), x => (double)BitConverter.UInt32BitsToSingle((uint)x << 16)),
        DType.I32 => Array.ConvertAll(MemoryMarshal.Cast<byte, int>(bytes).ToArray(), x => (double)x),
        DType.I64 => Array.ConvertAll(MemoryMarshal.Cast<byte, long>(bytes).ToArray(), x => (double)x),
        _ => Array.ConvertAll(bytes, x => (double)x),
    };
}
