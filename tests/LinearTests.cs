using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

[Collection(nameof(HostProducts))]
public sealed class LinearTests
{
    const int N = 5, K = 70, O = 37, R = 3;
    const double Scale = 1.75;

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Forward_matches_naive_loops(bool accumulate)
    {
        using var layer = new Layer(WeightFormat.Nf4);
        using var y = new HostMatrix<double>(N, O, O, 20);
        using var xa = new HostMatrix<double>(N, R, R, 21);
        var before = y.ToArray();
        xa.Poison();
        y.Poison(!accumulate);
        Linear.Forward<double>(layer.X.Slice, layer.Weight, layer.Bias.Slice, layer.Lora, layer.Dropped.Slice, xa.Slice, y.Slice, accumulate);
        var expected = layer.Output();
        var projected = new double[N, R];
        for (int n = 0; n < N; n++)
        {
            for (int o = 0; o < O; o++)
            {
                expected[n, o] += accumulate ? before[n * O + o] : 0;
            }

            for (int r = 0; r < R; r++)
            {
                projected[n, r] = layer.Projected(n, r);
            }
        }

        y.AssertClose(expected, 1e-12, "y");
        xa.AssertClose(projected, 1e-12, "xa");
    }

    [Fact]
    public void Forward_without_lora_input_projects_x()
    {
        using var layer = new Layer(WeightFormat.F64);
        using var y = new HostMatrix<double>(N, O, O, 20);
        using var same = new HostMatrix<double>(N, O, O, 20);
        using var xa = new HostMatrix<double>(N, R, R, 21);
        Linear.Forward<double>(layer.X.Slice, layer.Weight, default, layer.Lora, default, xa.Slice, y.Slice, false);
        Linear.Forward<double>(layer.X.Slice, layer.Weight, default, layer.Lora, layer.X.Slice, xa.Slice, same.Slice, false);
        Assert.Equal(same.ToArray(), y.ToArray());
    }

    [Fact]
    public void Products_refuse_slices_of_another_element_type()
    {
        // F64 slices in place of F32 ones of the same length: read as floats they would give noise, written as floats they would be half filled.
        using var backend = new HostBackend<float>();
        Slice Zeros(long length, DType type = DType.F32) => backend.Allocate(type, length, "test");
        const int n = 2, k = 32, o = 3, r = 1;
        Slice[] forward = [Zeros(n * k), Zeros(o), Zeros(r * k), Zeros(o * r), Zeros(n * k), Zeros(n * r), Zeros(n * o)];
        Slice[] backward = [Zeros(n * o), Zeros(n * k), Zeros(n * k), Zeros(r * k), Zeros(o * r), Zeros(n * r), Zeros(n * k), Zeros(n * k), Zeros(r * k), Zeros(o * r), Zeros(o * k), Zeros(o)];
        var weight = new Weight(o, k, Zeros(o * k));
        Forward(forward);
        Backward(backward);
        foreach (var (slices, call) in new (Slice[], Action<Slice[]>)[] { (forward, Forward), (backward, Backward) })
        {
            for (int i = 0; i < slices.Length; i++)
            {
                Slice[] wrong = [.. slices];
                wrong[i] = Zeros(slices[i].Length, DType.F64);
                Assert.Contains("is F64, expected F32", Assert.Throws<ArgumentException>(() => call(wrong)).Message, StringComparison.Ordinal);
            }
        }

        void Forward(Slice[] x) => backend.LinearForward(x[0], weight, x[1], new LoraFactors(x[2], x[3], r, 1), x[4], x[5], x[6], false);

        void Backward(Slice[] x) =>
            backend.LinearBackward(x[0], x[1], x[2], weight, new LoraFactors(x[3], x[4], r, 1), x[5], x[6], x[7], false, x[8], x[9], x[10], x[11]);
    }

