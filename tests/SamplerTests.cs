using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

public class SamplerTests
{
    public static TheoryData<string> Devices => Oracle.Devices;

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_temperatureZero_takesTheFirstOfTheLargest(string device)
    {
        using var oracle = new Oracle(device, 1);
        double[] logits = [1, 3, 3, -2, 0, 0, 0, 0, -5, -4, -3, -3.5];
        var (ids, logprobs) = Draw(oracle, logits, 3, new Sampling(0, TopK: 2, TopP: 0.5));
        Assert.Equal([1, 0, 2], ids);
        double[] expected = [.. new[] { 0, 1, 2 }.Select(i => LogProb(logits[(4 * i)..(4 * i + 4)], ids[i], 1))];
        Close(oracle, expected, logprobs);
    }

    [Theory]
    [InlineData("cpu", 1.0)]
    [InlineData("cpu", 0.5)]
    [InlineData("cpu-f64", 2.0)]
    [InlineData("emulator-f32", 0.5)]
    [InlineData("emulator-bf16", 2.0)]
    public void Draw_logprob_isUnderTheUntruncatedDistribution(string device, double temperature)
    {
        using var oracle = new Oracle(device, 2);
        const int Vocabulary = 101;
        int Rows = oracle.Device is null ? 64 : 20;
        double[] logits = oracle.Values(Rows * Vocabulary);
        var (ids, logprobs) = Draw(oracle, logits, Rows, new Sampling(temperature, TopK: 7, TopP: 0.9));
        Close(oracle, [.. ids.Select((id, i) => LogProb(logits[(i * Vocabulary)..((i + 1) * Vocabulary)], id, temperature))], logprobs);
    }

