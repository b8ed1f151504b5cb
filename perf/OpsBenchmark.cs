using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>The operations around the matrix products, at the shapes of one layer of a 135M-parameter model: how near each comes to copying its bytes.</summary>
static class OpsBenchmark
{
    const int Tokens = 256, Model = 576, Hidden = 1536, Heads = 9, HeadWidth = 64, Adapter = 5_000_000;

    public static void Run()
    {
        using HostBackend<float> device = new();
        using Buffers buffers = new();
        Slice x = buffers.Random(Tokens * Model), y = buffers.Random(Tokens * Model), dy = buffers.Random(Tokens * Model), weight = buffers.Random(Model);
        Slice rstd = buffers.Random(Tokens), dWeight = buffers.Random(Model);
        Slice gate = buffers.Random(Tokens * Hidden), up = buffers.Random(Tokens * Hidden), wide = buffers.Random(Tokens * Hidden);
        Slice dGate = buffers.Random(Tokens * Hidden), dUp = buffers.Random(Tokens * Hidden);
        Slice cos = buffers.Random(Tokens * HeadWidth / 2), sin = buffers.Random(Tokens * HeadWidth / 2), positions = buffers.Allocate(Tokens, DType.I32);
        Slice p = buffers.Random(Adapter), g = buffers.Random(Adapter), m = buffers.Allocate(Adapter, DType.F32), v = buffers.Allocate(Adapter, DType.F32);
        Slice norm = buffers.Random(1);
        RandomKey key = new(1, 2, 3);
        AdamWStep step = new(10, 1e-4, 0.9, 0.999, 1e-8, 0.01, 1);

        // Bytes are those that the header of each operation counts as its floor.
        (string Name, long Bytes, Action Run)[] operations =
        [
            ("Add", 3 * x.Bytes, () => device.Add(x, 1e-3, y)),
            ("RmsNormForward", 2 * x.Bytes, () => device.RmsNormForward(x, weight, 1e-5, y, rstd)),
            ("RmsNormBackward", 3 * x.Bytes, () => device.RmsNormBackward(dy, x, weight, rstd, y, false, default)),
            ("RmsNormBackward + dWeight", 5 * x.Bytes, () => device.RmsNormBackward(dy, x, weight, rstd, y, false, dWeight)),
            ("ScalarHeadForward", x.Bytes, () => device.ScalarHeadForward(x, weight, rstd)),
            ("ScalarHeadBackward + dWeight", 2 * x.Bytes, () => device.ScalarHeadBackward(rstd, x, weight, y, dWeight)),
            ("Rope", 2 * x.Bytes, () => device.Rope(y, cos, sin, positions, Heads, HeadWidth, false)),
            ("SwiGluForward", 3 * gate.Bytes, () => device.SwiGluForward(gate, up, wide)),
            ("SwiGluBackward", 5 * gate.Bytes, () => device.SwiGluBackward(wide, gate, up, dGate, dUp)),
            ("Dropout", 2 * x.Bytes, () => device.Dropout(x, 0.05, key, y, false)),
            ("Norm (5M)", g.Bytes, () => device.Norm(g, norm)),
            ("AdamW (5M)", 7 * p.Bytes, () => device.AdamW(p, g, m, v, step, norm)),
            ("Copy (5M)", 2 * p.Bytes, () => device.Copy(p, g)),
        ];
        Sample[] samples = Timing.Interleaved(9, 0.01, [.. operations.Select(operation => operation.Run)]);
        Console.WriteLine($"{Tokens} tokens, width {Model}, hidden {Hidden}, {Heads} heads of {HeadWidth}; {Environment.ProcessorCount} processors");
        Console.WriteLine($"{"",-28} {"median",12} {"best",12} {"best",12}");
        foreach (var (operation, time) in operations.Zip(samples))
        {
            Console.WriteLine($"{operation.Name,-28} {time.Median * 1e6,9:0.0} µs {time.Best * 1e6,9:0.0} µs {operation.Bytes / time.Best / 1e9,7:0.0} GB/s");
        }
    }
}
