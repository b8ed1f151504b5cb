using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Mat-vec products, which decoding is made of, against the rate at which all threads can read memory.</summary>
static unsafe class MatVecBenchmark
{
    const int Rounds = 15, K = 576;
    const int Rows = 1 << 18; // 75 MB as NF4: past any cache

    static readonly int[] Batches = [1, 2, 4, 8, 16];

    /// <param name="args">[THREADS]; all by default.</param>
    public static int Run(Arguments args)
    {
        Workers.Count = args.Number("THREADS", Workers.Count);

        using var buffers = new Buffers();
        var x = buffers.Random(Batches[^1] * K);
        var y = buffers.Allocate((long)Batches[^1] * Rows, DType.F32);
        Console.WriteLine($"{Workers.Count} threads, {Simd.Path}, weight [{Rows}, {K}], best of {Rounds} interleaved rounds");
        foreach (var type in new[] { DType.U8, DType.BF16, DType.F32 })
        {
            var weight = buffers.RandomWeight(type == DType.U8 ? Rows : Rows / 4, K, type);
            var actions = new List<Action> { () => MemoryRead.All(weight.Values) };
            foreach (int batch in Batches)
            {
                void Multiply() => Gemm.Multiply(batch, 1f, x.Pointer<float>(), K, weight, true, 0f, y.Pointer<float>(), weight.Rows);
                y.AsFloats().Fill(float.NaN);
                Multiply();
                Check(weight, x, y, batch);
                actions.Add(Multiply);
            }

            var seconds = Timing.Interleaved(Rounds, 0.02, [.. actions]);
            double peak = weight.Values.Bytes / seconds[0].Best / 1e9;
            Console.WriteLine($"{(type == DType.U8 ? "NF4" : type)}: reading {peak:F1} GB/s");
            for (int i = 0; i < Batches.Length; i++)
            {
                double rate = weight.Bytes / seconds[i + 1].Best / 1e9;
                Console.WriteLine($"  {Batches[i],2} rows: {rate,6:F1} GB/s, {rate / peak,5:F2} of reading, {seconds[i + 1].Best / seconds[1].Best,5:F2} x the time of one row");
            }
        }

        return 0;
    }

    /// <summary>A sample of outputs against plain loops.</summary>
    static void Check(Weight weight, Slice x, Slice y, int batch)
    {
        var row = new float[K];
        for (int sample = 0; sample < 100; sample++)
        {
            int j = (int)((long)sample * (weight.Rows - 1) / 99);
            fixed (float* values = row)
            {
                WeightReader.Read(weight, (long)j * K, K, values);
            }

            for (int i = 0; i < batch; i++)
            {
                double expected = 0;
                for (int k = 0; k < K; k++)
                {
                    expected += (double)row[k] * x.AsFloats()[i * K + k];
                }

                double got = y.AsFloats()[i * weight.Rows + j];
                if (!(Math.Abs(got - expected) < 1e-4))
                {
                    throw new InvalidOperationException($"perf matvec: row {i}, output {j} is {got}, expected {expected}. No times are printed for a wrong result.");
                }
            }
        }
    }
}
