using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// What tests of single operations do not see of the kernels that memory binds: how much they move, what ILGPU makes of them, and that their gradients are those of their own forward pass.
/// </summary>
public class MemoryBoundKernelTests
{
    static readonly string[] Files =
        ["ElementwiseKernels", "DropoutKernels", "SumKernels", "RowsKernels", "RmsNormKernels", "RopeKernels", "ScalarHeadKernels", "SwiGluKernels", "ColumnSums"];

    public static TheoryData<string> Devices => ["emulator-f32", "emulator-bf16"];

    [Theory, MemberData(nameof(Devices))]
    public void Kernels_wholePackets_moveLittleMoreThanTheirFloor(string device)
    {
        const int Length = 16384, Rows = 12, Width = 1024, Heads = 32, HeadWidth = 128;
        using Oracle oracle = new(device, 1);
        var backend = oracle.Backend;
        int size = backend.Activation.Size();
        Slice x = oracle.Put(oracle.Values(Length)), y = oracle.Put(oracle.Values(Length)), z = oracle.Put(oracle.Values(Length)), parameters = oracle.PutParameter(oracle.Values(Length));
        Slice one = oracle.OutputParameter(1), rstd = oracle.PutParameter(oracle.Values(Rows)), weight = oracle.PutParameter(oracle.Values(Width)), positions = oracle.Put([0, 3, 2, 1]);
        Slice angles = oracle.PutParameter(oracle.Values(4 * HeadWidth / 2)), rows = oracle.Put([.. Enumerable.Range(0, Rows)]);
        Slice dWeight = oracle.PutParameter(new double[Width]), a = x.Range(0, Rows * Width), b = y.Range(0, Rows * Width), c = z.Range(0, Rows * Width);
        int weights = Rows * Width * (size == 2 ? 8 : 4); // a group a row here, which reads the weight; beside BF16 in two accesses to the same sectors

        Moves(Length * size, "ElementwiseKernels.FillKernel", () => backend.Fill(x, 1));
        Moves(Length * 3 * size, "ElementwiseKernels.AddKernel", () => backend.Add(x, 2, y));
        Moves(Length * 6, "ElementwiseKernels.ConvertKernel", () => backend.Copy(parameters, oracle.Put(new double[Length], DType.F16)));
        Moves(Length * 2 * size, "DropoutKernels.Kernel", () => backend.Dropout(x, 0.1, new RandomKey(1, 2, 3), y, accumulate: false));
        Moves(Length * 3 * size, "SwiGluKernels.ForwardKernel", () => backend.SwiGluForward(x, y, z));
        Moves(Length * 5 * size, "SwiGluKernels.BackwardKernel", () => backend.SwiGluBackward(x, y, z, y, z));
        Moves(Length * 4, "SumKernels.PartsKernel", () => backend.Norm(parameters, one));
        Moves(Length * 2 * size + 4 * HeadWidth * 4, "RopeKernels.Kernel", () => backend.Rope(x, angles, angles, positions, Heads, HeadWidth, inverse: false));
        Moves(Rows * Width * 2 * size, "RowsKernels.GatherKernel", () => backend.GatherRows(a, rows, Width, b));
        Moves(Rows * Width * 2 * size, "RowsKernels.ScatterKernel", () => backend.ScatterRows(a, rows, Width, b, accumulate: false));
        Moves(Rows * Width * 3 * size, "RowsKernels.AddKernel", () => backend.ScatterRows(a, rows, Width, b, accumulate: true));
        Moves(Rows * Width * 2 * size + weights, "RmsNormKernels.ForwardKernel", () => backend.RmsNormForward(a, weight, 1e-5, b, rstd));
        Moves(Rows * Width * 4 * size + weights, "RmsNormKernels.ForwardKernel", () => backend.RmsNormForward(a, weight, 1e-5, b, rstd, c));
        Moves(Rows * Width * 3 * size + weights, "RmsNormKernels.BackwardKernel", () => backend.RmsNormBackward(a, b, weight, rstd, c, accumulate: false, default));

        int owners = size == 2 ? 2 : 1, columns = owners * Width * (size == 2 ? 8 : 4); // of two rows of BF16 in a group, each reads the weight, and has its part of dWeight
        Moves(Rows * Width * size + weights, "ScalarHeadKernels.ForwardKernel", () => backend.ScalarHeadForward(a, weight, rstd));
        Moves(Rows * Width * size + columns, "ScalarHeadKernels.BackwardKernel", () => backend.ScalarHeadBackward(rstd, a, weight, c, default));
        Moves(Rows * Width * 2 * size + 2 * columns, "ScalarHeadKernels.BackwardKernel", () => backend.ScalarHeadBackward(rstd, a, weight, c, dWeight));

        void Moves(long floor, string kernel, Action run) => oracle.Device!.Counters(run, kernel).CheckFloor(floor, $"{kernel} on {device}");
    }