    [Theory]
    [InlineData("cpu", 1.0, 0, 1.0)]
    [InlineData("cpu", 0.7, 0, 1.0)]
    [InlineData("cpu", 1.0, 5, 1.0)]
    [InlineData("cpu", 1.0, 0, 0.8)]
    [InlineData("cpu", 1.3, 8, 0.9)]
    [InlineData("cpu-f64", 1.0, 6, 0.7)]
    public void Draw_frequencies_followTheFilteredDistribution(string device, double temperature, int topK, double topP)
    {
        using var oracle = new Oracle(device, 3);
        const int Rows = 40_000, Vocabulary = 12;
        double[] row = oracle.Values(Vocabulary, 0), expected = Filtered(row, temperature, topK, topP);
        var (ids, _) = Draw(oracle, [.. Enumerable.Repeat(row, Rows).SelectMany(x => x)], Rows, new Sampling(temperature, topK, topP));
        var counts = new int[Vocabulary];
        foreach (int id in ids)
        {
            counts[id]++;
        }

        // The kept set is exact; the counts pass a chi-square test at about one in a million for the fixed key.
        Assert.Equal(expected.Select(p => p > 0), counts.Select(count => count > 0));
        int kept = expected.Count(p => p > 0);
        double chiSquare = Enumerable.Range(0, Vocabulary).Where(i => expected[i] > 0).Sum(i => Math.Pow(counts[i] - Rows * expected[i], 2) / (Rows * expected[i]));
        double freedom = kept - 1, limit = freedom * Math.Pow(1 - 2 / (9 * freedom) + 4.75 * Math.Sqrt(2 / (9 * freedom)), 3); // Wilson and Hilferty
        Assert.InRange(chiSquare, 0, limit);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_topKWithTies_keepsTheFirst(string device)
    {
        using var oracle = new Oracle(device, 4);
        int Rows = oracle.Device is null ? 400 : 30;
        double[] logits = [.. Enumerable.Repeat(new double[] { 0, 1, 1, 1, 0 }, Rows).SelectMany(x => x)];
        Assert.Equal([1, 2], Draw(oracle, logits, Rows, new Sampling(1, TopK: 2)).Ids.Distinct().Order());
        Assert.Equal([1], Draw(oracle, logits, Rows, new Sampling(1, TopK: 1)).Ids.Distinct());
        Assert.Equal([1, 2, 3], Draw(oracle, logits, Rows, new Sampling(1, TopP: 0.7)).Ids.Distinct().Order());
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_topPTiny_isGreedy(string device)
    {
        using var oracle = new Oracle(device, 5);
        const int Rows = 20, Vocabulary = 333;
        double[] logits = oracle.Values(Rows * Vocabulary);
        Assert.Equal(Draw(oracle, logits, Rows, new Sampling(0)).Ids, Draw(oracle, logits, Rows, new Sampling(1, TopP: 1e-9)).Ids);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_kOfTheWholeVocabulary_equalsNoFilter(string device)
    {
        using var oracle = new Oracle(device, 6);
        int rows = oracle.Device is null ? 200 : 12;
        double[] logits = oracle.Values(rows * 17);
        Assert.Equal(Draw(oracle, logits, rows, new Sampling(1)).Ids, Draw(oracle, logits, rows, new Sampling(1, TopK: 17)).Ids);
        Assert.Equal(Draw(oracle, logits, rows, new Sampling(1)).Ids, Draw(oracle, logits, rows, new Sampling(1, TopK: 1000)).Ids);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_rowDependsOnItsOwnCounterOnly(string device)
    {
        using var oracle = new Oracle(device, 7);
        double[] logits = oracle.Values(9 * 50, 0);
        int[] whole = Draw(oracle, logits, 9, new Sampling(1)).Ids;
        Assert.Equal(whole[..4], Draw(oracle, logits[..200], 4, new Sampling(1)).Ids);
        Assert.NotEqual(whole, Draw(oracle, logits, 9, new Sampling(1), operation: 1).Ids);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_byDraws_doesNotDependOnTheOtherRows(string device)
    {
        // Sequences leave a batch when they end, and stand elsewhere in the next: what each draws stays the same.
        using var oracle = new Oracle(device, 14);
        const int Rows = 11, Vocabulary = 60;
        double[] logits = oracle.Values(Rows * Vocabulary, 0);
        foreach (var sampling in new[] { new Sampling(1.2), new Sampling(1, 20, 0.9) })
        {
            int[] whole = Draw(oracle, logits, Rows, sampling).Ids;
            Assert.Equal(whole, Drawn([.. Enumerable.Range(0, Rows)]));
            foreach (int[] order in (int[][])[[.. Enumerable.Range(0, Rows).Reverse()], [3, 10, 7, 0, 5, 1, 9, 2, 8, 6, 4], [1, 4, 6, 10], [9], [7, 7]])
            {
                Assert.Equal(order.Select(row => whole[row]), Drawn(order));
            }

            int[] Drawn(int[] order) => Draw(oracle, [.. order.SelectMany(row => logits[(row * Vocabulary)..((row + 1) * Vocabulary)])], order.Length, sampling, draws: order).Ids;
        }
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_byDraws_takesThatNumberOfTheKey(string device)
    {
        // Of equal logits the token is the number itself, in steps of 1/V.
        using var oracle = new Oracle(device, 15);
        const int Vocabulary = 64;
        int[] draws = [5, 0, 1_000_003, int.MaxValue, 5, 123_456];
        var key = new RandomKey(42, 7, 0);
        Assert.Equal(draws.Select(draw => (int)(key.Uniform((ulong)draw) * Vocabulary)), Draw(oracle, new double[draws.Length * Vocabulary], draws.Length, new Sampling(1), draws: draws).Ids);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_drawsOfAnotherShape_throws(string device)
    {
        using var oracle = new Oracle(device, 16);
        var error = Assert.Throws<ArgumentException>(() => Draw(oracle, new double[6], 2, new Sampling(1), draws: [1, 2, 3]));
        Assert.Equal("Sample: draws has 3 elements, expected 2. (Parameter 'draws')", error.Message);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_maskedTokens_areNeverDrawn(string device)
    {
        using var oracle = new Oracle(device, 8);
        double[] row = [double.NegativeInfinity, 0, double.NegativeInfinity, 1, double.NegativeInfinity];
        int rows = oracle.Device is null ? 300 : 16;
        double[] logits = [.. Enumerable.Repeat(row, rows).SelectMany(x => x)];
        foreach (var sampling in new[] { new Sampling(1), new Sampling(1, TopK: 4), new Sampling(1, TopP: 0.999), new Sampling(1, 5, 0.999) })
        {
            var (ids, logprobs) = Draw(oracle, logits, rows, sampling);
            Assert.Equal([1, 3], ids.Distinct().Order());
            Assert.All(oracle.Get(logprobs), x => Assert.InRange(x, -1.4, 0));
        }
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_hugeLogitsAndSmallTemperature_staysFinite(string device)
    {
        using var oracle = new Oracle(device, 9);
        var (ids, logprobs) = Draw(oracle, [9984, -9984, 9920, 9856], 1, new Sampling(0.01));
        Assert.Equal([0], ids);
        Close(oracle, [0], logprobs);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_anyNumberOfThreads_givesTheSameBits(string device)
    {
        using var oracle = new Oracle(device, 10);
        int rows = oracle.Device is null ? 37 : 5;
        double[] logits = oracle.Values(rows * 500);
        Oracle.Repeats(() =>
        {
            var (ids, logprobs) = Draw(oracle, logits, rows, new Sampling(1, 50, 0.9));
            return [.. ids.Select(id => (double)id), .. oracle.Get(logprobs)];
        });
    }

    /// <summary>
    /// The same tokens as the host's, for the same logits and keys: the device finds by bisection of bits what the host takes off a heap. A draw within rounding of the border between two
    /// tokens may fall to either side; of these few hundred, none does.
    /// </summary>
    [Theory]
    [MemberData(nameof(KernelSettings))]
    public void Draw_onADevice_drawsTheTokensOfTheHost(string device, double temperature, int topK, double topP)
    {
        foreach (var (rows, vocabulary, outliers) in ((int, int, double)[])[(20, 129, 0.01), (6, 2050, 0), (3, 9000, 0.01), (8, 4, 0.01)])
        {
            using Oracle oracle = new(device, vocabulary), host = new("cpu", vocabulary);
            double[] logits = oracle.Values(rows * vocabulary, outliers); // in bfloat16 many are equal
            var sampling = new Sampling(temperature, topK, topP);
            var (expected, expectedLogProbs) = Draw(host, logits, rows, sampling);
            var (ids, logprobs) = Draw(oracle, logits, rows, sampling);
            Assert.Equal(expected, ids);
            Close(oracle, host.Get(expectedLogProbs), logprobs);
        }
    }

    public static TheoryData<string, double, int, double> KernelSettings =>
        [.. KernelDevices.SelectMany(row => ((double, int, double)[])[(0, 0, 1), (1, 0, 1), (0.7, 50, 1), (1.5, 1, 1), (1, 0, 0.9), (1, 0, 0.3), (1.3, 100, 0.8), (5, 2000, 0.95)],
            (row, s) => (row.Data, s.Item1, s.Item2, s.Item3))];

    public static TheoryData<string> KernelDevices => [.. Oracle.Devices.Where(row => !row.Data.StartsWith("cpu"))];

    [Theory]
    [MemberData(nameof(KernelDevices))]
    public void Draw_ofManyEqualLogits_keepsTheFirstOfThem(string device)
    {
        // 1,000 logits of three values, 0, 1 and 2, each spread over all ids.
        using Oracle oracle = new(device, 13), host = new("cpu", 13);
        double[] logits = [.. Enumerable.Range(0, 12 * 1000).Select(i => (double)(i * 7 % 3))];
        foreach (var sampling in new[] { new Sampling(1, TopK: 400), new Sampling(1, TopK: 10), new Sampling(1, TopP: 0.75), new Sampling(1, 500, 0.9) })
        {
            Assert.Equal(Draw(host, logits, 12, sampling).Ids, Draw(oracle, logits, 12, sampling).Ids);
        }
    }

    [Theory]
    [MemberData(nameof(KernelDevices))]
    public void Draw_nanOrNothingFiniteOnADevice_isNoToken(string device)
    {
        const double Inf = double.PositiveInfinity;
        using var oracle = new Oracle(device, 12);
        foreach (var sampling in new[] { new Sampling(0), new Sampling(1), new Sampling(1, 2), new Sampling(1, 0, 0.9) })
        {
            var (ids, logprobs) = Draw(oracle, [0, 1, 0, double.NaN, 1, 2, -Inf, -Inf, -Inf, 0, Inf, 0, -Inf, 5, -Inf], 5, sampling);
            Assert.Equal([-1, -1, -1, 13 % 3], [.. ids[1..]]);
            Assert.InRange(ids[0], 0, 2);
            Assert.Equal([false, true, true, true, false], oracle.Get(logprobs).Select(double.IsNaN));
        }
    }

    [Theory]
    [InlineData("cpu")]
    [InlineData("cpu-f64")]
    public void Draw_nanOrNothingFinite_namesTheRow(string device)
    {
        using var oracle = new Oracle(device, 11);
        var error = Assert.Throws<ArithmeticException>(() => Draw(oracle, [0, 1, 2, 0, double.NaN, 2], 2, new Sampling(1)));
        Assert.Contains("row 1", error.Message, StringComparison.Ordinal);
        Assert.Contains("token 1", error.Message, StringComparison.Ordinal);
        foreach (double x in new[] { double.NegativeInfinity, double.PositiveInfinity })
        {
            error = Assert.Throws<ArithmeticException>(() => Draw(oracle, [x, x], 1, new Sampling(0)));
            Assert.Contains("row 0", error.Message, StringComparison.Ordinal);
        }
    }

    [Theory]
    [InlineData(-1.0, 0, 1.0)]
    [InlineData(double.NaN, 0, 1.0)]
    [InlineData(1.0, -1, 1.0)]
    [InlineData(1.0, 0, 0.0)]
    [InlineData(1.0, 0, 1.5)]
    public void Draw_settingsOutOfRange_throws(double temperature, int topK, double topP)
    {
        using var oracle = new Oracle("cpu", 12);
        Assert.Throws<ArgumentOutOfRangeException>(() => Draw(oracle, [0, 1], 1, new Sampling(temperature, topK, topP)));
    }

    static (int[] Ids, Slice LogProbs) Draw(Oracle oracle, double[] logits, int rows, Sampling sampling, uint operation = 0, int[]? draws = null)
    {
        Slice ids = oracle.Put(new int[rows]), logprobs = oracle.OutputParameter(rows);
        oracle.Backend.Sample(oracle.Put(logits), rows, sampling, new RandomKey(42, 7, operation), ids, logprobs, draws is null ? default : oracle.Put(draws));
        return (Array.ConvertAll(oracle.Get(ids), x => (int)x), logprobs);
    }

    /// <summary>Near 0, log-probabilities are differences of logarithms near 1, to whose size a device's errors are relative.</summary>
    static void Close(Oracle oracle, double[] expected, Slice actual) =>
        oracle.Close(expected, actual, oracle.SumsParameter, "logprobs", oracle.Device is null ? 0 : Math.Sqrt(expected.Length));

    static double LogProb(double[] row, int id, double temperature)
    {
        double maximum = row.Max();
        return (row[id] - maximum) / temperature - Math.Log(row.Sum(x => Math.Exp((x - maximum) / temperature)));
    }

    static double[] Filtered(double[] row, double temperature, int topK, double topP)
    {
        int[] order = [.. Enumerable.Range(0, row.Length).OrderByDescending(i => row[i])];
        int[] kept = topK == 0 ? order : order[..topK];
        double[] p = new double[row.Length];
        double total = kept.Sum(i => Math.Exp(row[i] / temperature)), sum = 0;
        foreach (int i in kept.TakeWhile(_ => sum < topP))
        {
            p[i] = Math.Exp(row[i] / temperature) / total;
            sum += p[i];
        }

        return [.. p.Select(x => x / sum)];
    }
}
