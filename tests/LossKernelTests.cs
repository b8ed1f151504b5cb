using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// Of the kernels of cross-entropy, AdamW and sampling: how much they move, what ILGPU makes of them, and that gradients are those of the device's own forward pass.
/// </summary>
public class LossKernelTests
{
    public static TheoryData<string> Devices => ["emulator-f32", "emulator-bf16"];

    [Theory, MemberData(nameof(Devices))]
    public void Kernels_wholeQuads_moveLittleMoreThanTheirFloor(string device)
    {
        const int Rows = 2, Vocabulary = 8192, Width = 8, Length = 16384;
        using Oracle oracle = new(device, 1);
        var backend = oracle.Backend;
        int size = backend.Activation.Size();
        Slice hidden = oracle.Put(oracle.Values(Rows * Width)), targets = oracle.Put([5, 8191]), logprobs = oracle.OutputParameter(Rows), ones = oracle.PutParameter([1, 1]);
        var head = new Weight(Vocabulary, Width, oracle.Put(oracle.Values(Vocabulary * Width)));
        Moves(4 * Rows * Vocabulary, "CrossEntropyKernels.RowKernel", () => backend.TokenLogProbs(hidden, head, targets, 1, logprobs, default, default, default, default));
        Moves((8 + size) * Rows * Vocabulary, "CrossEntropyKernels.RowKernel", () => backend.TokenLogProbs(hidden, head, targets, 1, logprobs, default, ones, oracle.Output(Rows * Width), default));
        Moves((8 + size) * Rows * Vocabulary, "CrossEntropyKernels.RowKernel", () =>
            backend.TokenLogProbs(hidden, head, targets, 1, logprobs, default, ones, oracle.Output(Rows * Width), default, ones)); // an entropy's gradient moves nothing more
        Moves(size * Rows * Vocabulary, "CrossEntropyKernels.RowKernel", () =>
            backend.TokenLogProbs(hidden, head, oracle.Put([-100, -100]), 1, logprobs, default, ones, oracle.Output(Rows * Width), default)); // zeros are written, nothing is read

        Slice p = oracle.PutParameter(oracle.Values(Length)), g = oracle.PutParameter(oracle.Values(Length)), m = oracle.PutParameter(new double[Length]), v = oracle.PutParameter(new double[Length]);
        AdamWStep step = new(1, 1e-3, 0.9, 0.999, 1e-8, 0.1, 0, Decaying: Length / 2);
        Moves(28 * Length, "AdamWKernels.Kernel", () => backend.AdamW(p, g, m, v, step, default));
        Slice first = oracle.Put(new double[Length], DType.U8), second = oracle.Put(new double[Length], DType.U8);
        Slice scales = oracle.Put(new double[Length / 256], DType.F32), others = oracle.Put(new double[Length / 256], DType.F32);
        var moments = new Moments8Bit(first, scales, second, others, oracle.Put(Array.ConvertAll(Moments8Bit.MapValues.ToArray(), x => (double)x), DType.F32));
        Moves(16 * Length + 16 * (Length / 256), "AdamW8BitKernels.Kernel", () => backend.AdamW8Bit(p, g, moments, step, default));

        const int Tokens = 16384; // so that the last steps of a draw, which look at fewer and fewer, are few beside the whole
        Slice logits = oracle.Put(oracle.Values(Rows * Tokens)), ids = oracle.Put(new int[Rows]);
        Moves(3 * size * Rows * Tokens, "SamplerKernels.Kernel", () => backend.Sample(logits, Rows, new Sampling(1), default, ids, default));
        Moves((3 + 2 * 2 * size) * size * Rows * Tokens, "SamplerKernels.Kernel", () => backend.Sample(logits, Rows, new Sampling(1, TopP: 0.9), default, ids, default));

        void Moves(long floor, string kernel, Action run)
        {
            var counters = oracle.Device!.Counters(run, kernel);
            counters.CheckFloor(floor, $"{kernel} on {device}");
            if (kernel != "AdamW8BitKernels.Kernel") // whose look-ups are where the values are
            {
                Assert.Equal(counters.SharedRequests, counters.SharedWavefronts);
            }
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void RowKernel_meetsOneBarrierARow(string device)
    {
        using Oracle oracle = new(device, 2);
        var counters = oracle.Device!.Counters(
            () => oracle.Backend.TokenLogProbs(oracle.Put(oracle.Values(12)), new Weight(50, 4, oracle.Put(oracle.Values(200))), oracle.Put([1, -100, 3]), 1, oracle.OutputParameter(3),
                oracle.OutputParameter(3), oracle.PutParameter([1, 1, 1.0]), oracle.Output(12), default),
            "CrossEntropyKernels.RowKernel");
        Assert.Equal(2, counters.Barriers);
    }

    [Theory, MemberData(nameof(Devices))]
    public void Kernels_inPtx_keepEverythingInRegistersAndMoveQuads(string device)
    {
        using Oracle oracle = new(device, 3);
        RunAll(oracle);
        string[] names = ["AdamW8BitKernels.Kernel", "AdamWKernels.Kernel", "CrossEntropyKernels.RowKernel", "SamplerKernels.Kernel"];
        var kernels = oracle.Device!.Texts().Where(kernel => names.Contains(kernel.Name)).ToList();
        Assert.Equal(names, kernels.Select(kernel => kernel.Name).Distinct().Order());
        foreach (var (name, ptx) in kernels)
        {
            KernelRecords.CheckMemory(ptx, name);
            Assert.True(ptx.Contains("ld.global.v4", StringComparison.Ordinal) || (name == "SamplerKernels.Kernel" && ptx.Contains("ld.global.v2", StringComparison.Ordinal)),
                $"{name} reads element by element"); // four bfloat16 are two words
        }
    }

    [Fact]
    public void Gradients_throughTheDevicesForwardPass_matchFiniteDifferences()
    {
        // In f32: steps are larger than in double, and their error with them.
        const int Rows = 4, Width = 7, Vocabulary = 21, Seed = 4;
        using Oracle oracle = new("emulator-f32", Seed);
        double[] hidden = oracle.Values(Rows * Width, 0), head = oracle.Values(Vocabulary * Width, 0), coefficients = oracle.Values(Rows, 0), entropyCoefficients = oracle.Values(Rows, 0);
        Slice targets = oracle.Put([3, -100, 20, 0]), dHidden = oracle.Output(hidden.Length), dHead = oracle.PutParameter(new double[head.Length]);
        Slice logprobs = oracle.OutputParameter(Rows), entropy = oracle.OutputParameter(Rows);
        oracle.Backend.TokenLogProbs(oracle.Put(hidden), new Weight(Vocabulary, Width, oracle.Put(head)), targets, 0.8, logprobs, default, oracle.PutParameter(coefficients), dHidden, dHead,
            oracle.PutParameter(entropyCoefficients));
        FiniteDifference.Check("dHidden", Seed, hidden, oracle.Get(dHidden), moved => Loss(moved, head), step: 1e-2, tolerance: 1e-3);
        FiniteDifference.Check("dHead", Seed, head, oracle.Get(dHead), moved => Loss(hidden, moved), step: 1e-2, tolerance: 1e-3);

        double Loss(double[] h, double[] w)
        {
            oracle.Backend.TokenLogProbs(oracle.Put(h), new Weight(Vocabulary, Width, oracle.Put(w)), targets, 0.8, logprobs, entropy, default, default, default);
            return oracle.Get(logprobs).Zip(coefficients, (x, c) => x * c).Sum() + oracle.Get(entropy).Zip(entropyCoefficients, (x, c) => x * c).Sum();
        }
    }

    /// <summary>Every operation once, and what it wrote.</summary>
    internal static List<(string What, double[] Values)> RunAll(Oracle oracle)
    {
        const int Rows = 2, Width = 3, Vocabulary = 40, Length = 300;
        var backend = oracle.Backend;
        double[] values = oracle.Values(Length);
        Slice logprobs = oracle.OutputParameter(Rows), entropy = oracle.OutputParameter(Rows), dHidden = oracle.Output(Rows * Width), dHead = oracle.PutParameter(new double[Vocabulary * Width]);
        backend.TokenLogProbs(oracle.Put(values[..(Rows * Width)]), new Weight(Vocabulary, Width, oracle.Put(values[..(Vocabulary * Width)])), oracle.Put([1, 39]), 1, logprobs, entropy,
            oracle.PutParameter([1, -2.0]), dHidden, dHead, oracle.PutParameter([0.5, 1]));

        AdamWStep step = new(3, 1e-2, 0.9, 0.999, 1e-8, 0.1, 1, Decaying: 100);
        Slice p = oracle.PutParameter(values), q = oracle.PutParameter(values), g = oracle.PutParameter(oracle.Values(Length)), norm = oracle.PutParameter([20.0]);
        Slice m = oracle.PutParameter(new double[Length]), v = oracle.PutParameter(new double[Length]);
        backend.AdamW(p, g, m, v, step, norm);
        Slice first = oracle.Put(new double[Length], DType.U8), second = oracle.Put(new double[Length], DType.U8), scales = oracle.Put([0, 0], DType.F32), others = oracle.Put([0, 0], DType.F32);
        backend.AdamW8Bit(q, g, new Moments8Bit(first, scales, second, others, oracle.Put(Array.ConvertAll(Moments8Bit.MapValues.ToArray(), x => (double)x), DType.F32)), step, norm);

        Slice ids = oracle.Put([0]), drawn = oracle.OutputParameter(1);
        backend.Sample(oracle.Put(values), 1, new Sampling(8), new RandomKey(1, 2, 3), ids, drawn, oracle.Put([9]));
        (string What, Slice Slice)[] written =
        [
            ("logprobs", logprobs), ("entropy", entropy), ("dHidden", dHidden), ("dHead", dHead), ("AdamW p", p), ("AdamW m", m), ("AdamW v", v), ("AdamW8Bit p", q),
            ("AdamW8Bit first moments", first), ("their scales", scales), ("AdamW8Bit second moments", second), ("their scales", others), ("ids", ids), ("their logprobs", drawn),
        ];
        return [.. written.Select(result => (result.What, oracle.Get(result.Slice)))];
    }
}
