using System.Buffers;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Checkpoints;

/// <summary>Block scales of an <see cref="Nf4Tensor"/> that are themselves quantised to 8 bits ("double quantisation").</summary>
/// <param name="Codes">One 8-bit code per block.</param>
/// <param name="Scales">One scale per <see cref="Nf4.NestedBlockSize"/> codes.</param>
/// <param name="Map">The 256 values of the codes.</param>
/// <param name="Offset">Mean of the original block scales, added back when they are restored.</param>
public sealed record NestedAbsMax(byte[] Codes, float[] Scales, float[] Map, float Offset);

/// <summary>
/// A matrix [<paramref name="Rows"/>, <paramref name="Columns"/>] of 4-bit NormalFloat weights in host memory, as bitsandbytes stores it.
/// Exactly one of <paramref name="AbsMax"/> and <paramref name="Nested"/> is present.
/// </summary>
/// <param name="Rows">Output features.</param>
/// <param name="Columns">Input features.</param>
/// <param name="BlockSize">Weights per block scale; blocks run over the flattened matrix.</param>
/// <param name="Original">Type of the weights before quantisation: F32, F16 or BF16.</param>
/// <param name="Packed">⌈Rows·Columns/2⌉ bytes, the even element in the high nibble.</param>
/// <param name="AbsMax">One scale per block, or null with double quantisation.</param>
/// <param name="Nested">The quantised scales, or null without double quantisation.</param>
public sealed record Nf4Tensor(int Rows, int Columns, int BlockSize, DType Original, byte[] Packed, float[]? AbsMax, NestedAbsMax? Nested)
{
    /// <summary>Number of weights.</summary>
    public int Count => Rows * Columns;

    /// <summary>Quantises a row-major matrix in blocks of 64.</summary>
    /// <param name="values">Rows·Columns finite weights.</param>
    /// <param name="rows">Output features.</param>
    /// <param name="columns">Input features.</param>
    /// <param name="doubleQuant">Whether the block scales are stored in 8 bits too: 4.13 instead of 4.5 bits per weight.</param>
    /// <param name="original">The type the weights came in, which readers of the file dequantise to.</param>
    /// <exception cref="ArgumentException">The sizes disagree, or a weight is not finite.</exception>
    public static Nf4Tensor Quantize(ReadOnlySpan<float> values, int rows, int columns, bool doubleQuant, DType original)
    {
        if (rows <= 0 || columns <= 0 || (long)rows * columns != values.Length)
        {
            throw new ArgumentException($"Nf4Tensor: there are {values.Length} values, expected rows·columns of [{rows}, {columns}].", nameof(values));
        }

        var packed = new byte[Nf4.PackedLength(values.Length)];
        var absMax = new float[Nf4.BlockCount(values.Length, Nf4.DefaultBlockSize)];
        Nf4.Quantize(values, packed, absMax);
        if (!doubleQuant)
        {
            return new Nf4Tensor(rows, columns, Nf4.DefaultBlockSize, original, packed, absMax, null);
        }

        var codes = new byte[absMax.Length];
        var scales = new float[Nf4.BlockCount(absMax.Length, Nf4.NestedBlockSize)];
        float offset = Nf4.DoubleQuantize(absMax, codes, scales);
        return new Nf4Tensor(rows, columns, Nf4.DefaultBlockSize, original, packed, null, new NestedAbsMax(codes, scales, Nf4.NestedMap.ToArray(), offset));
    }

    /// <summary>Quantises a floating matrix of an open checkpoint.</summary>
    /// <exception cref="CheckpointException">It has 2^31 weights or more, or one that is not finite.</exception>
    internal static Nf4Tensor Quantize(WeightFiles files, TensorInfo matrix, bool doubleQuant)
    {
        if (matrix.Count > Array.MaxLength)
        {
            throw new CheckpointException(files.FileOf(matrix.Name), matrix.Name, $"has shape {matrix.ShapeText}, expected fewer than 2^31 weights to quantise.");
        }

        // Rented, so that going through a model's layers leaves no garbage of the model's size behind.
        float[] rented = ArrayPool<float>.Shared.Rent((int)matrix.Count);
        try
        {
            var values = rented.AsSpan(0, (int)matrix.Count);
            files.Read(matrix.Name, values);
            files.Release(matrix.Name);
            return Quantize(values, (int)matrix.Shape[0], (int)matrix.Shape[1], doubleQuant, matrix.Type!.Value);
        }
        catch (ArgumentException cause)
        {
            throw new CheckpointException(files.FileOf(matrix.Name), matrix.Name, $"cannot be quantised. {cause.Message}", cause);
        }
        finally
        {
            ArrayPool<float>.Shared.Return(rented);
        }
    }

    /// <summary>One scale per block, restored from 8 bits where they are quantised.</summary>
    public float[] RestoreAbsMax()
    {
        if (Nested is null)
        {
            return AbsMax!;
        }

        var absMax = new float[Nested.Codes.Length];
        Nf4.RestoreAbsMax(Nested.Codes, Nested.Scales, Nested.Map, Nested.Offset, absMax);
        return absMax;
    }

    /// <summary>Restores the weights [Rows·Columns], row-major; they are not rounded to <see cref="Original"/>.</summary>
    /// <exception cref="ArgumentException"><paramref name="weights"/> has another length.</exception>
    public void Dequantize(Span<float> weights) => Nf4.Dequantize(Packed, RestoreAbsMax(), weights, BlockSize);
}
