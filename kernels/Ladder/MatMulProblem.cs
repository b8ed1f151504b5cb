using System.Runtime.InteropServices;

namespace IlgpuPeft.Kernels;

/// <summary>
/// What every rung of the matrix product ladder computes: C = A·B, all n x n and row-major, from the same numbers. Rungs take the form of the operands that they need: f32, bfloat16, or B
/// as NF4, whose decoded values the check then uses.
/// </summary>
sealed class MatMulProblem : IDisposable
{
    /// <summary>Rungs keep to whole tiles, so that their code shows the idea and not the edges.</summary>
    public const int Multiple = 64;

    readonly KernelDevice device;
    readonly float[] a, b, decoded;
    readonly List<Slice> owned = [];

    /// <summary>Draws the operands, in values that bfloat16 holds exactly.</summary>
    /// <exception cref="ArgumentException"><paramref name="size"/> is no positive multiple of <see cref="Multiple"/>.</exception>
    public MatMulProblem(KernelDevice device, int size)
    {
        if (size < Multiple || size % Multiple != 0)
        {
            throw new ArgumentException($"ladder: size {size}, expected a positive multiple of {Multiple}.", nameof(size));
        }

        this.device = device;
        Size = size;
        Random random = new(1);
        a = Draw();
        b = Draw();
        A = Put(a);
        B = Put(b);
        HalfA = Put(Array.ConvertAll(a, Intrinsics.NarrowToBf16));
        HalfB = Put(Array.ConvertAll(b, Intrinsics.NarrowToBf16));
        byte[] codes = new byte[Nf4.PackedLength(b.Length)];
        float[] scales = new float[Nf4.BlockCount(b.Length, Nf4.DefaultBlockSize)];
        decoded = new float[b.Length];
        Nf4.Quantize(b, codes, scales);
        Nf4.Dequantize(codes, scales, decoded);
        Codes = Put(codes);
        Scales = Put(scales);
        C = Put(new float[size * size]);

        float[] Draw() => [.. Enumerable.Range(0, size * size).Select(_ => random.Next(-32, 33) / 32f)];
    }

    /// <summary>Rows and columns n.</summary>
    public int Size { get; }

    /// <summary>[n, n] F32.</summary>
    public Slice A { get; }

    /// <inheritdoc cref="A" />
    public Slice B { get; }

    /// <summary>[n, n] BF16.</summary>
    public Slice HalfA { get; }

    /// <inheritdoc cref="HalfA" />
    public Slice HalfB { get; }

    /// <summary>B as NF4: [n, n/2] U8, the even column in the high nibble.</summary>
    public Slice Codes { get; }

    /// <summary>F32, one for each 64 values of B.</summary>
    public Slice Scales { get; }

    /// <summary>[n, n] F32.</summary>
    public Slice C { get; }

    /// <summary>Makes C NaN, so that a rung that leaves elements out is found out.</summary>
    public void Poison() => ElementwiseKernels.Fill(device, C, double.NaN);

    /// <summary>‖C − A·B‖ / ‖A·B‖ against a product in double precision.</summary>
    public double RelativeError(bool nf4)
    {
        float[] actual = new float[Size * Size], right = nf4 ? decoded : b;
        device.Transfers.Download(C, MemoryMarshal.AsBytes(actual.AsSpan()));
        double error = 0, size = 0;
        for (int i = 0; i < Size; i++)
        {
            for (int j = 0; j < Size; j++)
            {
                double sum = 0;
                for (int k = 0; k < Size; k++)
                {
                    sum += (double)a[i * Size + k] * right[k * Size + j];
                }

                error += Math.Pow(actual[i * Size + j] - sum, 2);
                size += sum * sum;
            }
        }

        return Math.Sqrt(error / size);
    }

    public void Dispose() => owned.ForEach(slice => device.Buffers.Free(slice.Address));

    Slice Put<T>(T[] values) where T : unmanaged
    {
        var bytes = MemoryMarshal.AsBytes<T>(values);
        var type = values switch { float[] => DType.F32, ushort[] => DType.BF16, _ => DType.U8 };
        Slice slice = new(device.Buffers.Allocate(bytes.Length), values.Length, type);
        device.Transfers.Upload(bytes, slice);
        owned.Add(slice);
        return slice;
    }
}
