using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>The sums of one warp on the ladder's tensor-core rungs: 32 rows by 16 columns, as 2 x 2 blocks of 16 x 8.</summary>
struct WarpSums
{
    public Float4 C00, C01, C10, C11;
}

/// <summary>
/// What the tensor-core rungs share: a group of 4 warps, 2 x 2, over a tile of 64 x 32 elements of C, in steps of 32 terms. A's tile has 64 rows of 32 values, B's 32 rows of 32: rows of four
/// 16-byte chunks. Rungs differ in where the chunks come from, and where they lie.
/// </summary>
static class WarpStep
{
    public const int Rows = 64, Columns = 32, Depth = 32, Threads = 128;

    /// <summary>Chunks of a row.</summary>
    public const int Chunks = 4;

    /// <summary>Values of a chunk.</summary>
    public const int Chunk = 8;

    /// <summary>16-byte words of both tiles.</summary>
    public const int Words = (Rows + Depth) * Chunks;

    /// <summary>sums += 32 rows of A's tile times 16 columns of B's, over 16 terms: two ldmatrix for A, one for B, four mma.</summary>
    /// <param name="sums">The warp's.</param>
    /// <param name="a0">This lane's address for rows 0 to 15: row lane mod 16, chunk lane / 16 of the step.</param>
    /// <param name="a1">Likewise for rows 16 to 31.</param>
    /// <param name="b">This lane's address in B's tile: term lane mod 16, chunk lane / 16 of the warp's columns. B is read transposed: a fragment wants the terms of one column together.</param>
    public static WarpSums MultiplyAdd(WarpSums sums, uint a0, uint a1, uint b)
    {
        Word4 upper = Intrinsics.LoadMatrix4(a0), lower = Intrinsics.LoadMatrix4(a1), columns = Intrinsics.LoadMatrix4Transposed(b);
        Word2 first = new() { X = columns.X, Y = columns.Y }, second = new() { X = columns.Z, Y = columns.W };
        return new WarpSums
        {
            C00 = Intrinsics.MultiplyAdd(sums.C00, upper, first),
            C01 = Intrinsics.MultiplyAdd(sums.C01, upper, second),
            C10 = Intrinsics.MultiplyAdd(sums.C10, lower, first),
            C11 = Intrinsics.MultiplyAdd(sums.C11, lower, second),
        };
    }

    /// <summary>Writes a warp's sums: a lane holds of each block rows lane / 4 and that + 8, columns 2·(lane mod 4) and the next.</summary>
    public static void Store(ArrayView<float> c, int row, int column, int n, WarpSums sums)
    {
        int lane = Warp.LaneIdx, at = (row + lane / 4) * n + column + lane % 4 * 2;
        Store(c, at, n, sums.C00);
        Store(c, at + 8, n, sums.C01);
        Store(c, at + 16 * n, n, sums.C10);
        Store(c, at + 16 * n + 8, n, sums.C11);
    }

    static void Store(ArrayView<float> c, int at, int n, Float4 block)
    {
        c[at] = block.X;
        c[at + 1] = block.Y;
        c[at + 8 * n] = block.Z;
        c[at + 8 * n + 1] = block.W;
    }
}