    [Fact]
    public void Products_refuse_a_weight_whose_parts_do_not_fit_its_extents()
    {
        using var backend = new HostBackend<float>();
        Slice Zeros(DType type, long length) => backend.Allocate(type, length, "test");
        const int rows = 300, columns = 64, count = rows * columns; // 300 blocks, so two nested scales
        Slice packed = Zeros(DType.U8, count / 2), plain = Zeros(DType.F32, rows), codes = Zeros(DType.U8, rows), nested = Zeros(DType.F32, 2), map = Zeros(DType.F32, 256);
        Weight dense = new(rows, columns, Zeros(DType.BF16, count)), single = new(rows, columns, packed, new Nf4Scales(plain)), both = new(rows, columns, packed, new Nf4Scales(codes, nested, map));
        Call(dense);
        Call(single);
        Call(both);
        (Weight, string)[] wrong =
        [
            (dense with { Values = dense.Values.Range(0, count - 1) }, ".Values is BF16 [19199], expected BF16 [19200]"),
            (dense with { Values = packed }, ".Values is U8 [9600], expected F32 [19200]"),
            (dense with { Rows = 0 }, "is [0, 64], expected positive extents"),
            (single with { Values = packed.Range(0, count / 2 - 1) }, ".Values is U8 [9599], expected U8 [9600]"),
            (single with { Scales = new Nf4Scales(plain.Range(0, rows - 1)) }, ".AbsMax is F32 [299], expected F32 [300]"),
            (single with { Scales = new Nf4Scales(codes) }, ".AbsMax is U8 [300], expected F32 [300]"),
            (single with { Scales = new Nf4Scales(plain, BlockSize: 48) }, "blocks of 48, expected a power of two"),
            (both with { Scales = new Nf4Scales(codes, nested.Range(0, 1), map) }, ".NestedAbsMax is F32 [1], expected F32 [2]"),
            (both with { Scales = new Nf4Scales(codes, nested, map.Range(0, 16)) }, ".NestedMap is F32 [16], expected F32 [256]"),
        ];
        foreach (var (weight, message) in wrong)
        {
            Assert.Contains(message, Assert.Throws<ArgumentException>(() => Call(weight)).Message, StringComparison.Ordinal);
            Assert.Contains(message, Assert.Throws<ArgumentException>(() => Embed(weight)).Message, StringComparison.Ordinal);
            Assert.Contains(message, Assert.Throws<ArgumentException>(() => Target(weight)).Message, StringComparison.Ordinal);
            Assert.Contains(message, Assert.Throws<ArgumentException>(() => Back(weight)).Message, StringComparison.Ordinal);
        }

        void Call(Weight weight) => backend.LinearForward(Zeros(DType.F32, columns), weight, default, null, default, default, Zeros(DType.F32, rows), false);

        void Back(Weight weight) =>
            backend.LinearBackward(Zeros(DType.F32, rows), default, default, weight, null, default, Zeros(DType.F32, columns), default, false, default, default, default, default);

        void Embed(Weight weight) => backend.EmbeddingForward(Zeros(DType.I32, 1), weight, Zeros(DType.F32, columns));

        void Target(Weight weight) =>
            backend.TokenLogProbs(Zeros(DType.F32, columns), weight, Zeros(DType.I32, 1), 1, Zeros(DType.F32, 1), default, default, default, default);
    }

    [Fact]
    public void Backward_matches_finite_differences()
    {
        using var layer = new Layer(WeightFormat.F64);
        using var gradients = new Gradients();
        layer.Backward(gradients, accumulate: false);
        CheckDifferences("dx", layer, layer.X, gradients.X, 0);
        CheckDifferences("dLoraInput", layer, layer.Dropped, gradients.LoraInput, 0);
        CheckDifferences("dA", layer, layer.A, gradients.A, 1);
        CheckDifferences("dB", layer, layer.B, gradients.B, 1);
        CheckDifferences("dWeight", layer, layer.Dense!, gradients.Weight, 1);
        CheckDifferences("dBias", layer, layer.Bias, gradients.Bias, 1);
    }