    [Theory, MemberData(nameof(Devices))]
    public void RmsNorm_barriersAndBanks_areTheFewestThereCanBe(string device)
    {
        const int Rows = 3, Width = 2048;
        using Oracle oracle = new(device, 2);
        Slice x = oracle.Put(oracle.Values(Rows * Width)), weight = oracle.PutParameter(oracle.Values(Width));
        var counters = oracle.Device!.Counters(() => oracle.Backend.RmsNormForward(x, weight, 1e-5, x, default));
        Assert.Equal(Rows, counters.Barriers); // a row is one sum
        Assert.Equal(counters.SharedRequests, counters.SharedWavefronts);
    }

    [Theory, MemberData(nameof(Devices))]
    public void Kernels_inPtx_keepEverythingInRegistersAndMove16Bytes(string device)
    {
        using Oracle oracle = new(device, 3);
        RunAll(oracle, rows: 2, width: 8);
        var kernels = oracle.Device!.Texts().Where(kernel => Files.Contains(kernel.Name.Split('.')[0])).ToList();
        Assert.Equal(Files.Order(), kernels.Select(kernel => kernel.Name.Split('.')[0]).Distinct().Order());
        foreach (var (name, ptx) in kernels)
        {
            KernelRecords.CheckMemory(ptx, $"{name} on {device}");
        }

        string[] narrow =
        [
            "ElementwiseKernels.ConvertKernel", "ElementwiseKernels.FillKernel", "RowsKernels.LinkKernel", "ColumnSums.Kernel", "SumKernels.NormKernel", "SumKernels.SumKernel",
        ];
        Assert.All(kernels.Where(kernel => !narrow.Contains(kernel.Name)), kernel => Assert.Contains("ld.global.v4", kernel.Ptx));
        string[] reading = ["SumKernels.PartsKernel", "ScalarHeadKernels.ForwardKernel", .. narrow.Where(name => name != "ElementwiseKernels.FillKernel")];
        Assert.All(kernels.Where(kernel => !reading.Contains(kernel.Name)), kernel => Assert.Contains("st.global.v4", kernel.Ptx));
    }

    [Fact]
    public void Gradients_throughTheDevicesForwardPass_matchFiniteDifferences()
    {
        // In f32: steps are larger than in GradientTests, and their error with them.
        const int Rows = 3, Width = 19, Heads = 1, Seed = 4, Size = Rows * (Width - 1);
        using Oracle oracle = new("emulator-f32", Seed);
        var backend = oracle.Backend;

        double[] x = oracle.Values(Rows * Width, outliers: 0), weight = oracle.Values(Width, outliers: 0), c = oracle.Values(x.Length, outliers: 0);
        Slice xs = oracle.Put(x), ws = oracle.Put(weight), rstd = oracle.Output(Rows), dx = oracle.Output(x.Length), dWeight = oracle.Put(new double[Width]);
        backend.RmsNormForward(xs, ws, 0.1, oracle.Output(x.Length), rstd);
        backend.RmsNormBackward(oracle.Put(c), xs, ws, rstd, dx, false, dWeight);
        Check("RmsNorm dx", x, dx, c, (moved, y) => backend.RmsNormForward(oracle.Put(moved), ws, 0.1, y, default));
        Check("RmsNorm dWeight", weight, dWeight, c, (moved, y) => backend.RmsNormForward(xs, oracle.Put(moved), 0.1, y, default));
        double[] residual = oracle.Values(x.Length, outliers: 0), rest = [.. x.Zip(residual, (a, b) => a - b)];
        Check("RmsNorm of a sum", residual, dx, c, (moved, y) => backend.RmsNormForward(oracle.Put(rest), ws, 0.1, y, default, oracle.Put(moved)));

        double[] cValues = oracle.Values(Rows, outliers: 0);
        backend.Fill(dWeight, 0);
        backend.ScalarHeadBackward(oracle.Put(cValues), xs, ws, dx, dWeight);
        Check("ScalarHead dHidden", x, dx, cValues, (moved, values) => backend.ScalarHeadForward(oracle.Put(moved), ws, values));
        Check("ScalarHead dWeight", weight, dWeight, cValues, (moved, values) => backend.ScalarHeadForward(xs, oracle.Put(moved), values));

        double[] gate = oracle.Values(x.Length, outliers: 0), up = oracle.Values(x.Length, outliers: 0);
        Slice gs = oracle.Put(gate), us = oracle.Put(up), dGate = oracle.Output(x.Length), dUp = oracle.Output(x.Length);
        backend.SwiGluBackward(oracle.Put(c), gs, us, dGate, dUp);
        Check("SwiGlu dGate", gate, dGate, c, (moved, y) => backend.SwiGluForward(oracle.Put(moved), us, y));
        Check("SwiGlu dUp", up, dUp, c, (moved, y) => backend.SwiGluForward(gs, oracle.Put(moved), y));

        RandomKey key = new(1, 2, 3);
        backend.Dropout(oracle.Put(c), 0.4, key, dx, accumulate: false);
        Check("Dropout", x, dx, c, (moved, y) => backend.Dropout(oracle.Put(moved), 0.4, key, y, accumulate: false));

        double[] turned = oracle.Values(Size, outliers: 0), angles = oracle.Values(5 * (Width - 1) / 2), cRope = oracle.Values(Size);
        Slice cos = oracle.Put([.. angles.Select(Math.Cos)]), sin = oracle.Put([.. angles.Select(Math.Sin)]), positions = oracle.Put([4, 0, 2]), gradient = oracle.Put(cRope);
        backend.Rope(gradient, cos, sin, positions, Heads, Width - 1, inverse: true);
        Check("Rope", turned, gradient, cRope, (moved, y) =>
        {
            backend.Copy(oracle.Put(moved), y);
            backend.Rope(y, cos, sin, positions, Heads, Width - 1, inverse: false);
        });

        double[] table = oracle.Values(2 * Width, outliers: 0);
        Slice ids = oracle.Put([1, 0, 1]), dTable = oracle.Put(new double[table.Length]);
        backend.EmbeddingBackward(ids, oracle.Put(c), dTable);
        Check("Embedding", table, dTable, c, (moved, y) => backend.EmbeddingForward(ids, new Weight(2, Width, oracle.Put(moved)), y));

        void Check(string what, double[] at, Slice gradient, double[] c, Action<double[], Slice> forward) =>
            FiniteDifference.Check(what, Seed, at, oracle.Get(gradient), moved =>
            {
                var y = oracle.Output(c.Length);
                forward(moved, y);
                return oracle.Get(y).Zip(c, (a, b) => a * b).Sum();
            }, step: 1e-2, tolerance: 1e-3);
    }

