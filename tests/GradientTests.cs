using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// Every backward operation against finite differences of its own forward operation, in double. The scalar is L = Σ c·y with random c, so that dy = c.
/// </summary>
public sealed class GradientTests : IDisposable
{
    const int Seed = 20;

    readonly Oracle oracle = new("cpu-f64", Seed);

    Backend Backend => oracle.Backend;

    public void Dispose() => oracle.Dispose();

    [Theory]
    [InlineData(1, 1)]
    [InlineData(3, 5)]
    [InlineData(2, 7)]
    [InlineData(9, 67)]
    public void RmsNorm_matchesFiniteDifferences(int rows, int width)
    {
        double[] x = oracle.Values(rows * width, outliers: 0), weight = oracle.Values(width, outliers: 0), c = oracle.Values(x.Length);
        Slice xs = oracle.Put(x), ws = oracle.Put(weight), rstd = oracle.Output(rows), dx = oracle.Output(x.Length), dWeight = oracle.Put(new double[width]);
        Backend.RmsNormForward(xs, ws, 0.1, oracle.Output(x.Length), rstd);
        Backend.RmsNormBackward(oracle.Put(c), xs, ws, rstd, dx, false, dWeight);

        double Loss(double[] x, double[] weight) => Weighted(c, y => Backend.RmsNormForward(oracle.Put(x), oracle.Put(weight), 0.1, y, default));
        FiniteDifference.Check("RmsNorm dx", Seed, x, oracle.Get(dx), moved => Loss(moved, weight));
        FiniteDifference.Check("RmsNorm dWeight", Seed, weight, oracle.Get(dWeight), moved => Loss(x, moved));
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(3, 5)]
    [InlineData(9, 67)]
    public void ScalarHead_matchesFiniteDifferences(int rows, int width)
    {
        double[] hidden = oracle.Values(rows * width, outliers: 0), weight = oracle.Values(width, outliers: 0), c = oracle.Values(rows);
        Slice dHidden = oracle.Output(hidden.Length), dWeight = oracle.Put(new double[width]);
        Backend.ScalarHeadBackward(oracle.Put(c), oracle.Put(hidden), oracle.Put(weight), dHidden, dWeight);

        double Loss(double[] hidden, double[] weight) => Weighted(c, values => Backend.ScalarHeadForward(oracle.Put(hidden), oracle.Put(weight), values));
        FiniteDifference.Check("ScalarHead dHidden", Seed, hidden, oracle.Get(dHidden), moved => Loss(moved, weight));
        FiniteDifference.Check("ScalarHead dWeight", Seed, weight, oracle.Get(dWeight), moved => Loss(hidden, moved));
    }

    [Fact]
    public void Rope_matchesFiniteDifferences()
    {
        const int Tokens = 3, Heads = 2, Width = 6;
        double[] x = oracle.Values(Tokens * Heads * Width), c = oracle.Values(x.Length), angles = oracle.Values(5 * Width / 2);
        Slice cos = oracle.Put([.. angles.Select(Math.Cos)], DType.F32), sin = oracle.Put([.. angles.Select(Math.Sin)], DType.F32), positions = oracle.Put([4, 0, 2]);
        Slice gradient = oracle.Put(c);
        Backend.Rope(gradient, cos, sin, positions, Heads, Width, inverse: true);
        FiniteDifference.Check("Rope", Seed, x, oracle.Get(gradient), moved =>
        {
            Slice y = oracle.Put(moved);
            Backend.Rope(y, cos, sin, positions, Heads, Width, inverse: false);
            return oracle.Get(y).Zip(c, (a, b) => a * b).Sum();
        });
    }

    [Theory]
    [InlineData(1)]
    [InlineData(11)]
    [InlineData(700)]
    public void SwiGlu_matchesFiniteDifferences(int n)
    {
        double[] gate = oracle.Values(n, outliers: 0), up = oracle.Values(n, outliers: 0), c = oracle.Values(n, outliers: 0);
        Slice dGate = oracle.Output(n), dUp = oracle.Output(n);
        Backend.SwiGluBackward(oracle.Put(c), oracle.Put(gate), oracle.Put(up), dGate, dUp);

        double Loss(double[] gate, double[] up) => Weighted(c, y => Backend.SwiGluForward(oracle.Put(gate), oracle.Put(up), y));
        FiniteDifference.Check("SwiGlu dGate", Seed, gate, oracle.Get(dGate), moved => Loss(moved, up));
        FiniteDifference.Check("SwiGlu dUp", Seed, up, oracle.Get(dUp), moved => Loss(gate, moved));
    }

