using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// Every family of kernels, on tiny shapes, where there is neither a tensor core nor any other instruction of sm_80: as C# on ILGPU's CPU accelerator, and as the PTX that older GPUs get,
/// of which the emulator refuses what they lack. Expected is what the host computes in double precision from the same numbers.
/// </summary>
public class PortableKernelTests
{
    public static TheoryData<string> Devices =>
        ["simulator-f32", "simulator-bf16", "emulator:sm_75-f32", "emulator:sm_75-bf16", "emulator:sm_70-bf16"];

    [Theory, MemberData(nameof(Devices))]
    public void MemoryBound_matchesTheHost(string device) => Check(device, oracle => MemoryBoundKernelTests.RunAll(oracle, rows: 2, width: 6));

    [Theory, MemberData(nameof(Devices))]
    public void LossOptimizerAndSampling_matchTheHost(string device) => Check(device, LossKernelTests.RunAll);

    [Theory, MemberData(nameof(Devices))]
    public void Linear_matchesTheHost(string device) => Check(device, oracle =>
    [
        .. Linear(oracle, WeightFormat.F32, 9, 20, 5, 2), // tiles
        .. Linear(oracle, WeightFormat.Nf4Double, 9, 64, 5, 2),
        .. Linear(oracle, WeightFormat.BF16, 9, 512, 3, 1, backward: false), // tiles in two parts
        .. Linear(oracle, WeightFormat.Nf4, 1, 64, 6, 2, backward: false), // a decoded token
    ]);

    [Theory, MemberData(nameof(Devices))]
    public void Attention_matchesTheHost(string device) => Check(device, oracle =>
    [
        .. Attention(oracle, new AttentionShape(2, 1, 8, 0.3), [0, 3, 0, 3, 3, 2, 3, 4]),
        .. Attention(oracle, new AttentionShape(1, 1, 6, 0.3, Window: 2), [0, 3, 0, 3]),
        .. Attention(oracle, new AttentionShape(2, 1, 8, 0.3), [0, 1, 0, 130], backward: false), // decoding: keys in two parts
    ]);

    [Theory, MemberData(nameof(Devices))]
    public void Quantize_givesTheBytesOfTheHost(string device)
    {
        using Oracle oracle = new(device, 5);
        Nf4KernelTests.CheckQuantize(oracle, oracle.Values(130), oracle.Backend.Activation, 64);
    }

    [Theory, MemberData(nameof(Devices))]
    public void Devices_haveNoTensorCores(string device)
    {
        using Oracle oracle = new(device, 6);
        Assert.False(oracle.Device!.HasTensorCores);
    }

    /// <summary>Runs operations on the device and on the host.</summary>
    static void Check(string device, Func<Oracle, List<(string What, double[] Values)>> run)
    {
        using Oracle kernels = new(device, 5), host = new("cpu-f64", 5, exactIn: kernels.Backend.Activation);
        foreach (var (expected, actual) in run(host).Zip(run(kernels)))
        {
            Compare.Close(expected.Values, actual.Values, 2 * kernels.Sums, $"{expected.What} on {device}");
        }
    }

    static List<(string What, double[] Values)> Linear(Oracle oracle, WeightFormat format, int n, int k, int o, int r, bool backward = true)
    {
        using StoredWeight stored = new(o, k, format, seed: 9);
        var (backend, weight) = (oracle.Backend, stored.On(oracle.Backend));
        Slice x = oracle.Put(oracle.Values(n * k)), input = oracle.Put(oracle.Values(n * k)), dy = oracle.Put(oracle.Values(n * o)), bias = oracle.PutParameter(oracle.Values(o));
        LoraFactors lora = new(oracle.PutParameter(oracle.Values(r * k)), oracle.PutParameter(oracle.Values(o * r)), r, 1.75);
        Slice xa = oracle.Output(n * r), y = oracle.Output(n * o), dx = oracle.Output(n * k), dInput = oracle.Output(n * k);
        Slice dA = oracle.FencedParameter(oracle.Values(r * k)), dB = oracle.FencedParameter(oracle.Values(o * r)), dBias = oracle.FencedParameter(oracle.Values(o));
        Slice dWeight = weight.Scales is null ? oracle.FencedParameter(oracle.Values(o * k)) : default;
        backend.LinearForward(x, weight, bias, lora, input, xa, y, accumulate: false);
        var results = Read(oracle, $"of Linear {format} {n} x {k} x {o} rank {r}", ("xa", xa), ("y", y));
        if (backward)
        {
            backend.LinearBackward(dy, x, input, weight, lora, xa, dx, dInput, accumulate: false, dA, dB, dWeight, dBias);
            results.AddRange(Read(oracle, $"of Linear {format} {n} x {k} x {o} rank {r}", ("dx", dx), ("dLoraInput", dInput), ("dA", dA), ("dB", dB), ("dBias", dBias), ("dWeight", dWeight)));
        }

        return results;
    }

    static List<(string What, double[] Values)> Attention(Oracle oracle, AttentionShape shape, int[] table, bool backward = true)
    {
        int queries = table[^4] + table[^3], keys = table[^2] + table[^1], query = shape.Heads * shape.HeadWidth, key = shape.KeyValueHeads * shape.HeadWidth;
        Slice q = oracle.Put(oracle.Values(queries * query)), k = oracle.Put(oracle.Values(keys * key)), v = oracle.Put(oracle.Values(keys * key)), sequences = oracle.Put(table);
        Slice dy = oracle.Put(oracle.Values(queries * query)), y = oracle.Output(queries * query), lse = oracle.OutputParameter(queries * shape.Heads);
        Slice dq = oracle.Output(queries * query), dk = oracle.Output(keys * key), dv = oracle.Output(keys * key);
        oracle.Backend.AttentionForward(shape, q, k, v, sequences, y, lse);
        var results = Read(oracle, $"of {shape} over {keys} keys", ("y", y), ("lse", lse));
        if (backward)
        {
            oracle.Backend.AttentionBackward(shape, dy, q, k, v, sequences, y, lse, dq, dk, dv);
            results.AddRange(Read(oracle, $"of {shape} over {keys} keys", ("dq", dq), ("dk", dk), ("dv", dv)));
        }

        return results;
    }

    static List<(string What, double[] Values)> Read(Oracle oracle, string of, params (string Name, Slice Slice)[] written) =>
        [.. written.Where(result => !result.Slice.IsEmpty).Select(result => ($"{result.Name} {of}", oracle.Get(result.Slice)))];
}
