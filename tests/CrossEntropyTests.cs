using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

public class CrossEntropyTests
{
    const int Ignored = -100;

    public static TheoryData<string> Devices => Oracle.MatrixDevices;

    public static TheoryData<string, int, int, int, double> Shapes => [.. Oracle.MatrixDevices.SelectMany(row => Shaped(row.Data))];

    public static TheoryData<string, int, int, int, double> SmallShapes => [.. Shapes.Where(row => row.Data.Item4 <= 1025)];

    static IEnumerable<(string, int, int, int, double)> Shaped(string device)
    {
        (int Rows, int Width, int Vocabulary, double Temperature)[] shapes =
            [(1, 1, 1, 1), (1, 8, 2, 1), (5, 123, 123, 1), (7, 16, 1024, 0.7), (40, 16, 1025, 2.5), (33, 24, 7, 1), device.StartsWith("cpu") ? (90, 5, 131_101, 1) : (3, 8, 8_404, 1)];
        return shapes.Select(s => (device, s.Rows, s.Width, s.Vocabulary, s.Temperature));
    }

    [Theory]
    [MemberData(nameof(Shapes))]
    public void Run_matchesTheWholeMatrix(string device, int rows, int width, int vocabulary, double temperature)
    {
        using var call = new Call(device, rows, width, vocabulary, temperature, 1);
        call.Run();
        var expected = call.Naive();
        call.CloseLogarithm(expected.LogProbs, call.LogProbs, "logprobs");
        call.CloseLogarithm(expected.Entropy, call.Entropy, "entropy");
        call.CloseGradient(expected.DHidden, call.DHidden, "dHidden");
        call.CloseGradient(expected.DHead.Zip(call.Before, (x, y) => x + y), call.DHead, "dHead");
    }

    [Theory]
    [MemberData(nameof(KernelDevices))]
    public void Run_inChunks_matchesTheWholeMatrix(string device)
    {
        using var call = new Call(device, 21, 24, 70, 1, 13);
        call.RunInChunks(8);
        var expected = call.Naive();
        call.CloseLogarithm(expected.LogProbs, call.LogProbs, "logprobs");
        call.CloseLogarithm(expected.Entropy, call.Entropy, "entropy");
        call.CloseGradient(expected.DHidden, call.DHidden, "dHidden");
        call.CloseGradient(expected.DHead.Zip(call.Before, (x, y) => x + y), call.DHead, "dHead");
    }

    [Theory]
    [MemberData(nameof(SmallShapes))]
    public void Run_withEntropyCoefficients_addsTheEntropysGradient(string device, int rows, int width, int vocabulary, double temperature)
    {
        using var call = new Call(device, rows, width, vocabulary, temperature, 17);
        call.Run(entropyCoefficients: true);
        var expected = call.Naive(entropyGradient: true);
        call.CloseLogarithm(expected.LogProbs, call.LogProbs, "logprobs");
        call.CloseLogarithm(expected.Entropy, call.Entropy, "entropy");
        call.CloseGradient(expected.DHidden, call.DHidden, "dHidden");
        call.CloseGradient(expected.DHead.Zip(call.Before, (x, y) => x + y), call.DHead, "dHead");

        // The entropy itself need not be asked for.
        double[] dHidden = call.Oracle.Get(call.DHidden);
        call.Oracle.Backend.Fill(call.DHidden, double.NaN);
        call.Run(entropy: false, dHead: false, entropyCoefficients: true);
        Assert.Equal(dHidden, call.Oracle.Get(call.DHidden));
    }

