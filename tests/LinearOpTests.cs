using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The linear layer as backends offer it, on every device, against plain loops in double.</summary>
[Collection(nameof(HostProducts))]
public class LinearOpTests
{
    const double Scale = 1.75;

    static readonly WeightFormat[] Formats = [WeightFormat.F32, WeightFormat.BF16, WeightFormat.Nf4, WeightFormat.Nf4Double, WeightFormat.Nf4Block128];

    /// <summary>Tokens, inputs, outputs, rank: odd, whole runs of 32 and quads, more than a tile, a decoded token, as many tokens as one pass of a decoding kernel.</summary>
    static readonly (int N, int K, int O, int R)[] Shapes = [(33, 70, 37, 3), (36, 172, 40, 8), (66, 64, 96, 4), (1, 172, 24, 8), (1, 96, 70, 33), (3, 51, 5, 3), (8, 64, 33, 4)];

    public static TheoryData<string> Devices => Oracle.MatrixDevices;

    [Theory, MemberData(nameof(Devices))]
    public void Forward_matchesNaiveLoops(string device)
    {
        using Oracle oracle = new(device, 31);
        foreach (var format in Formats)
        {
            foreach (var (n, k, o, r) in Shapes)
            {
                foreach (bool accumulate in (bool[])[false, true])
                {
                    using Layer layer = new(oracle, format, n, k, o, r);
                    double[] before = oracle.Values((long)n * o);
                    Slice y = accumulate ? oracle.Fenced(before) : oracle.Output(n * o), xa = oracle.Output(n * r);
                    oracle.Backend.LinearForward(layer.XSlice, layer.Weight, layer.BiasSlice, layer.Lora, layer.InputSlice, xa, y, accumulate);
                    var (expected, terms) = layer.Output(accumulate ? before : new double[n * o]);
                    oracle.Close(layer.Projected(), xa, oracle.Sums, $"xa {format} {n} x {k} x {o} rank {r}");
                    oracle.Close(expected, y, oracle.Sums, $"y {format} {n} x {k} x {o} rank {r} accumulate {accumulate}", terms);
                }
            }
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Forward_withoutBiasOrAdapter_isTheProductAlone(string device)
    {
        using Oracle oracle = new(device, 32);
        foreach (int n in (int[])[1, 20])
        {
            using Layer layer = new(oracle, WeightFormat.Nf4Double, n, 64, 35, 0);
            Slice y = oracle.Output(n * 35);
            oracle.Backend.LinearForward(layer.XSlice, layer.Weight, default, null, default, default, y, accumulate: false);
            oracle.Close(layer.Output(new double[n * 35], bias: false).Y, y, oracle.Sums, $"y of {n} tokens");
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Backward_matchesNaiveLoops(string device)
    {
        using Oracle oracle = new(device, 33);
        foreach (var format in Formats)
        {
            foreach (var (n, k, o, r) in Shapes[..4])
            {
                foreach (bool accumulate in (bool[])[false, true])
                {
                    using Layer layer = new(oracle, format, n, k, o, r);
                    double[] dx = Start(n * k), dInput = Start(n * k), dA = oracle.Values(r * k), dB = oracle.Values(o * r), dW = oracle.Values(o * k), dBias = oracle.Values(o);
                    Slice dxSlice = Written(dx), dInputSlice = Written(dInput);
                    Slice dASlice = oracle.FencedParameter(dA), dBSlice = oracle.FencedParameter(dB), dWSlice = oracle.FencedParameter(dW), dBiasSlice = oracle.FencedParameter(dBias);
                    Slice xa = oracle.Output(n * r), y = oracle.Output(n * o);
                    oracle.Backend.LinearForward(layer.XSlice, layer.Weight, layer.BiasSlice, layer.Lora, layer.InputSlice, xa, y, accumulate: false);
                    oracle.Backend.LinearBackward(layer.DySlice, layer.XSlice, layer.InputSlice, layer.Weight, layer.Lora, xa, dxSlice, dInputSlice, accumulate, dASlice, dBSlice, dWSlice, dBiasSlice);
                    string what = $"{format} {n} x {k} x {o} rank {r} accumulate {accumulate}";
                    double sums = oracle.Backend.Activation == DType.BF16 ? oracle.Sums : oracle.SumsParameter;
                    Close(layer.Dx(), dx, dxSlice, oracle.Sums, "dx");
                    Close(layer.DInput(), dInput, dInputSlice, oracle.Sums, "dLoraInput");
                    Close(layer.DA(), dA, dASlice, sums, "dA");
                    Close(layer.DB(), dB, dBSlice, sums, "dB");
                    Close(layer.DW(), dW, dWSlice, sums, "dWeight");
                    Close(layer.DBias(), dBias, dBiasSlice, oracle.SumsParameter, "dBias");

                    double[] Start(int count) => accumulate ? oracle.Values(count) : new double[count];

                    Slice Written(double[] start) => accumulate ? oracle.Fenced(start) : oracle.Output(start.Length);

                    void Close(double[] gradient, double[] start, Slice actual, double tolerance, string name) =>
                        oracle.Close([.. gradient.Zip(start, (g, s) => g + s)], actual, tolerance, $"{name} {what}", Norm(gradient) + Norm(start));
                }
            }
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Backward_withoutAGradientOfItsInput_addsTheAdapterToDx(string device)
    {
        using Oracle oracle = new(device, 34);
        const int n = 20, k = 172, o = 40, r = 3;
        using Layer layer = new(oracle, WeightFormat.Nf4, n, k, o, r);
        Slice xa = oracle.Put(layer.Projected()), dx = oracle.Output(n * k);
        oracle.Backend.LinearBackward(layer.DySlice, layer.XSlice, layer.InputSlice, layer.Weight, layer.Lora, xa, dx, default, false, default, default, default, default);
        oracle.Close([.. layer.Dx().Zip(layer.DInput(), (a, b) => a + b)], dx, oracle.Sums, "dx");
    }

    [Theory, MemberData(nameof(Devices))]
    public void Forward_andBackward_repeatBitForBit(string device)
    {
        using Oracle oracle = new(device, 35);
        using Layer layer = new(oracle, WeightFormat.Nf4Double, 9, 600, 70, 8);
        Slice xa = oracle.Output(9 * 8), y = oracle.Output(9 * 70), dx = oracle.Output(9 * 600);
        Assert.Equal(Run(), Run());

        double[] Run()
        {
            Slice dA = oracle.PutParameter(new double[8 * 600]);
            oracle.Backend.LinearForward(layer.XSlice, layer.Weight, layer.BiasSlice, layer.Lora, layer.InputSlice, xa, y, accumulate: false);
            oracle.Backend.LinearBackward(layer.DySlice, layer.XSlice, layer.InputSlice, layer.Weight, layer.Lora, xa, dx, default, false, dA, default, default, default);
            return [.. oracle.Get(y), .. oracle.Get(dx), .. oracle.Get(dA)];
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void Forward_ofFewTokensAndLongRows_matchesNaiveLoops(string device)
    {
        // More inputs than lie in shared memory at a time, and enough that several warps share an output.
        using Oracle oracle = new(device, 39);
        foreach (var (format, n, k) in ((WeightFormat, int, int)[])[(WeightFormat.Nf4Double, 1, 8224), (WeightFormat.F32, 1, 8301), (WeightFormat.Nf4, 3, 4128)])
        {
            using Layer layer = new(oracle, format, n, k, 5, 3);
            Slice y = oracle.Output(n * 5), xa = oracle.Output(n * 3);
            oracle.Backend.LinearForward(layer.XSlice, layer.Weight, layer.BiasSlice, layer.Lora, layer.InputSlice, xa, y, accumulate: false);
            var (expected, terms) = layer.Output(new double[n * 5]);
            oracle.Close(expected, y, oracle.Sums, $"y {format} {n} x {k}", terms);
        }
    }

    [Theory]
    [InlineData("emulator-bf16", true)]
    [InlineData("emulator-bf16-portable", false)]
    public void Forward_andBackward_runOnTensorCoresWhereTheyMay(string device, bool tensorCores)
    {
        using Oracle oracle = new(device, 38);
        using Layer layer = new(oracle, WeightFormat.Nf4, 70, 64, 40, 8);
        Slice xa = oracle.Output(70 * 8), y = oracle.Output(70 * 40), dx = oracle.Output(70 * 64), dA = oracle.PutParameter(new double[8 * 64]), dB = oracle.PutParameter(new double[40 * 8]);
        var launches = oracle.Device!.Launches(() =>
        {
            oracle.Backend.LinearForward(layer.XSlice, layer.Weight, layer.BiasSlice, layer.Lora, layer.InputSlice, xa, y, accumulate: false);
            oracle.Backend.LinearBackward(layer.DySlice, layer.XSlice, layer.InputSlice, layer.Weight, layer.Lora, xa, dx, default, false, dA, dB, default, default);
        });
        var products = launches.Where(launch => launch.Kernel.EndsWith("MatMul.Kernel", StringComparison.Ordinal)).ToList();
        Assert.Equal(6, products.Count); // xa, y; dB, dxa, dA, dx: each update is part of its product
        Assert.All(products, launch => Assert.Equal(tensorCores, launch.Counters!.MatrixMultiplies > 0));
    }

    [Theory]
    [InlineData("emulator-f32")]
    public void Backward_matchesDifferencesOfTheDevicesOwnForward(string device)
    {
        // The layer is linear in each of its inputs, so steps may be as large as the inputs and rounding stays small beside them.
        const int n = 4, k = 36, o = 20, r = 3;
        using Oracle oracle = new(device, 36);
        using Layer layer = new(oracle, WeightFormat.Nf4Double, n, k, o, r);
        Slice xa = oracle.Output(n * r), y = oracle.Output(n * o), dx = oracle.Output(n * k), dInput = oracle.Output(n * k);
        Slice dA = oracle.FencedParameter(new double[r * k]), dB = oracle.FencedParameter(new double[o * r]);
        Loss(layer.X, layer.Input, layer.A, layer.B);
        oracle.Backend.LinearBackward(layer.DySlice, layer.XSlice, layer.InputSlice, layer.Weight, layer.Lora, xa, dx, dInput, false, dA, dB, default, default);
        Differences("dx", layer.X, dx, moved => Loss(moved, layer.Input, layer.A, layer.B));
        Differences("dLoraInput", layer.Input, dInput, moved => Loss(layer.X, moved, layer.A, layer.B));
        Differences("dA", layer.A, dA, moved => Loss(layer.X, layer.Input, moved, layer.B));
        Differences("dB", layer.B, dB, moved => Loss(layer.X, layer.Input, layer.A, moved));

        double Loss(double[] x, double[] input, double[] a, double[] b)
        {
            LoraFactors factors = new(oracle.PutParameter(a), oracle.PutParameter(b), r, Scale);
            oracle.Backend.LinearForward(oracle.Put(x), layer.Weight, layer.BiasSlice, factors, oracle.Put(input), xa, y, accumulate: false);
            return oracle.Get(y).Zip(layer.Dy, (value, weight) => value * weight).Sum();
        }

        void Differences(string name, double[] at, Slice gradient, Func<double[], double> loss)
        {
            double[] slopes = oracle.Get(gradient);
            for (int direction = 0; direction < 6; direction++)
            {
                double[] step = oracle.Values(at.Length, outliers: 0);
                double difference = (loss([.. at.Zip(step, (x, s) => x + s)]) - loss([.. at.Zip(step, (x, s) => x - s)])) / 2;
                double expected = slopes.Zip(step, (g, s) => g * s).Sum();
                Assert.True(Math.Abs(difference - expected) <= 1e-4 * Norm(slopes) * Norm(step), $"{name}: gradient along a direction {expected:r}, difference {difference:r}");
            }
        }
    }

    [Fact]
    public void Forward_andBackward_runOnIlgpusCpuAccelerator()
    {
        using Oracle oracle = new("simulator-f32", 40);
        using Layer layer = new(oracle, WeightFormat.Nf4Double, 2, 64, 9, 3);
        Slice xa = oracle.Output(2 * 3), y = oracle.Output(2 * 9), dx = oracle.Output(2 * 64);
        oracle.Backend.LinearForward(layer.XSlice, layer.Weight, layer.BiasSlice, layer.Lora, layer.InputSlice, xa, y, accumulate: false);
        oracle.Backend.LinearBackward(layer.DySlice, layer.XSlice, layer.InputSlice, layer.Weight, null, default, dx, default, false, default, default, default, default);
        oracle.Close(layer.Output(new double[2 * 9]).Y, y, oracle.Sums, "y");
        oracle.Close(layer.Dx(), dx, oracle.Sums, "dx");
    }

    [Theory]
    [InlineData("emulator-f32")]
    [InlineData("emulator-bf16")]
    public void Forward_onDevices_namesASliceOfTheWrongSizeOrType(string device)
    {
        using Oracle oracle = new(device, 37);
        using Layer layer = new(oracle, WeightFormat.Nf4, 2, 64, 5, 0);
        Slice y = oracle.Output(9), wrong = oracle.Put(new double[10], DType.F64);
        Assert.Contains("y has 9 elements, expected 10", Assert.Throws<ArgumentException>(() => Call(y)).Message);
        Assert.Contains($"y is F64, expected {oracle.Backend.Activation}", Assert.Throws<ArgumentException>(() => Call(wrong)).Message);

        void Call(Slice output) => oracle.Backend.LinearForward(layer.XSlice, layer.Weight, default, null, default, default, output, false);
    }

    static double Norm(double[] x) => Math.Sqrt(x.Sum(value => value * value));

    /// <summary>A layer whose adapter sees an input of its own, as after dropout.</summary>
    sealed class Layer : IDisposable
    {
        readonly StoredWeight stored;
        readonly int n, k, o, r;
        double[]? dXa, projected;

        public Layer(Oracle oracle, WeightFormat format, int n, int k, int o, int r)
        {
            (this.n, this.k, this.o, this.r) = (n, k, o, r);
            stored = new StoredWeight(o, k, format, 9);
            Weight = stored.On(oracle.Backend);
            (X, Input, Dy) = (oracle.Values(n * k), oracle.Values(n * k), oracle.Values(n * o));
            (Bias, A, B) = (oracle.Values(o), oracle.Values(r * k), oracle.Values(o * r));
            (XSlice, InputSlice, DySlice) = (oracle.Put(X), oracle.Put(Input), oracle.Put(Dy));
            BiasSlice = oracle.PutParameter(Bias);
            Lora = r == 0 ? null : new LoraFactors(oracle.PutParameter(A), oracle.PutParameter(B), r, Scale);
        }

        public Weight Weight { get; }

        public double[] X { get; }

        public double[] Input { get; }

        public double[] Dy { get; }

        public double[] Bias { get; }

        public double[] A { get; }

        public double[] B { get; }

        public Slice XSlice { get; }

        public Slice InputSlice { get; }

        public Slice DySlice { get; }

        public Slice BiasSlice { get; }

        public LoraFactors? Lora { get; }

        public double[] Projected() => projected ??= Sum(n, r, k, (i, p) => Input[i * k + p], (p, j) => A[j * k + p]);

        /// <summary>y, and the norm of the terms it is summed from.</summary>
        public (double[] Y, double Terms) Output(double[] before, bool bias = true)
        {
            double[] product = Sum(n, o, k, (i, p) => X[i * k + p], (p, j) => stored.Values[j * k + p]), xa = Projected();
            double[] update = Sum(n, o, r, (i, p) => Scale * xa[i * r + p], (p, j) => B[j * r + p]);
            double[] y = [.. product.Select((value, i) => value + update[i] + before[i] + (bias ? Bias[i % o] : 0))];
            return (y, Norm(product) + Norm(update) + Norm(before));
        }

        public double[] Dx() => Sum(n, k, o, (i, p) => Dy[i * o + p], (p, j) => stored.Values[p * k + j]);

        public double[] DInput() => Sum(n, k, r, (i, p) => DXa()[i * r + p], (p, j) => A[p * k + j]);

        public double[] DA() => Sum(r, k, n, (i, p) => DXa()[p * r + i], (p, j) => Input[p * k + j]);

        public double[] DB() => Sum(o, r, n, (i, p) => Scale * Dy[p * o + i], (p, j) => Projected()[p * r + j]);

        public double[] DW() => Sum(o, k, n, (i, p) => Dy[p * o + i], (p, j) => X[p * k + j]);

        public double[] DBias() => Sum(1, o, n, (_, _) => 1, (p, j) => Dy[p * o + j]);

        public void Dispose() => stored.Dispose();

        double[] DXa() => dXa ??= Sum(n, r, o, (i, p) => Scale * Dy[i * o + p], (p, j) => B[p * r + j]);


        static double[] Sum(int rows, int columns, int terms, Func<int, int, double> left, Func<int, int, double> right)
        {
            var result = new double[rows * columns];
            for (int i = 0; i < rows; i++)
            {
                for (int j = 0; j < columns; j++)
                {
                    for (int p = 0; p < terms; p++)
                    {
                        result[i * columns + j] += left(i, p) * right(p, j);
                    }
                }
            }

            return result;
        }
    }
}
