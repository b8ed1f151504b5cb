using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The head of reward and value models, and its gradients, on every device against plain loops: odd widths, no row, rows wider than a group, outliers.</summary>
public class ScalarHeadTests
{
    public static TheoryData<string> Devices => Oracle.Devices;

    [Theory, MemberData(nameof(Devices))]
    public void ScalarHead_anyShape_matchesFormula(string device)
    {
        // Beside the usual: several groups to a row, and rows for several groups, of which the last has a few.
        foreach (var (rows, width) in ((int, int)[])[.. OpShapes.Matrices(device), (70, 1028), (150, 264)])
        {
            using Oracle oracle = new(device, width);
            string what = $"[{rows}, {width}]";
            double[] hidden = oracle.Values(rows * width), weight = oracle.Values(width), dValues = oracle.Values(rows), before = oracle.Values(width);
            Slice h = oracle.Fenced(hidden), w = oracle.PutParameter(weight), values = oracle.OutputParameter(rows), d = oracle.PutParameter(dValues);
            oracle.Backend.ScalarHeadForward(h, w, values);
            oracle.Close(Naive.Linear(hidden, weight, width), values, oracle.SumsParameter, $"ScalarHeadForward {what}", terms: Terms(hidden, weight, rows));

            Slice dHidden = oracle.Output(hidden.Length), dWeight = oracle.FencedParameter(before);
            oracle.Backend.ScalarHeadBackward(d, h, w, dHidden, dWeight);
            var (expectedHidden, expectedWeight) = Gradients(dValues, hidden, weight);
            oracle.Close(expectedHidden, dHidden, oracle.Exact, $"ScalarHeadBackward dHidden {what}");
            oracle.Close([.. expectedWeight.Zip(before, (a, b) => a + b)], dWeight, oracle.SumsParameter, $"ScalarHeadBackward dWeight {what}");

            Slice dHiddenOnly = oracle.Output(hidden.Length), dWeightOnly = oracle.FencedParameter(before);
            oracle.Backend.ScalarHeadBackward(d, h, w, dHiddenOnly, default);
            oracle.Backend.ScalarHeadBackward(d, h, w, default, dWeightOnly);
            Assert.Equal(oracle.Get(dHidden), oracle.Get(dHiddenOnly));
            Assert.Equal(oracle.Get(dWeight), oracle.Get(dWeightOnly));

            Slice dWeightInPlace = oracle.FencedParameter(before);
            oracle.Backend.ScalarHeadBackward(d, h, w, h, dWeightInPlace); // over the activations themselves
            Assert.Equal(oracle.Get(dHidden), oracle.Get(h));
            Assert.Equal(oracle.Get(dWeight), oracle.Get(dWeightInPlace));
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void ScalarHead_sliceThatStartsAnywhere_isTheSame(string device)
    {
        // Rows consist of whole packets, but none starts at 16 bytes.
        const int Rows = 5, Width = 72;
        using Oracle oracle = new(device, 1);
        double[] hidden = oracle.Values(Rows * Width), weight = oracle.Values(Width), dValues = oracle.Values(Rows);
        Slice h = oracle.Put([0, .. hidden]).Range(1, hidden.Length), w = oracle.PutParameter([0, .. weight]).Range(1, Width), d = oracle.PutParameter([0, .. dValues]).Range(1, Rows);
        Slice values = oracle.OutputParameter(Rows), dHidden = oracle.Output(hidden.Length + 1).Range(1, hidden.Length), dWeight = oracle.PutParameter(new double[Width + 1]).Range(1, Width);
        oracle.Backend.ScalarHeadForward(h, w, values);
        oracle.Backend.ScalarHeadBackward(d, h, w, dHidden, dWeight);
        var (expectedHidden, expectedWeight) = Gradients(dValues, hidden, weight);
        oracle.Close(Naive.Linear(hidden, weight, Width), values, oracle.SumsParameter, "ScalarHeadForward", terms: Terms(hidden, weight, Rows));
        oracle.Close(expectedHidden, dHidden, oracle.Exact, "dHidden");
        oracle.Close(expectedWeight, dWeight, oracle.SumsParameter, "dWeight");
    }

    [Theory, MemberData(nameof(Devices))]
    public void Backward_rowsWithoutGradient_areZeroAndTeachNothing(string device)
    {
        // A reward model's loss has a gradient at one token of a sequence; that of all others is written all the same.
        const int Rows = 40, Width = 33, Trained = 17;
        using Oracle oracle = new(device, 2);
        double[] hidden = oracle.Values(Rows * Width), weight = oracle.Values(Width), dValues = new double[Rows];
        dValues[Trained] = 0.5;
        Slice dHidden = oracle.Output(hidden.Length), dWeight = oracle.FencedParameter(new double[Width]);
        oracle.Backend.ScalarHeadBackward(oracle.PutParameter(dValues), oracle.Put(hidden), oracle.PutParameter(weight), dHidden, dWeight);
        double[] gradient = oracle.Get(dHidden), expected = new double[hidden.Length];
        weight.Select(w => 0.5 * w).ToArray().CopyTo(expected, Trained * Width);
        Assert.All(gradient.Where((_, i) => i / Width != Trained), x => Assert.Equal(0, x));
        oracle.Close(expected, dHidden, oracle.Exact, "dHidden of one row");
        Assert.Equal(hidden[(Trained * Width)..((Trained + 1) * Width)].Select(x => 0.5 * x), oracle.Get(dWeight));
    }

    [Theory, MemberData(nameof(Devices))]
    public void ScalarHead_runAgainWithOtherThreadCounts_sameBits(string device)
    {
        using Oracle oracle = new(device, 3);
        const int Width = 259;
        int rows = oracle.Device is null ? 331 : 67;
        Slice hidden = oracle.Put(oracle.Values(rows * Width)), weight = oracle.PutParameter(oracle.Values(Width)), dValues = oracle.PutParameter(oracle.Values(rows));
        Slice values = oracle.OutputParameter(rows), dHidden = oracle.Output(rows * Width), dWeight = oracle.FencedParameter(new double[Width]);
        Oracle.Repeats(() =>
        {
            oracle.Backend.Fill(dWeight, 0);
            oracle.Backend.ScalarHeadForward(hidden, weight, values);
            oracle.Backend.ScalarHeadBackward(dValues, hidden, weight, dHidden, dWeight);
            return [.. oracle.Get(values), .. oracle.Get(dHidden), .. oracle.Get(dWeight)];
        });
    }

    [Theory, MemberData(nameof(Devices))]
    public void ScalarHead_wrongShapeOrType_saysWhatWasExpected(string device)
    {
        using Oracle oracle = new(device, 4);
        var backend = oracle.Backend;
        Slice six = oracle.Put(new double[6]), seven = oracle.Put(new double[7]), weight = oracle.PutParameter(new double[3]), two = oracle.PutParameter(new double[2]), ids = oracle.Put([1, 2]);
        Fails("ScalarHeadForward: hidden has 7 elements, expected rows of 3 as the weight has.", () => backend.ScalarHeadForward(seven, weight, two));
        Fails("ScalarHeadForward: values has 3 elements, expected 2. (Parameter 'values')", () => backend.ScalarHeadForward(six, weight, weight));
        Fails($"ScalarHeadForward: values is I32, expected {backend.Parameter}. (Parameter 'values')", () => backend.ScalarHeadForward(six, weight, ids));
        Fails($"ScalarHeadForward: hidden is I32, expected {backend.Activation}. (Parameter 'hidden')", () => backend.ScalarHeadForward(ids, weight, two));
        Fails("ScalarHeadBackward: dValues has 3 elements, expected 2. (Parameter 'dValues')", () => backend.ScalarHeadBackward(weight, six, weight, six, weight));
        Fails("ScalarHeadBackward: dHidden has 7 elements, expected 6. (Parameter 'dHidden')", () => backend.ScalarHeadBackward(two, six, weight, seven, weight));
        Fails("ScalarHeadBackward: dWeight has 2 elements, expected 3. (Parameter 'dWeight')", () => backend.ScalarHeadBackward(two, six, weight, six, two));

        static void Fails(string message, Action call) => Assert.Equal(message, Assert.Throws<ArgumentException>(call).Message);
    }

    static (double[] DHidden, double[] DWeight) Gradients(double[] dValues, double[] hidden, double[] weight)
    {
        double[] dHidden = new double[hidden.Length], dWeight = new double[weight.Length];
        for (int i = 0; i < dValues.Length; i++)
        {
            for (int j = 0; j < weight.Length; j++)
            {
                dHidden[i * weight.Length + j] = dValues[i] * weight[j];
                dWeight[j] += dValues[i] * hidden[i * weight.Length + j];
            }
        }

        return (dHidden, dWeight);
    }

    /// <summary>The norm of what a row's sum is made of: where terms cancel, the error is relative to them.</summary>
    static double Terms(double[] hidden, double[] weight, int rows) => rows == 0 ? 0 : Naive.Norm([.. hidden.Select((h, i) => h * weight[i % weight.Length])]);
}
