using System.Diagnostics;
using IlgpuPeft.PtxEmulator;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The teaching ladders: one computation from its formula to its fastest form, one idea a rung. Each rung is a file in this folder; the README of <c>kernels</c> is the course over them.
/// </summary>
public static class Ladder
{
    const int Repeats = 20;

    static readonly (string Name, string Idea, bool Nf4, Action<KernelDevice, MatMulProblem> Run)[] MatMul =
    [
        ("1 naive", "the formula", false, MatMul1Naive.Run),
        ("2 coalesced", "neighbours read neighbours", false, MatMul2Coalesced.Run),
        ("3 shared tiles", "read once, use 16 times", false, MatMul3SharedTiles.Run),
        ("4 register tiles", "16 sums a thread", false, MatMul4RegisterTiles.Run),
        ("5 vector loads", "16 bytes an access", false, MatMul5VectorLoads.Run),
        ("6 tensor cores", "16 x 8 x 16 an instruction", false, MatMul6TensorCores.Run),
        ("7 swizzle", "no two rows in one bank", false, MatMul7Swizzle.Run),
        ("8 pipeline", "copy while multiplying", false, MatMul8Pipeline.Run),
        ("9 NF4", "B in 4 bits", true, MatMul9Nf4.Run),
    ];

    static readonly (string Name, string Idea, bool Half, Action<KernelDevice, AttentionProblem> Run)[] Attention =
    [
        ("1 scores", "the formula", false, Attention1Scores.Run),
        ("2 online", "correct as you go", false, Attention2Online.Run),
        ("3 tiles", "queries share keys", false, (device, p) => Operation<F32>(device, p, p.Q, p.K, p.V, p.Y)),
        ("4 tensor cores", "scores stay fragments", true, (device, p) => Operation<BF16>(device, p, p.HalfQ, p.HalfK, p.HalfV, p.HalfY)),
    ];

    /// <summary>Climbs the matrix product ladder: C = A·B, all [n, n].</summary>
    /// <param name="device">A device that runs PTX: <c>emulator</c>, or <c>cuda:N</c> from compute capability 8.0 on.</param>
    /// <param name="size">n, a multiple of 64.</param>
    /// <exception cref="ArgumentException">The device is not there or has no tensor cores, or the size is no multiple of 64.</exception>
    public static IReadOnlyList<RungResult> ClimbMatMul(string device, int size) => Alone(device, kernels => ClimbMatMul(kernels, size));

    /// <summary>Climbs the attention ladder: one causal head of 32 elements over n tokens.</summary>
    /// <inheritdoc cref="ClimbMatMul(string, int)" />
    public static IReadOnlyList<RungResult> ClimbAttention(string device, int size) => Alone(device, kernels => ClimbAttention(kernels, size));

    internal static IReadOnlyList<RungResult> ClimbMatMul(KernelDevice device, int size)
    {
        using MatMulProblem problem = new(device, size);
        return [.. MatMul.Select(rung =>
        {
            problem.Poison();
            return Climb(device, rung.Name, rung.Idea, () => rung.Run(device, problem), () => problem.RelativeError(rung.Nf4));
        })];
    }

    internal static IReadOnlyList<RungResult> ClimbAttention(KernelDevice device, int size)
    {
        using AttentionProblem problem = new(device, size);
        return [.. Attention.Select(rung =>
        {
            problem.Poison();
            return Climb(device, rung.Name, rung.Idea, () => rung.Run(device, problem), () => problem.RelativeError(rung.Half));
        })];
    }

    // On a device of its own: what ILGPU compiles depends a little on what it compiled before (an instruction moves out of a loop or stays), and the course states counts.
    static IReadOnlyList<RungResult> Alone(string name, Func<KernelDevice, IReadOnlyList<RungResult>> climb)
    {
        var device = KernelDevices.Open(name);
        try
        {
            return device.HasTensorCores
                ? climb(device)
                : throw new ArgumentException($"ladder: {name} has no bfloat16 tensor cores, expected a GPU of compute capability 8.0 or newer, or emulator.", nameof(name));
        }
        finally
        {
            device.Return();
        }
    }