    [Fact]
    public void Dropout_matchesFiniteDifferences()
    {
        RandomKey key = new(1, 2, 3);
        double[] x = oracle.Values(50), c = oracle.Values(50);
        Slice dx = oracle.Output(50);
        Backend.Dropout(oracle.Put(c), 0.4, key, dx, accumulate: false);
        FiniteDifference.Check("Dropout", Seed, x, oracle.Get(dx), moved => Weighted(c, y => Backend.Dropout(oracle.Put(moved), 0.4, key, y, accumulate: false)));
    }

    [Fact]
    public void Embedding_matchesFiniteDifferences()
    {
        const int Vocabulary = 7, Width = 5;
        Slice ids = oracle.Put([3, 0, 3, 6]);
        double[] table = oracle.Values(Vocabulary * Width), c = oracle.Values(4 * Width);
        Slice dTable = oracle.Put(new double[table.Length]);
        Backend.EmbeddingBackward(ids, oracle.Put(c), dTable);
        FiniteDifference.Check("Embedding", Seed, table, oracle.Get(dTable), moved => Weighted(c, y => Backend.EmbeddingForward(ids, new Weight(Vocabulary, Width, oracle.Put(moved)), y)));
    }

    [Fact]
    public void GatherRows_matchesFiniteDifferences()
    {
        const int Width = 3;
        Slice rows = oracle.Put([2, 0, 2]);
        double[] x = oracle.Values(4 * Width), c = oracle.Values(3 * Width);
        Slice dx = oracle.Put(new double[x.Length]);
        Backend.ScatterRows(oracle.Put(c), rows, Width, dx, accumulate: true);
        FiniteDifference.Check("GatherRows", Seed, x, oracle.Get(dx), moved => Weighted(c, y => Backend.GatherRows(oracle.Put(moved), rows, Width, y)));
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Linear_withLora_matchesFiniteDifferences(bool dropout)
    {
        const int Tokens = 3, Inputs = 5, Outputs = 4, Rank = 2;
        double[] x = oracle.Values(Tokens * Inputs), input = dropout ? oracle.Values(x.Length) : x, w = oracle.Values(Outputs * Inputs), bias = oracle.Values(Outputs);
        double[] a = oracle.Values(Rank * Inputs), b = oracle.Values(Outputs * Rank), c = oracle.Values(Tokens * Outputs);

        double Loss(double[] x, double[] input, double[] w, double[] bias, double[] a, double[] b)
        {
            LoraFactors factors = new(oracle.Put(a), oracle.Put(b), Rank, 1.5);
            return Weighted(c, y => Backend.LinearForward(oracle.Put(x), new Weight(Outputs, Inputs, oracle.Put(w)), oracle.Put(bias), factors, oracle.Put(input),
                oracle.Output(Tokens * Rank), y, accumulate: false));
        }

        Slice xs = oracle.Put(x), inputs = dropout ? oracle.Put(input) : xs, xa = oracle.Output(Tokens * Rank);
        Weight weight = new(Outputs, Inputs, oracle.Put(w));
        LoraFactors lora = new(oracle.Put(a), oracle.Put(b), Rank, 1.5);
        Backend.LinearForward(xs, weight, oracle.Put(bias), lora, inputs, xa, oracle.Output(Tokens * Outputs), accumulate: false);
        Slice dx = oracle.Output(x.Length), dInput = dropout ? oracle.Output(x.Length) : default;
        Slice dA = oracle.Put(new double[a.Length]), dB = oracle.Put(new double[b.Length]), dW = oracle.Put(new double[w.Length]), dBias = oracle.Put(new double[Outputs]);
        Backend.LinearBackward(oracle.Put(c), xs, inputs, weight, lora, xa, dx, dInput, accumulate: false, dA, dB, dW, dBias);

        FiniteDifference.Check("Linear dx", Seed, x, oracle.Get(dx), moved => Loss(moved, dropout ? input : moved, w, bias, a, b));
        if (dropout)
        {
            FiniteDifference.Check("Linear dLoraInput", Seed, input, oracle.Get(dInput), moved => Loss(x, moved, w, bias, a, b));
        }

        FiniteDifference.Check("Linear dWeight", Seed, w, oracle.Get(dW), moved => Loss(x, input, moved, bias, a, b));
        FiniteDifference.Check("Linear dBias", Seed, bias, oracle.Get(dBias), moved => Loss(x, input, w, moved, a, b));
        FiniteDifference.Check("Linear dA", Seed, a, oracle.Get(dA), moved => Loss(x, input, w, bias, moved, b));
        FiniteDifference.Check("Linear dB", Seed, b, oracle.Get(dB), moved => Loss(x, input, w, bias, a, moved));
    }

    /// <summary>L = Σ c·y for the y that <paramref name="forward"/> writes.</summary>
    double Weighted(double[] c, Action<Slice> forward)
    {
        Slice y = oracle.Output(c.Length);
        forward(y);
        return oracle.Get(y).Zip(c, (a, b) => a * b).Sum();
    }
}
