using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Attention against the rate of a large matrix product, and decoding against the bytes of its cache, both on all threads.</summary>
static unsafe class AttentionBenchmark
{
    const int Rounds = 9, Size = 768;

    static readonly (int Heads, int KeyValueHeads, int Width, int Sequences, int Tokens)[] Training =
        [(9, 3, 64, 8, 256), (9, 3, 64, 1, 2048), (8, 8, 64, 1, 1024), (8, 2, 128, 1, 1024), (4, 4, 72, 4, 256)];

    public static void Run()
    {
        using var backend = new HostBackend<float>();
        using var buffers = new Buffers();
        Slice a = buffers.Random(Size * Size), c = buffers.Allocate(Size * Size, DType.F32);
        void Product() => Gemm.Multiply(Size, Size, Size, 1f, a.Pointer<float>(), Size, false, a.Pointer<float>(), Size, true, 0f, c.Pointer<float>(), Size);
        Console.WriteLine($"{Workers.Count} threads, {Simd.Path}, median of {Rounds} interleaved rounds; flops are those of visible keys");
        foreach (var (heads, keyValueHeads, width, sequences, tokens) in Training)
        {
            var shape = new AttentionShape(heads, keyValueHeads, width, 1 / Math.Sqrt(width));
            int rows = sequences * tokens;
            Slice table = Table(buffers, [.. Enumerable.Range(0, sequences).SelectMany(s => new[] { s * tokens, tokens, s * tokens, tokens })]);
            Slice q = buffers.Random((long)rows * heads * width), k = buffers.Random((long)rows * keyValueHeads * width), v = buffers.Random(k.Length), dy = buffers.Random(q.Length);
            Slice y = buffers.Random(q.Length), dq = buffers.Random(q.Length), dk = buffers.Random(k.Length), dv = buffers.Random(k.Length), lse = buffers.Random((long)rows * heads);
            void Forward() => backend.AttentionForward(shape, q, k, v, table, y, lse);
            void Backward() => backend.AttentionBackward(shape, dy, q, k, v, table, y, lse, dq, dk, dv);
            Forward();
            Check(shape, q, k, v, y, tokens);
            double[] seconds = [.. Timing.Interleaved(Rounds, 0.02, Product, Forward, Backward).Select(sample => sample.Median)];
            double flops = (double)sequences * tokens * (tokens + 1) / 2 * heads * width, peak = 2.0 * Size * Size * Size / seconds[0] / 1e9;
            double forward = 4 * flops / seconds[1] / 1e9, backward = 10 * flops / seconds[2] / 1e9;
            Console.WriteLine($"{sequences} x {tokens} tokens, {heads}/{keyValueHeads} heads of {width}: product {peak:F0} GFLOP/s; forward {1e3 * seconds[1]:F2} ms, {forward:F0} GFLOP/s, " +
                $"{forward / peak:F2} of it; backward {1e3 * seconds[2]:F2} ms, {backward:F0} GFLOP/s, {backward / peak:F2}");
        }

        Decode(backend, buffers);
    }

    static void Decode(HostBackend<float> backend, Buffers buffers)
    {
        const int Heads = 8, KeyValueHeads = 8, Width = 128, Keys = 16384; // 134 MB of keys and values: past any cache
        var shape = new AttentionShape(Heads, KeyValueHeads, Width, 1 / Math.Sqrt(Width));
        Slice q = buffers.Random(Heads * Width), k = buffers.Random((long)Keys * KeyValueHeads * Width), v = buffers.Random(k.Length), y = buffers.Random(q.Length);
        Slice table = Table(buffers, [0, 1, 0, Keys]);
        double[] seconds = [.. Timing.Interleaved(Rounds, 0.02, () => Read(k), () => backend.AttentionForward(shape, q, k, v, table, y, default)).Select(sample => sample.Median)];
        double peak = k.Bytes / seconds[0] / 1e9, rate = 2 * k.Bytes / seconds[1] / 1e9;
        Console.WriteLine($"decoding over {Keys} keys: {rate:F1} GB/s, {rate / peak:F2} of reading in order ({peak:F1} GB/s)");
    }

    static void Read(Slice values) => Workers.Run(64, part =>
    {
        var range = values.Range(values.Length / 64 * part, values.Length / 64);
        if (float.IsNaN(System.Numerics.Tensors.TensorPrimitives.Sum<float>(range.AsFloats())))
        {
            throw new InvalidOperationException("perf attention: the inputs hold a NaN.");
        }
    });

    static Slice Table(Buffers buffers, int[] values)
    {
        Slice table = buffers.Allocate(values.Length, DType.I32);
        MemoryMarshal.AsBytes<int>(values).CopyTo(table.AsBytes());
        return table;
    }

    /// <summary>The last query of the first sequence, head by head, against plain loops.</summary>
    static void Check(AttentionShape shape, Slice q, Slice k, Slice v, Slice y, int tokens)
    {
        for (int head = 0; head < shape.Heads; head++)
        {
            int row = ((tokens - 1) * shape.Heads + head) * shape.HeadWidth, keyHead = head / (shape.Heads / shape.KeyValueHeads);
            int Key(int j) => (j * shape.KeyValueHeads + keyHead) * shape.HeadWidth;
            double[] p = [.. Enumerable.Range(0, tokens).Select(j => Math.Exp(shape.Scale * Enumerable.Range(0, shape.HeadWidth).Sum(c => (double)q.AsFloats()[row + c] * k.AsFloats()[Key(j) + c])))];
            double expected = p.Select((weight, j) => weight * v.AsFloats()[Key(j)]).Sum() / p.Sum(), got = y.AsFloats()[row];
            if (!(Math.Abs(got - expected) < 1e-5))
            {
                throw new InvalidOperationException($"perf attention: head {head} is {got}, expected {expected}. No times are printed for a wrong result.");
            }
        }
    }
}
