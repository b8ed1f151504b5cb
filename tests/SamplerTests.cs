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
    public void Draw_logprob_isUnderTheUntruncatedDistribution(string device, double temperature)
    {
        using var oracle = new Oracle(device, 2);
        const int Rows = 64, Vocabulary = 101;
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
        const int Rows = 400;
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
        const int Rows = 50, Vocabulary = 333;
        double[] logits = oracle.Values(Rows * Vocabulary);
        Assert.Equal(Draw(oracle, logits, Rows, new Sampling(0)).Ids, Draw(oracle, logits, Rows, new Sampling(1, TopP: 1e-9)).Ids);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_kOfTheWholeVocabulary_equalsNoFilter(string device)
    {
        using var oracle = new Oracle(device, 6);
        double[] logits = oracle.Values(200 * 17);
        Assert.Equal(Draw(oracle, logits, 200, new Sampling(1)).Ids, Draw(oracle, logits, 200, new Sampling(1, TopK: 17)).Ids);
        Assert.Equal(Draw(oracle, logits, 200, new Sampling(1)).Ids, Draw(oracle, logits, 200, new Sampling(1, TopK: 1000)).Ids);
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
    public void Draw_maskedTokens_areNeverDrawn(string device)
    {
        using var oracle = new Oracle(device, 8);
        double[] row = [double.NegativeInfinity, 0, double.NegativeInfinity, 1, double.NegativeInfinity];
        double[] logits = [.. Enumerable.Repeat(row, 300).SelectMany(x => x)];
        foreach (var sampling in new[] { new Sampling(1), new Sampling(1, TopK: 4), new Sampling(1, TopP: 0.999), new Sampling(1, 5, 0.999) })
        {
            var (ids, logprobs) = Draw(oracle, logits, 300, sampling);
            Assert.Equal([1, 3], ids.Distinct().Order());
            Assert.All(oracle.Get(logprobs), x => Assert.InRange(x, -1.4, 0));
        }
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_hugeLogitsAndSmallTemperature_staysFinite(string device)
    {
        using var oracle = new Oracle(device, 9);
        var (ids, logprobs) = Draw(oracle, [1e4, -1e4, 9990, 1e4 - 1], 1, new Sampling(0.01));
        Assert.Equal([0], ids);
        Close(oracle, [0], logprobs);
    }

    [Theory]
    [MemberData(nameof(Devices))]
    public void Draw_anyNumberOfThreads_givesTheSameBits(string device)
    {
        using var oracle = new Oracle(device, 10);
        double[] logits = oracle.Values(37 * 500);
        Oracle.Repeats(() =>
        {
            var (ids, logprobs) = Draw(oracle, logits, 37, new Sampling(1, 50, 0.9));
            return [.. ids.Select(id => (double)id), .. oracle.Get(logprobs)];
        });
    }

    [Theory]
    [MemberData(nameof(Devices))]
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

    static (int[] Ids, Slice LogProbs) Draw(Oracle oracle, double[] logits, int rows, Sampling sampling, uint operation = 0)
    {
        Slice ids = oracle.Put(new int[rows]), logprobs = oracle.Output(rows);
        oracle.Backend.Sample(oracle.Put(logits), rows, sampling, new RandomKey(42, 7, operation), ids, logprobs);
        return (Array.ConvertAll(oracle.Get(ids), x => (int)x), logprobs);
    }

    static void Close(Oracle oracle, double[] expected, Slice actual) => oracle.Close(expected, actual, oracle.Sums, "logprobs");

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