    static RungResult Climb(KernelDevice device, string name, string idea, Action run, Func<double> error)
    {
        device.Log = [];
        run();
        List<LaunchCounters> counters = [.. device.Log.Select(launch => launch.Counters).OfType<LaunchCounters>()];
        device.Log = null;
        return new RungResult(name, idea, error(), counters, counters.Count > 0 ? null : Time(device, run));
    }

    static TimeSpan Time(KernelDevice device, Action run)
    {
        run();
        device.Synchronize();
        long start = Stopwatch.GetTimestamp();
        for (int i = 0; i < Repeats; i++)
        {
            run();
        }

        device.Synchronize();
        return Stopwatch.GetElapsedTime(start) / Repeats;
    }

    static void Operation<T>(KernelDevice device, AttentionProblem problem, Slice q, Slice k, Slice v, Slice y) where T : unmanaged, IElement<T>
    {
        using ScratchBuffers scratch = new(device);
        AttentionShape shape = new(1, 1, AttentionProblem.Width, AttentionProblem.Scale);
        AttentionKernels.Forward<T>(device, scratch, T.Type == DType.BF16, shape, q, k, v, problem.Sequences, y, default);
    }
}

/// <summary>What one rung of a ladder did.</summary>
/// <param name="Name">Number and name.</param>
/// <param name="Idea">What is new in it.</param>
/// <param name="RelativeError">‖result − f64 reference‖ / ‖f64 reference‖.</param>
/// <param name="Launches">What the emulator counted, one for each kernel; empty on a GPU.</param>
/// <param name="Time">Mean time on a GPU; null on the emulator, whose time says nothing.</param>
public sealed record RungResult(string Name, string Idea, double RelativeError, IReadOnlyList<LaunchCounters> Launches, TimeSpan? Time)
{
    /// <summary>Warp instructions of all launches.</summary>
    public long Instructions => Launches.Sum(launch => launch.WarpInstructions);

    /// <summary>Bytes that move between global memory and the multiprocessors, in whole sectors of 32.</summary>
    public long GlobalBytes => 32 * Launches.Sum(launch => launch.GlobalLoadSectors + launch.GlobalStoreSectors);

    /// <summary>Bytes that threads ask loads for, over bytes that move for them: below 1 most of what moves is thrown away, above 1 lanes share.</summary>
    public double LoadUse => Ratio(Launches.Sum(launch => launch.GlobalLoadBytes), 32 * Launches.Sum(launch => launch.GlobalLoadSectors));

    /// <summary>Sectors that a warp's load touches: 4 for 32 neighbouring floats, 32 for floats far apart.</summary>
    public double SectorsPerLoad => Ratio(Launches.Sum(launch => launch.GlobalLoadSectors), Launches.Sum(launch => launch.GlobalLoadRequests));

    /// <summary>Warp instructions that read or write shared memory.</summary>
    public long SharedRequests => Launches.Sum(launch => launch.SharedRequests);

    /// <summary>Passes over the 32 banks that one of them takes.</summary>
    public double WavefrontsPerRequest => Ratio(Launches.Sum(launch => launch.SharedWavefronts), SharedRequests);

    /// <summary>Tensor-core multiplies.</summary>
    public long MatrixMultiplies => Launches.Sum(launch => launch.MatrixMultiplies);

    /// <summary>Barriers, counted once for each group.</summary>
    public long Barriers => Launches.Sum(launch => launch.Barriers);

    /// <summary>Whether loads throw away most of what moves.</summary>
    public bool IsStrided => LoadUse < 0.5;

    static double Ratio(long a, long b) => b == 0 ? 0 : (double)a / b;
}