    [Theory]
    [MemberData(nameof(KernelDevices))]
    public void Run_withEntropyCoefficientsInChunks_matchesTheWholeMatrix(string device)
    {
        using var call = new Call(device, 21, 24, 70, 1.3, 18);
        call.RunInChunks(8, entropyCoefficients: true);
        var expected = call.Naive(entropyGradient: true);
        call.CloseGradient(expected.DHidden, call.DHidden, "dHidden");
        call.CloseGradient(expected.DHead.Zip(call.Before, (x, y) => x + y), call.DHead, "dHead");
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Run_entropyCoefficientsOfZero_areAsIfLeftOut(string device)
    {
        using var call = new Call(device, 20, 16, 300, 0.9, 19);
        call.Run();
        double[] dHidden = call.Oracle.Get(call.DHidden);
        call.Oracle.Backend.Fill(call.EntropyCoefficientSlice, 0);
        call.Run(dHead: false, entropyCoefficients: true);
        Assert.Equal(dHidden, call.Oracle.Get(call.DHidden));
    }

    [Theory]
    [InlineData("cpu")]
    [InlineData("emulator-f32")]
    public void Run_entropyCoefficientsAlone_saysWhatIsMissing(string device)
    {
        using var call = new Call(device, 2, 4, 10, 1, 20);
        var error = Assert.Throws<ArgumentException>(() => call.Run(coefficients: false, dHidden: false, dHead: false, entropyCoefficients: true));
        Assert.Contains("entropyCoefficients are given without coefficients", error.Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => call.Oracle.Backend.TokenLogProbs(call.HiddenSlice, call.Weight, call.TargetSlice, 1, call.LogProbs, default, call.CoefficientSlice,
            call.DHidden, default, call.Oracle.PutParameter([1, 2, 3])));
    }

    [Theory]
    [InlineData(128_256, 256)]
    [InlineData(151_936, 192)]
    [InlineData(7, 4_793_472)]
    [InlineData(100_000_000, 64)]
    public void ChunkRows_fillTheBudgetWithWholeTiles(int vocabulary, int rows) => Assert.Equal(rows, CrossEntropyKernels.ChunkRows(vocabulary));

    [Theory]
    [MemberData(nameof(KernelDevices))]
    public void Run_targetOutsideTheVocabulary_isNaNAndTeachesNothing(string device)
    {
        using var oracle = new Oracle(device, 14);
        Slice logprobs = oracle.OutputParameter(3), entropy = oracle.OutputParameter(3), dHidden = oracle.Output(12), dHead = oracle.FencedParameter(new double[40]);
        oracle.Backend.TokenLogProbs(oracle.Put(oracle.Values(12)), new Weight(10, 4, oracle.Put(oracle.Values(40))), oracle.Put([10, Ignored, int.MaxValue]), 1,
            logprobs, entropy, oracle.PutParameter([1, 1, 1.0]), dHidden, dHead);
        Assert.Equal([double.NaN, 0, double.NaN], oracle.Get(logprobs));
        Assert.Equal([double.NaN, 0, double.NaN], oracle.Get(entropy));
        Assert.All([.. oracle.Get(dHidden), .. oracle.Get(dHead)], x => Assert.Equal(0, x));
    }

    [Theory]
    [MemberData(nameof(KernelDevices))]
    public void Run_logitsThatAreNotFinite_areNaN(string device)
    {
        foreach (double bad in (double[])[double.NaN, double.PositiveInfinity])
        {
            using var oracle = new Oracle(device, 15);
            Slice logprobs = oracle.OutputParameter(2);
            oracle.Backend.TokenLogProbs(oracle.Put([1.0, 1, bad, 1]), new Weight(3, 2, oracle.Put(oracle.Values(6))), oracle.Put([2, 2]), 1, logprobs, default, default, default, default);
            Assert.Equal([false, true], oracle.Get(logprobs).Select(double.IsNaN));
        }
    }

    public static TheoryData<string> KernelDevices => [.. Oracle.MatrixDevices.Where(row => !row.Data.StartsWith("cpu"))];

    [Theory]
    [MemberData(nameof(Devices))]
    public void Run_rowsWithoutTarget_areZeroAndTeachNothing(string device)
    {
        using var call = new Call(device, 12, 8, 50, 1, 2);
        call.Run(entropyCoefficients: true);
        double[] logprobs = call.Oracle.Get(call.LogProbs), entropy = call.Oracle.Get(call.Entropy), gradient = call.Oracle.Get(call.DHidden);
        for (int i = 0; i < 12; i++)
        {
            bool skipped = call.Targets[i] == Ignored;
            Assert.Equal(skipped, logprobs[i] == 0);
            Assert.Equal(skipped, entropy[i] == 0);
            Assert.Equal(skipped, gradient[(i * 8)..(i * 8 + 8)].All(x => x == 0));
        }

        Assert.Contains(Ignored, call.Targets);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Run_noRowWithTarget_writesZeros(string device)
    {
        using var oracle = new Oracle(device, 3);
        Slice logprobs = oracle.OutputParameter(3), dHidden = oracle.Output(12), dHead = oracle.FencedParameter([.. Enumerable.Repeat(2.5, 40)]);
        oracle.Backend.TokenLogProbs(oracle.Put(oracle.Values(12)), new Weight(10, 4, oracle.Put(oracle.Values(40))), oracle.Put([Ignored, -1, Ignored]), 1,
            logprobs, default, oracle.PutParameter([1, 1, 1.0]), dHidden, dHead);
        Assert.All(oracle.Get(logprobs), x => Assert.Equal(0, x));
        Assert.All(oracle.Get(dHidden), x => Assert.Equal(0, x));
        Assert.All(oracle.Get(dHead), x => Assert.Equal(2.5, x));
    }

    [Theory]
    [InlineData(1.0)]
    [InlineData(0.6)]
    public void Gradients_areTheSlopeOfTheWeightedLogProbs(double temperature)
    {
        using var call = new Call("cpu-f64", 9, 6, 37, temperature, 4);
        call.Run();
        double[] dHidden = call.Oracle.Get(call.DHidden), dHead = [.. call.Oracle.Get(call.DHead).Zip(call.Before, (x, y) => x - y)];
        FiniteDifference.Check("dHidden", 4, call.Hidden, dHidden, hidden => call.Loss(hidden, call.Head));
        FiniteDifference.Check("dHead", 4, call.Head, dHead, head => call.Loss(call.Hidden, head));
    }

    [Theory]
    [InlineData(1.0)]
    [InlineData(0.6)]
    [InlineData(2.5)]
    public void Gradients_withEntropyCoefficients_areTheSlopeOfLogProbsAndEntropies(double temperature)
    {
        using var call = new Call("cpu-f64", 9, 6, 37, temperature, 21);
        call.Run(entropyCoefficients: true);
        double[] dHidden = call.Oracle.Get(call.DHidden), dHead = [.. call.Oracle.Get(call.DHead).Zip(call.Before, (x, y) => x - y)];
        FiniteDifference.Check("dHidden", 21, call.Hidden, dHidden, hidden => call.Loss(hidden, call.Head, entropies: true));
        FiniteDifference.Check("dHead", 21, call.Head, dHead, head => call.Loss(call.Hidden, head, entropies: true));
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Run_withoutOptionalOutputs_writesTheSameLogProbs(string device)
    {
        using var call = new Call(device, 20, 16, 300, 1, 5);
        call.Run();
        double[] all = call.Oracle.Get(call.LogProbs), dHidden = call.Oracle.Get(call.DHidden);
        call.Run(entropy: false, coefficients: false, dHidden: false, dHead: false);
        Assert.Equal(all, call.Oracle.Get(call.LogProbs));
        call.Oracle.Backend.Fill(call.DHidden, double.NaN);
        call.Run(entropy: false, dHead: false);
        Assert.Equal(dHidden, call.Oracle.Get(call.DHidden));
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Run_hugeLogits_staysFinite(string device)
    {
        // One feature, so that logits are exact, in bfloat16 too: ±10⁴ and what lies between.
        using var oracle = new Oracle(device, 6);
        const double Large = 9984, Next = 10048;
        double[] head = [Next, Next, -Next, 0, Large];
        Slice logprobs = oracle.OutputParameter(3), entropy = oracle.OutputParameter(3), dHidden = oracle.Output(3), ofEntropy = oracle.Output(3);
        oracle.Backend.TokenLogProbs(oracle.Put([1.0 / 64, -1, 1]), new Weight(5, 1, oracle.Put(head)), oracle.Put([1, 0, 1]), 1, logprobs, entropy, oracle.PutParameter([1.0, 1, 1]),
            dHidden, default);
        double total = 2 + Math.Exp(-1);
        oracle.Close([-Math.Log(total), -2 * Next, -Math.Log(2)], logprobs, oracle.SumsParameter, "logprobs");
        oracle.Close([Math.Log(total) + Math.Exp(-1) / total, 0, Math.Log(2)], entropy, oracle.SumsParameter, "entropy");
        oracle.Close([Next - (2 * Next + Large * Math.Exp(-1)) / total, 2 * Next, 0], dHidden, oracle.Sums, "dHidden");

        // Of what weighs nothing, however far below the largest it is, the entropy has no gradient; equal logits are its maximum.
        oracle.Backend.TokenLogProbs(oracle.Put([1.0 / 64, -1, 1]), new Weight(5, 1, oracle.Put(head)), oracle.Put([1, 0, 1]), 1, logprobs, default, oracle.PutParameter([0.0, 0, 0]),
            ofEntropy, default, oracle.PutParameter([1.0, 1, 1]));
        double small = Math.Exp(-1) / total, mean = -small; // p and Σ p·s, s = z − max z
        oracle.Close([-((1 - small) * -mean * Next + small * (-1 - mean) * Large), 0, 0], ofEntropy, oracle.Sums, "dHidden of the entropy", terms: small * Next);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Run_equalLogits_isUniform(string device)
    {
        using var oracle = new Oracle(device, 7);
        const int Vocabulary = 2049;
        Slice logprobs = oracle.OutputParameter(1), entropy = oracle.OutputParameter(1);
        oracle.Backend.TokenLogProbs(oracle.Put([3.0]), new Weight(Vocabulary, 1, oracle.Put([.. Enumerable.Repeat(7.0, Vocabulary)])), oracle.Put([2048]), 1, logprobs, entropy,
            default, default, default);
        oracle.Close([-Math.Log(Vocabulary)], logprobs, oracle.SumsParameter, "logprob");
        oracle.Close([Math.Log(Vocabulary)], entropy, oracle.SumsParameter, "entropy");
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Run_aHeadInHalfPrecision_matchesItsValues(string device)
    {
        foreach (DType type in (DType[])[DType.BF16, DType.F16])
        {
            using var call = new Call(device, 11, 32, 200, 1, 8, type);
            call.Run(dHead: false);
            var expected = call.Naive();
            call.CloseLogarithm(expected.LogProbs, call.LogProbs, "logprobs");
            call.CloseGradient(expected.DHidden, call.DHidden, "dHidden");
        }
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Run_aHeadInFourBits_matchesItsValues(string device)
    {
        using var stored = new StoredWeight(200, 64, WeightFormat.Nf4Double, seed: 16);
        using var call = new Call(device, 11, 64, 200, 1, 16, stored: stored);
        call.Run(dHead: false);
        var expected = call.Naive();
        // Tensor cores read the decoded weights in bfloat16, which no input of the others has to be rounded to.
        double logarithms = device == "emulator-bf16" ? 1e-2 : call.Oracle.SumsParameter;
        call.Oracle.Close(expected.LogProbs, call.LogProbs, logarithms, "logprobs", Math.Sqrt(11));
        call.CloseGradient(expected.DHidden, call.DHidden, "dHidden");
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Run_anyNumberOfThreads_givesTheSameBits(string device)
    {
        var (rows, vocabulary) = device.StartsWith("cpu") ? (50, 3000) : (20, 700);
        using var call = new Call(device, rows, 40, vocabulary, 1, 9);
        Oracle.Repeats(() =>
        {
            call.Oracle.Backend.Fill(call.DHead, 0);
            call.Run(entropyCoefficients: true);
            return [.. call.Oracle.Get(call.LogProbs), .. call.Oracle.Get(call.Entropy), .. call.Oracle.Get(call.DHidden), .. call.Oracle.Get(call.DHead)];
        });
    }

    [Fact]
    public void Run_aRowByItself_givesTheSameValues()
    {
        using var call = new Call("cpu", 100, 12, 131_101, 1, 10); // two chunks
        call.Run(entropy: false, coefficients: false, dHidden: false, dHead: false);
        double[] all = call.Oracle.Get(call.LogProbs);
        foreach (int row in (int[])[0, 63, 64, 99])
        {
            Slice single = call.Oracle.Output(1);
            call.Oracle.Backend.TokenLogProbs(call.Oracle.Put(call.Hidden[(row * 12)..(row * 12 + 12)]), call.Weight, call.Oracle.Put([call.Targets[row]]), 1, single,
                default, default, default, default);
            call.Oracle.Close([all[row]], single, 1e-5, $"row {row}");
        }
    }

    [Fact]
    public void Run_targetOutsideTheVocabulary_namesRowIdAndVocabulary()
    {
        using var oracle = new Oracle("cpu", 11);
        var error = Assert.Throws<ArgumentOutOfRangeException>(() => oracle.Backend.TokenLogProbs(oracle.Put(new double[12]), new Weight(10, 4, oracle.Put(new double[40])),
            oracle.Put([1, 10, 3]), 1, oracle.Output(3), default, default, default, default));
        Assert.Contains("row 1 has target 10", error.Message, StringComparison.Ordinal);
        Assert.Contains("vocabulary of 10", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0.0)]
    [InlineData(-1.0)]
    [InlineData(double.NaN)]
    public void Run_temperatureNotPositive_throws(double temperature)
    {
        using var oracle = new Oracle("cpu", 12);
        Assert.Throws<ArgumentOutOfRangeException>(() => oracle.Backend.TokenLogProbs(oracle.Put(new double[4]), new Weight(10, 4, oracle.Put(new double[40])), oracle.Put([1]),
            temperature, oracle.Output(1), default, default, default, default));
    }

    sealed class Call : IDisposable
    {
        readonly int rows, width, vocabulary;
        readonly double temperature;
        readonly double[] coefficients, entropyCoefficients;

        public Call(string device, int rows, int width, int vocabulary, double temperature, int seed, DType head = default, StoredWeight? stored = null)
        {
            (this.rows, this.width, this.vocabulary, this.temperature) = (rows, width, vocabulary, temperature);
            Oracle = new Oracle(device, seed);
            Hidden = Oracle.Values(rows * width);
            Head = Oracle.Values(vocabulary * width, 0);
            coefficients = Oracle.Values(rows, 0);
            Before = Oracle.Values(vocabulary * width, 0);
            Targets = [.. Oracle.Integers(rows, vocabulary).Select((target, i) => i % 5 == 2 ? Ignored : target)];
            entropyCoefficients = Oracle.Values(rows, 0);
            if (head != default)
            {
                Head = [.. Head.Select(x => Math.Round(x * 32) / 32)]; // exact in both halves
            }

            Head = stored?.Values ?? Head;
            Weight = stored?.On(Oracle.Backend) ?? new Weight(vocabulary, width, Oracle.Put(Head, head == default ? Oracle.Backend.Activation : head));
            (HiddenSlice, TargetSlice) = (Oracle.Put(Hidden), Oracle.Put(Targets));
            (CoefficientSlice, EntropyCoefficientSlice) = (Oracle.PutParameter(coefficients), Oracle.PutParameter(entropyCoefficients));
            (LogProbs, Entropy, DHidden, DHead) = (Oracle.OutputParameter(rows), Oracle.OutputParameter(rows), Oracle.Output(Hidden.Length), Oracle.FencedParameter(Before));
        }

        public Oracle Oracle { get; }

        public double[] Hidden { get; }

        public double[] Head { get; }

        public double[] Before { get; }

        public int[] Targets { get; }

        public Weight Weight { get; }

        public Slice HiddenSlice { get; }

        public Slice TargetSlice { get; }

        public Slice CoefficientSlice { get; }

        public Slice EntropyCoefficientSlice { get; }

        public Slice LogProbs { get; }

        public Slice Entropy { get; }

        public Slice DHidden { get; }

        public Slice DHead { get; }

        public void Run(bool entropy = true, bool coefficients = true, bool dHidden = true, bool dHead = true, bool entropyCoefficients = false) =>
            Oracle.Backend.TokenLogProbs(HiddenSlice, Weight, TargetSlice, temperature, LogProbs, entropy ? Entropy : default, coefficients ? CoefficientSlice : default,
                dHidden ? DHidden : default, dHead ? DHead : default, entropyCoefficients ? EntropyCoefficientSlice : default);

        public void RunInChunks(int chunkRows, bool entropyCoefficients = false)
        {
            if (Oracle.Backend is KernelBackend<F32> single)
            {
                Run<F32>(single.UsesTensorCores);
            }
            else
            {
                Run<BF16>(((KernelBackend<BF16>)Oracle.Backend).UsesTensorCores);
            }

            void Run<T>(bool tensorCores) where T : unmanaged, IElement<T>
            {
                using var scratch = new ScratchBuffers(Oracle.Device!);
                CrossEntropyKernels.Run<T>(Oracle.Device!, scratch, tensorCores, HiddenSlice, Weight, TargetSlice, temperature, LogProbs, Entropy, CoefficientSlice, DHidden, DHead,
                    entropyCoefficients ? EntropyCoefficientSlice : default, chunkRows);
            }
        }

        /// <summary>
        /// Logits are f32 sums, so that inputs which the device holds exactly give f32 results. Near 0 they are differences of logarithms near 1, to whose size errors are relative.
        /// </summary>
        public void CloseLogarithm(double[] expected, Slice actual, string what) => Oracle.Close(expected, actual, Oracle.SumsParameter, what, Oracle.Device is null ? 0 : Math.Sqrt(rows));

        /// <summary>softmax − onehot is 0 but for rounding where a vocabulary of one leaves nothing to learn.</summary>
        public void CloseGradient(IEnumerable<double> expected, Slice actual, string what) => Oracle.Close([.. expected], actual, 2 * Oracle.Sums, what);

        public double Loss(double[] hidden, double[] head, bool entropies = false)
        {
            Slice logprobs = Oracle.OutputParameter(rows), entropy = Oracle.OutputParameter(rows);
            Oracle.Backend.TokenLogProbs(Oracle.Put(hidden), new Weight(vocabulary, width, Oracle.Put(head)), TargetSlice, temperature, logprobs, entropy, default, default, default);
            return Dot(logprobs, coefficients) + (entropies ? Dot(entropy, entropyCoefficients) : 0);

            double Dot(Slice values, double[] slopes) => Oracle.Get(values).Zip(slopes, (x, c) => x * c).Sum();
        }

        public (double[] LogProbs, double[] Entropy, double[] DHidden, double[] DHead) Naive(bool entropyGradient = false)
        {
            double[] logprobs = new double[rows], entropy = new double[rows], dHidden = new double[Hidden.Length], dHead = new double[Head.Length], z = new double[vocabulary];
            for (int i = 0; i < rows; i++)
            {
                if (Targets[i] < 0)
                {
                    continue;
                }

                for (int v = 0; v < vocabulary; v++)
                {
                    z[v] = 0;
                    for (int d = 0; d < width; d++)
                    {
                        z[v] += Hidden[i * width + d] * Head[v * width + d] / temperature;
                    }
                }

                double maximum = z.Max(), log = maximum + Math.Log(z.Sum(x => Math.Exp(x - maximum)));
                logprobs[i] = z[Targets[i]] - log;
                entropy[i] = -z.Sum(x => Math.Exp(x - log) * (x - log));
                for (int v = 0; v < vocabulary; v++)
                {
                    double dz = coefficients[i] * ((v == Targets[i] ? 1 : 0) - Math.Exp(z[v] - log)) / temperature;
                    dz -= entropyGradient ? entropyCoefficients[i] * Math.Exp(z[v] - log) * (z[v] - log + entropy[i]) / temperature : 0;
                    for (int d = 0; d < width; d++)
                    {
                        dHidden[i * width + d] += dz * Head[v * width + d];
                        dHead[v * width + d] += dz * Hidden[i * width + d];
                    }
                }
            }

            return (logprobs, entropy, dHidden, dHead);
        }

        public void Dispose() => Oracle.Dispose();
    }
}
