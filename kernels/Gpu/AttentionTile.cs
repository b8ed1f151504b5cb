using ILGPU.IR.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>Two floats: a number for each of the two rows of a 16-row block that a lane holds.</summary>
struct Float2
{
    public float X, Y;
}

/// <summary>The place in shared memory from which a lane reads, or to which it writes, a row of matrices: tiles are swizzled as <see cref="SharedRows"/> says.</summary>
struct MatrixRow
{
    /// <summary>Where the lane's row begins.</summary>
    public uint Address;

    /// <summary>What is exclusive-ored into the number of each 16-byte chunk, times 16.</summary>
    public uint Swizzle;
}

/// <summary>
/// The steps of attention on a warp's tile, each of them one call that becomes straight-line PTX of tensor-core multiplies, shuffles and arithmetic, written by
/// <see cref="PtxAttentionTile"/>: ILGPU unrolls no loop, and what a loop indexes would go through local memory.
/// A warp holds R blocks of 16 rows. <c>TScores</c> are R x n/8 fragments of 16 rows and 8 columns, <c>TOutput</c> likewise over the head's C columns; in
/// each fragment lane 4·g + t holds rows g, g, g+8, g+8 and columns 2t, 2t+1, 2t, 2t+1. <c>TRows</c> are the numbers of a lane's 2·R rows.
/// Methods that say "in place" reuse the registers of their first argument, which is lost: assign the result to the same variable.
/// </summary>
static class AttentionTile
{
    /// <summary>a·bᵀ: a [16·R, C] and b [n, C] in shared memory.</summary>
    /// <param name="a">Lane l gives row l mod 16, chunk l / 16.</param>
    /// <param name="b">Lane l gives row l mod 8 + 8·(l / 16), chunk (l / 8) mod 2.</param>
    /// <param name="width">C, a multiple of 16. A constant.</param>
    /// <param name="rowBlocks">R. A constant.</param>
    [IntrinsicImplementation]
    public static TScores Multiply<TScores>(MatrixRow a, MatrixRow b, int width, int rowBlocks) where TScores : unmanaged => throw new NotSupportedException();

    /// <summary>sums + p·b, in place: p rounded to bfloat16, b [n, C] in shared memory, read transposed.</summary>
    /// <param name="sums">[16·R, C].</param>
    /// <param name="p">[16·R, n].</param>
    /// <param name="b">Lane l gives row l mod 16, chunk l / 16.</param>
    /// <param name="rowBlocks">R. A constant.</param>
    [IntrinsicImplementation]
    public static TOutput MultiplyAdd<TOutput, TScores>(TOutput sums, TScores p, MatrixRow b, int rowBlocks) where TOutput : unmanaged where TScores : unmanaged =>
        throw new NotSupportedException();

    /// <summary>
    /// Scores of columns outside a band become -∞, in place: of the lane's first row, columns from <paramref name="first"/> to before <paramref name="end"/> stay; the band
    /// moves one column to the right with each row. Columns count from the lane's first.
    /// </summary>
    [IntrinsicImplementation]
    public static TScores Mask<TScores>(TScores scores, int first, int end, int rowBlocks) where TScores : unmanaged => throw new NotSupportedException();

    /// <summary>The same number for every row.</summary>
    [IntrinsicImplementation]
    public static TRows Rows<TRows>(float value) where TRows : unmanaged => throw new NotSupportedException();

    /// <summary>The maximum of each row's <paramref name="before"/> and factor · scores, the same in the four lanes that share the row.</summary>
    [IntrinsicImplementation]
    public static TRows Maximum<TRows, TScores>(TRows before, TScores scores, float factor) where TRows : unmanaged where TScores : unmanaged =>
        throw new NotSupportedException();

    /// <summary>2^(factor · score - shift of the row), in place.</summary>
    [IntrinsicImplementation]
    public static TScores Exponentials<TScores, TRows>(TScores scores, TRows shift, float factor) where TScores : unmanaged where TRows : unmanaged =>
        throw new NotSupportedException();

    /// <summary>2^(a - b) of each row.</summary>
    [IntrinsicImplementation]
    public static TRows Ratios<TRows>(TRows a, TRows b) where TRows : unmanaged => throw new NotSupportedException();

    /// <summary>sums · kept + what the lane holds of the row of p, in place.</summary>
    [IntrinsicImplementation]
    public static TRows AddUp<TRows, TScores>(TRows sums, TRows kept, TScores p) where TRows : unmanaged where TScores : unmanaged => throw new NotSupportedException();

    /// <summary>The sum over the four lanes that share a row, in place.</summary>
    [IntrinsicImplementation]
    public static TRows Total<TRows>(TRows sums) where TRows : unmanaged => throw new NotSupportedException();

    /// <summary>1 / x of each row.</summary>
    [IntrinsicImplementation]
    public static TRows Reciprocals<TRows>(TRows x) where TRows : unmanaged => throw new NotSupportedException();

    /// <summary>ln 2 · (a + log₂ b) of each row.</summary>
    [IntrinsicImplementation]
    public static TRows Logarithms<TRows>(TRows a, TRows b) where TRows : unmanaged => throw new NotSupportedException();

    /// <summary>Each element times the factor of its row, in place.</summary>
    [IntrinsicImplementation]
    public static TOutput Scale<TOutput, TRows>(TOutput x, TRows factors) where TOutput : unmanaged where TRows : unmanaged => throw new NotSupportedException();

    /// <summary>Stores a tile to shared memory in bfloat16.</summary>
    /// <param name="x">[16·R, C].</param>
    /// <param name="row">Lane l gives row l / 4, and in the address 4·(l mod 4) more.</param>
    /// <param name="rowBlocks">R. A constant.</param>
    [IntrinsicImplementation]
    public static void Store<TOutput>(TOutput x, MatrixRow row, int rowBlocks) where TOutput : unmanaged => throw new NotSupportedException();

    /// <summary>Stores the numbers of rows to shared memory, as floats in a row.</summary>
    /// <param name="rows">2·R numbers.</param>
    /// <param name="address">Of the lane's first row.</param>
    [IntrinsicImplementation]
    public static void StoreRows<TRows>(TRows rows, uint address) where TRows : unmanaged => throw new NotSupportedException();

    /// <summary>p · (dp - shift of the row), in place.</summary>
    [IntrinsicImplementation]
    public static TScores Differences<TScores, TRows>(TScores dp, TScores p, TRows shift) where TScores : unmanaged where TRows : unmanaged =>
        throw new NotSupportedException();

    /// <summary>2^(factor · score - shift of the column), in place.</summary>
    /// <param name="scores">[16·R, n].</param>
    /// <param name="shifts">In shared memory the float of the lane's first column; others follow.</param>
    /// <param name="factor">Factor on scores.</param>
    /// <param name="rowBlocks">R. A constant.</param>
    [IntrinsicImplementation]
    public static TScores ColumnExponentials<TScores>(TScores scores, uint shifts, float factor, int rowBlocks) where TScores : unmanaged =>
        throw new NotSupportedException();

    /// <summary>p · (dp - shift of the column), in place; shifts as in <see cref="ColumnExponentials"/>.</summary>
    [IntrinsicImplementation]
    public static TScores ColumnDifferences<TScores>(TScores dp, TScores p, uint shifts, int rowBlocks) where TScores : unmanaged => throw new NotSupportedException();
}
