using System.Runtime.InteropServices;

namespace IlgpuPeft.Kernels;

/// <summary>What every rung of the attention ladder computes: causal attention of one sequence under one head of <see cref="Width"/> elements, from the same numbers.</summary>
sealed class AttentionProblem : IDisposable
{
    /// <summary>Elements of the head C.</summary>
    public const int Width = 32;

    readonly KernelDevice device;
    readonly List<Slice> owned = [];
    readonly float[] q, k, v;

    /// <summary>Draws q, k and v, in values that bfloat16 holds exactly.</summary>
    public AttentionProblem(KernelDevice device, int tokens)
    {
        this.device = device;
        Tokens = tokens;
        Random random = new(1);
        (q, k, v) = (Draw(), Draw(), Draw());
        (Q, K, V) = (Put(q), Put(k), Put(v));
        (HalfQ, HalfK, HalfV) = (Put(Halves(q)), Put(Halves(k)), Put(Halves(v)));
        Scores = Put(new float[tokens * tokens]);
        Y = Put(new float[tokens * Width]);
        HalfY = Put(new ushort[tokens * Width]);
        Sequences = Put([0, tokens, 0, tokens]);

        float[] Draw() => [.. Enumerable.Range(0, tokens * Width).Select(_ => random.Next(-64, 65) / 32f)];

        static ushort[] Halves(float[] values) => Array.ConvertAll(values, Intrinsics.NarrowToBf16);
    }

    /// <summary>Queries, keys and values N.</summary>
    public int Tokens { get; }

    /// <summary>1/√C.</summary>
    public static float Scale => 1 / MathF.Sqrt(Width);

    /// <summary>[N, C] F32.</summary>
    public Slice Q { get; }

    /// <inheritdoc cref="Q" />
    public Slice K { get; }

    /// <inheritdoc cref="Q" />
    public Slice V { get; }

    /// <summary>[N, C] BF16.</summary>
    public Slice HalfQ { get; }

    /// <inheritdoc cref="HalfQ" />
    public Slice HalfK { get; }

    /// <inheritdoc cref="HalfQ" />
    public Slice HalfV { get; }

    /// <summary>[N, N] F32, which only the first rung needs.</summary>
    public Slice Scores { get; }

    /// <summary>[N, C] F32, the result.</summary>
    public Slice Y { get; }

    /// <summary>[N, C] BF16, the result of rungs that compute in it.</summary>
    public Slice HalfY { get; }

    /// <summary>The one sequence, as <see cref="Backend.AttentionForward"/> takes it.</summary>
    public Slice Sequences { get; }

    /// <summary>Makes the results NaN, so that a rung that leaves elements out is found out.</summary>
    public void Poison()
    {
        ElementwiseKernels.Fill(device, Y, double.NaN);
        ElementwiseKernels.Fill(device, HalfY, double.NaN);
    }

    /// <summary>‖y − attention‖ / ‖attention‖ against the formula in double precision.</summary>
    public double RelativeError(bool half)
    {
        float[] actual = new float[Tokens * Width];
        if (half)
        {
            ushort[] bits = new ushort[actual.Length];
            device.Transfers.Download(HalfY, MemoryMarshal.AsBytes(bits.AsSpan()));
            actual = Array.ConvertAll(bits, x => BitConverter.UInt32BitsToSingle((uint)x << 16));
        }
        else
        {
            device.Transfers.Download(Y, MemoryMarshal.AsBytes(actual.AsSpan()));
        }

        double error = 0, size = 0;
        for (int i = 0; i < Tokens; i++)
        {
            double[] p = [.. Enumerable.Range(0, i + 1).Select(j => Scale * Dot(i, j))];
            double maximum = p.Max(), total = p.Sum(x => Math.Exp(x - maximum));
            for (int c = 0; c < Width; c++)
            {
                double expected = p.Select((x, j) => Math.Exp(x - maximum) / total * v[j * Width + c]).Sum();
                error += Math.Pow(actual[i * Width + c] - expected, 2);
                size += expected * expected;
            }
        }

        return Math.Sqrt(error / size);

        double Dot(int i, int j) => Enumerable.Range(0, Width).Sum(c => (double)q[i * Width + c] * k[j * Width + c]);
    }

    public void Dispose() => owned.ForEach(slice => device.Buffers.Free(slice.Address));

    Slice Put<T>(T[] values) where T : unmanaged
    {
        var bytes = MemoryMarshal.AsBytes<T>(values);
        Slice slice = new(device.Buffers.Allocate(bytes.Length), values.Length, values switch { float[] => DType.F32, ushort[] => DType.BF16, _ => DType.I32 });
        device.Transfers.Upload(bytes, slice);
        owned.Add(slice);
        return slice;
    }
}
