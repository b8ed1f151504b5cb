using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>RMS norm and its gradients on every device against <see cref="Naive"/>: odd widths, one row, more rows than a GPU has room for, equal elements.</summary>
public class RmsNormTests
{
    public static TheoryData<string> Devices => Oracle.Devices;

    [Theory, MemberData(nameof(Devices))]
    public void RmsNorm_anyShape_matchesFormula(string device)
    {
        foreach (var (rows, width) in OpShapes.Matrices(device))
        {
            using Oracle oracle = new(device, width);
            string what = $"[{rows}, {width}]";
            double[] x = oracle.Values(rows * width), weight = oracle.Values(width), dy = oracle.Values(x.Length), dx0 = oracle.Values(x.Length), dw0 = oracle.Values(width);
            Slice xs = oracle.Put(x), ws = oracle.PutParameter(weight), y = oracle.Output(x.Length), rstd = oracle.OutputParameter(rows);
            oracle.Backend.RmsNormForward(xs, ws, 1e-5, y, rstd);
            var expected = Naive.RmsNorm(x, weight, 1e-5);
            oracle.Close(expected.Y, y, oracle.Exact, $"RmsNormForward {what}");
            oracle.Close(expected.Rstd, rstd, oracle.ExactParameter, $"RmsNormForward rstd {what}");

            Slice dx = oracle.Output(x.Length), added = oracle.Fenced(dx0), dWeight = oracle.FencedParameter(dw0), dys = oracle.Put(dy);
            oracle.Backend.RmsNormBackward(dys, xs, ws, rstd, dx, accumulate: false, default);
            oracle.Backend.RmsNormBackward(dys, xs, ws, rstd, added, accumulate: true, dWeight);
            var gradient = Naive.RmsNormBackward(dy, x, weight, 1e-5);
            double terms = Naive.Norm([.. dy.Select((d, i) => d * weight[i % width] * expected.Rstd[i / width])]); // dx is a difference: in a row of one element, of equals
            oracle.Close(gradient.Dx, dx, oracle.Sums, $"RmsNormBackward {what}", terms);
            oracle.Close([.. gradient.Dx.Zip(dx0, (a, b) => a + b)], added, oracle.Sums, $"RmsNormBackward, added, {what}", terms);
            oracle.Close([.. gradient.DWeight.Zip(dw0, (a, b) => a + b)], dWeight, oracle.SumsParameter, $"RmsNormBackward dWeight {what}");

            Slice dWeightOnly = oracle.FencedParameter(dw0);
            oracle.Backend.RmsNormBackward(dys, xs, ws, rstd, default, accumulate: false, dWeightOnly);
            Assert.Equal(oracle.Get(dWeight), oracle.Get(dWeightOnly));
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void RmsNorm_withResidual_addsItToXFirst(string device)
    {
        foreach (var (rows, width) in OpShapes.Matrices(device))
        {
            using Oracle oracle = new(device, width + 1);
            string what = $"[{rows}, {width}]";
            double[] x = oracle.Values(rows * width), residual = oracle.Values(x.Length), weight = oracle.Values(width), sum = [.. x.Zip(residual, (a, b) => a + b)];
            Slice xs = oracle.Fenced(x), y = oracle.Output(x.Length), rstd = oracle.OutputParameter(rows), ws = oracle.PutParameter(weight);
            oracle.Backend.RmsNormForward(xs, ws, 1e-5, y, rstd, oracle.Put(residual));
            oracle.Close(sum, xs, oracle.Exact, $"x + residual {what}");

            // The norm is of the sum as it is stored: the same as in two steps, bit for bit.
            Slice twoSteps = oracle.Output(x.Length), rstdTwo = oracle.OutputParameter(rows);
            oracle.Backend.RmsNormForward(xs, ws, 1e-5, twoSteps, rstdTwo);
            Assert.Equal(oracle.Get(twoSteps), oracle.Get(y));
            Assert.Equal(oracle.Get(rstdTwo), oracle.Get(rstd));
            oracle.Close(Naive.RmsNorm(oracle.Get(xs), weight, 1e-5).Y, y, oracle.Exact, $"RmsNormForward with residual {what}");
        }
    }

    [Theory]
    [InlineData("cpu", 4500, 136)]
    [InlineData("emulator-f32", 2200, 136)]
    [InlineData("emulator-f32", 270, 2052)] // a row is wider than its threads' registers hold
    [InlineData("emulator-bf16", 4500, 136)]
    public void RmsNorm_moreRowsThanAGpuHasRoomFor_goesOverAll(string device, int rows, int width)
    {
        // A kernel's groups walk over rows, and the last has rows for a part of its threads only.
        using Oracle oracle = new(device, 7);
        double[] x = oracle.Values(rows * width), dy = oracle.Values(x.Length), weight = oracle.Values(width);
        Slice xs = oracle.Put(x), ws = oracle.PutParameter(weight), y = oracle.Output(x.Length), rstd = oracle.OutputParameter(rows), dx = oracle.Output(x.Length);
        Slice dWeight = oracle.FencedParameter(new double[width]);
        oracle.Backend.RmsNormForward(xs, ws, 1e-5, y, rstd);
        oracle.Close(Naive.RmsNorm(x, weight, 1e-5).Y, y, oracle.Exact, "RmsNormForward of many rows");
        oracle.Backend.RmsNormBackward(oracle.Put(dy), xs, ws, rstd, dx, accumulate: false, dWeight);
        var gradient = Naive.RmsNormBackward(dy, x, weight, 1e-5);
        oracle.Close(gradient.Dx, dx, oracle.Sums, "RmsNormBackward of many rows");
        oracle.Close(gradient.DWeight, dWeight, oracle.SumsParameter, "RmsNormBackward dWeight of many rows");
    }

    [Theory, MemberData(nameof(Devices))]
    public void RmsNorm_equalElements_areOne(string device)
    {
        using Oracle oracle = new(device, 1);
        double[] x = [.. Enumerable.Repeat(-3.0, 100)], zero = new double[100];
        Slice y = oracle.Output(100), one = oracle.PutParameter([.. Enumerable.Repeat(1.0, 100)]);
        oracle.Backend.RmsNormForward(oracle.Put(x), one, 0, y, default);
        oracle.Close([.. Enumerable.Repeat(-1.0, 100)], y, oracle.Exact, "RmsNormForward of equal elements");
        oracle.Backend.RmsNormForward(oracle.Put(zero), one, 1e-6, y, default);
        Assert.Equal(zero, oracle.Get(y));
    }
}
