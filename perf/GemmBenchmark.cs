using System.Globalization;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>The host matrix product against OpenBLAS, in one run: shapes of a 135M model, and a large square.</summary>
static unsafe class GemmBenchmark
{
    const int Rounds = 15;

    static readonly (int M, int N, int K)[] Shapes = [(512, 576, 576), (512, 1536, 576), (256, 49152, 576), (2048, 2048, 2048)];

    /// <param name="args">[THREADS]; all by default.</param>
    public static int Run(Arguments args)
    {
        Workers.Count = args.Number("THREADS", Workers.Count);

        Console.WriteLine($"OpenBLAS: {OpenBlas.Describe()}");
        Console.WriteLine($"{Workers.Count} threads, {Simd.Path}, f32, GFLOP/s (median of {Rounds} interleaved rounds)");
        if (OpenBlas.IsPresent)
        {
            OpenBlas.SetThreads(Workers.Count);
        }

        Console.WriteLine("M x N x K            | BLAS A·Bᵀ    A·B | ours A·Bᵀ    A·B   NF4ᵀ    NF4 | A·Bᵀ/BLAS A·B/BLAS NF4ᵀ/A·Bᵀ  NF4/A·B");
        foreach (var (m, n, k) in Shapes)
        {
            Print(m, n, k);
        }

        return 0;
    }

    static void Print(int m, int n, int k)
    {
        using var buffers = new Buffers();
        float* a = buffers.Random((long)m * k).Pointer<float>(), b = buffers.Random((long)n * k).Pointer<float>();
        var c = buffers.Allocate((long)m * n, DType.F32);
        float* output = c.Pointer<float>();
        var forward = buffers.RandomWeight(n, k, DType.U8);  // W [N, K] as Wᵀ
        var backward = buffers.RandomWeight(k, n, DType.U8); // W [K, N] as it is

        Action?[] actions =
        [
            OpenBlas.IsPresent ? () => OpenBlas.Multiply(m, n, k, a, b, true, output) : null,
            OpenBlas.IsPresent ? () => OpenBlas.Multiply(m, n, k, a, b, false, output) : null,
            () => Gemm.Multiply(m, n, k, 1f, a, k, false, b, k, true, 0f, output, n),
            () => Gemm.Multiply(m, n, k, 1f, a, k, false, b, n, false, 0f, output, n),
            () => Gemm.Multiply(m, 1f, a, k, forward, true, 0f, output, n),
            () => Gemm.Multiply(m, 1f, a, k, backward, false, 0f, output, n),
        ];
        Func<int, int, double>[] elements =
        [
            (p, j) => b[(long)j * k + p], (p, j) => b[(long)p * n + j],
            (p, j) => b[(long)j * k + p], (p, j) => b[(long)p * n + j],
            (p, j) => Element(forward, j, p), (p, j) => Element(backward, p, j),
        ];
        for (int i = 0; i < actions.Length; i++)
        {
            if (actions[i] is { } action)
            {
                c.AsFloats().Fill(float.NaN);
                action();
                Check(m, n, k, a, elements[i], output, i);
            }
        }

        var samples = Timing.Interleaved(Rounds, 0.02, actions);
        double flops = 2.0 * m * n * k;
        PrintLine($"{m} x {n} x {k}", samples.Select(sample => flops / sample.Median / 1e9).ToArray());
        PrintLine("    best round", samples.Select(sample => flops / sample.Best / 1e9).ToArray());
    }

    static void PrintLine(string name, double[] speed) => Console.WriteLine(
        $"{name,-20} | {Cell(speed[0], "F1"),9}{Cell(speed[1], "F1"),7} | {speed[2],9:F1}{speed[3],7:F1}{speed[4],7:F1}{speed[5],7:F1} | "
        + $"{Cell(speed[2] / speed[0], "F2"),9}{Cell(speed[3] / speed[1], "F2"),9}{speed[4] / speed[2],11:F2}{speed[5] / speed[3],9:F2}");

    /// <summary>A number, or a dash for one that there is none of: OpenBLAS is not everywhere.</summary>
    internal static string Cell(double value, string format) => double.IsNaN(value) ? "-" : value.ToString(format, CultureInfo.InvariantCulture);

    static double Element(Weight weight, int row, int column)
    {
        float value;
        WeightReader.Read(weight, (long)row * weight.Columns + column, 1, &value);
        return value;
    }

    /// <summary>Compares outputs spread over the matrix with plain loops. A wrong product has no speed.</summary>
    static void Check(int m, int n, int k, float* a, Func<int, int, double> b, float* c, int action)
    {
        var random = new Random(action);
        for (int sample = 0; sample < 500; sample++)
        {
            int i = random.Next(m), j = random.Next(n);
            double expected = 0;
            for (int p = 0; p < k; p++)
            {
                expected += a[(long)i * k + p] * b(p, j);
            }

            double got = c[(long)i * n + j];
            if (!(Math.Abs(got - expected) < 1e-4 * Math.Sqrt(k)))
            {
                throw new InvalidOperationException($"perf gemm: {m}x{n}x{k}, column {action + 1}: C[{i}, {j}] is {got}, expected {expected}. No times are printed for a wrong result.");
            }
        }
    }
}
