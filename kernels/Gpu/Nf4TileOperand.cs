using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// An NF4 matrix in global memory, whose tiles are decoded to bfloat16 on their way into shared memory. A tile is 64 x 64 in either order; a thread reads 32 weights of a row with one
/// 16-byte load, and their block's scale, before an earlier tile is multiplied, and decodes them after it. Beyond its edges the matrix is zero.
/// </summary>
/// <param name="weights">Whose rows are whole runs.</param>
/// <param name="rows">As stored.</param>
/// <param name="columns">As stored.</param>
readonly struct Nf4TileOperand(Nf4View weights, int rows, int columns) : ITileSource<Nf4TileOperand, Nf4Words>
{
    readonly Nf4View weights = weights;
    readonly int rows = rows, columns = columns;

    /// <inheritdoc />
    public static ArrayView<float> Prepare()
    {
        var codes = SharedMemory.Allocate<float>(16);
        Nf4View.Prepare(codes);
        Group.Barrier(); // before anybody decodes
        return codes;
    }

    /// <inheritdoc />
    public Nf4Words Start<TOrder>(SharedMemoryBlock shared, int place, int firstOfExtent, int firstOfDepth, int extent) where TOrder : struct, IOperandOrder
    {
        int row = (TOrder.ByDepth ? firstOfDepth : firstOfExtent) + Group.IdxX / 2, column = (TOrder.ByDepth ? firstOfExtent : firstOfDepth) + Group.IdxX % 2 * Nf4View.Run;
        Nf4Words held = default; // a scale of zero decodes to zeros
        if (row < rows && column < columns)
        {
            long index = (long)row * columns + column;
            held.Packed = weights.Packed(index / Nf4View.Run);
            held.Scale = weights.Scale(index);
        }

        return held;
    }

    /// <inheritdoc />
    public void Finish(SharedMemoryBlock shared, int place, Nf4Words held, ArrayView<float> codes)
    {
        int row = Group.IdxX / 2, chunk = Group.IdxX % 2 * 4, swizzle = row & 7, start = place + row * 8;
        shared.View[start + (chunk ^ swizzle)] = Decode(codes, held.Packed.X, held.Scale);
        shared.View[start + ((chunk + 1) ^ swizzle)] = Decode(codes, held.Packed.Y, held.Scale);
        shared.View[start + ((chunk + 2) ^ swizzle)] = Decode(codes, held.Packed.Z, held.Scale);
        shared.View[start + ((chunk + 3) ^ swizzle)] = Decode(codes, held.Packed.W, held.Scale);
    }

    /// <inheritdoc />
    public override string ToString() => $"nf4 [{rows}, {columns}]";

    /// <summary>Eight weights, each rounded once.</summary>
    static Word4 Decode(ArrayView<float> codes, uint word, float scale)
    {
        Float4 low = Nf4View.Decode(codes, word), high = Nf4View.Decode(codes, word >> 16);
        return new Word4
        {
            X = Intrinsics.PackBf16(low.X * scale, low.Y * scale),
            Y = Intrinsics.PackBf16(low.Z * scale, low.W * scale),
            Z = Intrinsics.PackBf16(high.X * scale, high.Y * scale),
            W = Intrinsics.PackBf16(high.Z * scale, high.W * scale),
        };
    }
}

/// <summary>32 packed weights and their block's scale.</summary>
struct Nf4Words
{
    public Word4 Packed;
    public float Scale;
}