    [Fact]
    public void Backward_through_a_quantised_weight_matches_finite_differences()
    {
        using var layer = new Layer(WeightFormat.Nf4Double);
        using var gradients = new Gradients();
        layer.Backward(gradients, accumulate: false);
        CheckDifferences("dx", layer, layer.X, gradients.X, 0);
    }

    [Fact]
    public void Backward_adds_the_adapter_to_dx_where_loraInput_has_no_gradient()
    {
        using var layer = new Layer(WeightFormat.Nf4);
        using var apart = new Gradients();
        using var joined = new Gradients();
        layer.Backward(apart, accumulate: false);
        Linear.Backward<double>(layer.Dy.Slice, layer.X.Slice, layer.Dropped.Slice, layer.Weight, layer.Lora, apart.Xa.Slice, joined.X.Slice, default, false,
            default, default, default, default);
        var sum = new double[N, K];
        for (int n = 0; n < N; n++)
        {
            for (int k = 0; k < K; k++)
            {
                sum[n, k] = apart.X[n, k] + apart.LoraInput[n, k];
            }
        }

        joined.X.AssertClose(sum, 1e-12, "dx");
    }

    [Fact]
    public void Backward_accumulates_into_dx_and_dLoraInput()
    {
        using var layer = new Layer(WeightFormat.Nf4);
        using var once = new Gradients();
        using var twice = new Gradients();
        layer.Backward(once, accumulate: false);
        layer.Backward(twice, accumulate: false);
        layer.Backward(twice, accumulate: true);
        for (int i = 0; i < N * K; i++)
        {
            Assert.Equal(2 * once.X.ToArray()[i], twice.X.ToArray()[i], 1e-12);
            Assert.Equal(2 * once.LoraInput.ToArray()[i], twice.LoraInput.ToArray()[i], 1e-12);
        }
    }

    [Fact]
    public void Forward_names_a_slice_of_the_wrong_length()
    {
        using var layer = new Layer(WeightFormat.F64);
        using var y = new HostMatrix<double>(N, O, O, 20);
        var error = Assert.Throws<ArgumentException>(() =>
            Linear.Forward<double>(layer.X.Slice, layer.Weight, default, null, default, default, y.Slice.Range(0, N * O - 1), false));
        Assert.Contains($"y has {N * O - 1} elements, expected {N * O}", error.Message);
    }

    /// <summary>Central differences of the loss Σ dy∘y with respect to every element; the loss is linear in each, so the step may be large.</summary>
    static void CheckDifferences(string name, Layer layer, HostMatrix<double> parameter, HostMatrix<double> gradient, double start)
    {
        for (int i = 0; i < parameter.Rows; i++)
        {
            for (int j = 0; j < parameter.Columns; j++)
            {
                double value = parameter[i, j];
                parameter[i, j] = value + 0.5;
                double above = layer.Loss();
                parameter[i, j] = value - 0.5;
                double below = layer.Loss();
                parameter[i, j] = value;
                if (Math.Abs(gradient[i, j] - start - (above - below)) > 1e-9)
                {
                    Assert.Fail($"{name}[{i}, {j}]: expected {above - below:R}, got {gradient[i, j] - start:R}");
                }
            }
        }
    }

    /// <summary>A linear layer with bias and adapter whose adapter sees an input of its own, as after dropout.</summary>
    sealed class Layer : IDisposable
    {
        readonly StoredWeight stored;

        public Layer(WeightFormat format)
        {
            stored = new StoredWeight(O, K, format, 9);
            Weight = stored.Weight;
            if (format == WeightFormat.F64)
            {
                Dense = new HostMatrix<double>(O, K, K, 10);
                Weight = new Weight(O, K, Dense.Slice);
            }
        }

        public Weight Weight { get; }

        public HostMatrix<double>? Dense { get; }

        public HostMatrix<double> X { get; } = new(N, K, K, 1);