    /// <summary>Every operation once, with what it wrote.</summary>
    internal static List<(string What, double[] Values)> RunAll(Oracle oracle, int rows, int width)
    {
        int length = rows * width;
        var backend = oracle.Backend;
        List<(string, double[])> results = [];
        double[] values = oracle.Values(length), others = oracle.Values(length);
        Slice x = oracle.Put(values), y = oracle.Put(others), z = oracle.Output(length), dGate = oracle.Output(length), parameters = oracle.PutParameter(values);
        Slice angles = oracle.Put(values, DType.F32), weight = oracle.PutParameter(values[..width]), rstd = oracle.OutputParameter(rows), one = oracle.OutputParameter(1);
        Slice half = oracle.Put(new double[length], DType.F16), indices = oracle.Put([1, 0]), ids = oracle.Put([1, 1]), dWeight = oracle.PutParameter(new double[width]), dTable = oracle.PutParameter(new double[length]);

        Run("Fill", () => backend.Fill(z, 1.5), z);
        Run("Add", () => backend.Add(x, 0.5, z), z);
        Run("Copy", () => backend.Copy(x, half), half);
        Run("Dropout", () => backend.Dropout(x, 0.4, new RandomKey(1, 2, 3), z, accumulate: true), z);
        Run("Norm", () => backend.Norm(parameters, one), one);
        Run("Sum", () => backend.Sum(parameters, 2, one, accumulate: true), one);
        Run("GatherRows", () => backend.GatherRows(x, ids, width, z), z);
        Run("ScatterRows", () => backend.ScatterRows(x, indices, width, z, accumulate: false), z);
        Run("ScatterRows, added", () => backend.ScatterRows(x, ids, width, z, accumulate: true), z);
        Run("EmbeddingForward", () => backend.EmbeddingForward(ids, new Weight(rows, width, parameters), z), z);
        Run("EmbeddingBackward", () => backend.EmbeddingBackward(ids, x, dTable), dTable);
        Run("SwiGluForward", () => backend.SwiGluForward(x, y, z), z);
        Run("SwiGluBackward", () => backend.SwiGluBackward(x, y, z, dGate, z), dGate, z);
        Run("RmsNormForward", () => backend.RmsNormForward(x, weight, 1e-5, z, rstd, y), x, z, rstd);
        Run("RmsNormBackward", () => backend.RmsNormBackward(y, x, weight, rstd, z, accumulate: true, dWeight), z, dWeight);
        Run("ScalarHeadForward", () => backend.ScalarHeadForward(y, weight, rstd), rstd);
        Run("ScalarHeadBackward", () => backend.ScalarHeadBackward(rstd, y, weight, z, dWeight), z, dWeight);
        Run("Rope", () => backend.Rope(x, angles, angles, indices, heads: 1, width, inverse: true), x);
        return results;

        void Run(string what, Action run, params Slice[] written)
        {
            run();
            results.AddRange(written.Select(slice => (what, oracle.Get(slice))));
        }
    }
}