        public HostMatrix<double> Dropped { get; } = new(N, K, K, 2);

        public HostMatrix<double> Bias { get; } = new(1, O, O, 3);

        public HostMatrix<double> A { get; } = new(R, K, K, 4);

        public HostMatrix<double> B { get; } = new(O, R, R, 5);

        public HostMatrix<double> Dy { get; } = new(N, O, O, 6);

        public LoraFactors Lora => new(A.Slice, B.Slice, R, Scale);

        public double Projected(int n, int r)
        {
            double sum = 0;
            for (int k = 0; k < K; k++)
            {
                sum += Dropped[n, k] * A[r, k];
            }

            return sum;
        }

        public double[,] Output()
        {
            var y = new double[N, O];
            for (int n = 0; n < N; n++)
            {
                for (int o = 0; o < O; o++)
                {
                    double sum = Bias[0, o];
                    for (int k = 0; k < K; k++)
                    {
                        sum += X[n, k] * (Dense is null ? stored.Values[o * K + k] : Dense[o, k]);
                    }

                    for (int r = 0; r < R; r++)
                    {
                        sum += Scale * Projected(n, r) * B[o, r];
                    }

                    y[n, o] = sum;
                }
            }

            return y;
        }

        /// <summary>By the layer itself, which another test compares with <see cref="Output"/>.</summary>
        public double Loss()
        {
            using var y = new HostMatrix<double>(N, O, O, 0);
            using var xa = new HostMatrix<double>(N, R, R, 0);
            Linear.Forward<double>(X.Slice, Weight, Bias.Slice, Lora, Dropped.Slice, xa.Slice, y.Slice, false);
            double loss = 0;
            for (int n = 0; n < N; n++)
            {
                for (int o = 0; o < O; o++)
                {
                    loss += Dy[n, o] * y[n, o];
                }
            }

            return loss;
        }

        public void Backward(Gradients gradients, bool accumulate)
        {
            using var y = new HostMatrix<double>(N, O, O, 0);
            Linear.Forward<double>(X.Slice, Weight, Bias.Slice, Lora, Dropped.Slice, gradients.Xa.Slice, y.Slice, false);
            Linear.Backward<double>(Dy.Slice, X.Slice, Dropped.Slice, Weight, Lora, gradients.Xa.Slice, gradients.X.Slice, gradients.LoraInput.Slice, accumulate,
                gradients.A.Slice, gradients.B.Slice, gradients.Weight.Slice, gradients.Bias.Slice);
        }

        public void Dispose()
        {
            stored.Dispose();
            foreach (var matrix in new[] { X, Dropped, Bias, A, B, Dy })
            {
                matrix.Dispose();
            }

            Dense?.Dispose();
        }
    }

    /// <summary>Gradients that are written start as NaN; those that are added to start as 1.</summary>
    sealed class Gradients : IDisposable
    {
        public Gradients()
        {
            X.Poison();
            LoraInput.Poison();
            foreach (var matrix in new[] { A, B, Weight, Bias })
            {
                for (int i = 0; i < matrix.Rows; i++)
                {
                    for (int j = 0; j < matrix.Columns; j++)
                    {
                        matrix[i, j] = 1;
                    }
                }
            }
        }

        public HostMatrix<double> X { get; } = new(N, K, K, 0);

        public HostMatrix<double> LoraInput { get; } = new(N, K, K, 0);

        public HostMatrix<double> Xa { get; } = new(N, R, R, 0);

        public HostMatrix<double> A { get; } = new(R, K, K, 0);

        public HostMatrix<double> B { get; } = new(O, R, R, 0);

        public HostMatrix<double> Weight { get; } = new(O, K, K, 0);

        public HostMatrix<double> Bias { get; } = new(1, O, O, 0);

        public void Dispose()
        {
            foreach (var matrix in new[] { X, LoraInput, Xa, A, B, Weight, Bias })
            {
                matrix.Dispose();
            }
        }
    }
}
