using ILGPU.IR.Intrinsics;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The f32 sums of one warp: a tile of a matrix product, spread over the registers of its 32 lanes as <c>mma.sync.m16n8k16</c> leaves them. Kernels are generic in it, so that the tile's
/// extents are constants of their code.
/// </summary>
/// <typeparam name="TSelf">The tile itself. Its fields mean nothing one by one; <see cref="PtxWarpTile"/> knows which is which.</typeparam>
interface IWarpTile<TSelf> where TSelf : unmanaged, IWarpTile<TSelf>
{
    /// <summary>Rows of the tile, a multiple of 16.</summary>
    static abstract int Rows { get; }

    /// <summary>Columns of the tile, a multiple of 16.</summary>
    static abstract int Columns { get; }

    /// <inheritdoc cref="WarpTileIntrinsics.MultiplyAdd(WarpTile64x64, uint, int, uint, int, bool, bool)" />
    static abstract TSelf MultiplyAdd(TSelf sums, uint a, int aOffset, uint b, int bOffset, bool aByDepth, bool bByDepth);

    /// <inheritdoc cref="WarpTileIntrinsics.Scale(WarpTile64x64, float)" />
    static abstract TSelf Scale(TSelf sums, float factor);

    /// <inheritdoc cref="WarpTileIntrinsics.StoreRows(WarpTile64x64, int, uint)" />
    static abstract void StoreRows(TSelf sums, int band, uint shared);
}

/// <summary>32 x 32: 32 registers, for products with few rows or columns.</summary>
struct WarpTile32x32 : IWarpTile<WarpTile32x32>
{
    public Float4 A, B, C, D, E, F, G, H;

    public static int Rows => 32;

    public static int Columns => 32;

    public static WarpTile32x32 MultiplyAdd(WarpTile32x32 sums, uint a, int aOffset, uint b, int bOffset, bool aByDepth, bool bByDepth) =>
        WarpTileIntrinsics.MultiplyAdd(sums, a, aOffset, b, bOffset, aByDepth, bByDepth);

    public static WarpTile32x32 Scale(WarpTile32x32 sums, float factor) => WarpTileIntrinsics.Scale(sums, factor);

    public static void StoreRows(WarpTile32x32 sums, int band, uint shared) => WarpTileIntrinsics.StoreRows(sums, band, shared);
}

/// <summary>64 x 32: 64 registers.</summary>
struct WarpTile64x32 : IWarpTile<WarpTile64x32>
{
    public WarpTile32x32 A, B;

    public static int Rows => 64;

    public static int Columns => 32;

    public static WarpTile64x32 MultiplyAdd(WarpTile64x32 sums, uint a, int aOffset, uint b, int bOffset, bool aByDepth, bool bByDepth) =>
        WarpTileIntrinsics.MultiplyAdd(sums, a, aOffset, b, bOffset, aByDepth, bByDepth);

    public static WarpTile64x32 Scale(WarpTile64x32 sums, float factor) => WarpTileIntrinsics.Scale(sums, factor);

    public static void StoreRows(WarpTile64x32 sums, int band, uint shared) => WarpTileIntrinsics.StoreRows(sums, band, shared);
}

/// <summary>64 x 64: 128 registers, half of what a thread may have. 32 multiplies for 8 loads from shared memory keep tensor cores busier than any smaller tile.</summary>
struct WarpTile64x64 : IWarpTile<WarpTile64x64>
{
    public WarpTile64x32 A, B;

    public static int Rows => 64;

    public static int Columns => 64;

    public static WarpTile64x64 MultiplyAdd(WarpTile64x64 sums, uint a, int aOffset, uint b, int bOffset, bool aByDepth, bool bByDepth) =>
        WarpTileIntrinsics.MultiplyAdd(sums, a, aOffset, b, bOffset, aByDepth, bByDepth);

    public static WarpTile64x64 Scale(WarpTile64x64 sums, float factor) => WarpTileIntrinsics.Scale(sums, factor);

    public static void StoreRows(WarpTile64x64 sums, int band, uint shared) => WarpTileIntrinsics.StoreRows(sums, band, shared);
}

/// <summary>
/// Whole blocks of instructions as one method each, written out by <see cref="PtxWarpTile"/>: ILGPU unrolls no loop, and an array of sums that a loop indexes would live in
/// local memory. Sums are updated in their registers, so what is passed as <c>sums</c> must not be used again where a method returns it.
/// </summary>
static class WarpTileIntrinsics
{
    /// <summary>Terms of every sum that one <see cref="MultiplyAdd(WarpTile64x64, uint, int, uint, int, bool, bool)"/> adds.</summary>
    public const int Depth = 64;

    /// <summary>Floats after each row of <see cref="StoreRows(WarpTile64x64, int, uint)"/>: the four rows that a half-warp stores to then begin 8 banks apart.</summary>
    public const int BandPadding = 8;

    /// <summary>
    /// sums += A·B over <see cref="Depth"/> terms, from tiles of two warps' extent in shared memory. A tile is stored [extent, depth], or [depth, extent] if "by depth", in rows of
    /// 16-byte chunks, chunk c of row r at place c ^ (r mod 8): eight rows of one chunk, which is what ldmatrix loads at a time, then lie in different banks.
    /// </summary>
    /// <param name="sums">Updated in place.</param>
    /// <param name="a">Address of A's tile in shared memory.</param>
    /// <param name="aOffset">From <see cref="SharedTile.LaneOffset"/>.</param>
    /// <param name="b">Address of B's tile.</param>
    /// <param name="bOffset">As for A.</param>
    /// <param name="aByDepth">How A's tile is stored. A constant.</param>
    /// <param name="bByDepth">How B's tile is stored. A constant.</param>
    [IntrinsicImplementation]
    public static WarpTile64x64 MultiplyAdd(WarpTile64x64 sums, uint a, int aOffset, uint b, int bOffset, bool aByDepth, bool bByDepth) => throw new NotSupportedException();

    /// <inheritdoc cref="MultiplyAdd(WarpTile64x64, uint, int, uint, int, bool, bool)" />
    [IntrinsicImplementation]
    public static WarpTile64x32 MultiplyAdd(WarpTile64x32 sums, uint a, int aOffset, uint b, int bOffset, bool aByDepth, bool bByDepth) => throw new NotSupportedException();

    /// <inheritdoc cref="MultiplyAdd(WarpTile64x64, uint, int, uint, int, bool, bool)" />
    [IntrinsicImplementation]
    public static WarpTile32x32 MultiplyAdd(WarpTile32x32 sums, uint a, int aOffset, uint b, int bOffset, bool aByDepth, bool bByDepth) => throw new NotSupportedException();

    /// <summary>sums · factor, in place.</summary>
    [IntrinsicImplementation]
    public static WarpTile64x64 Scale(WarpTile64x64 sums, float factor) => throw new NotSupportedException();

    /// <inheritdoc cref="Scale(WarpTile64x64, float)" />
    [IntrinsicImplementation]
    public static WarpTile64x32 Scale(WarpTile64x32 sums, float factor) => throw new NotSupportedException();

    /// <inheritdoc cref="Scale(WarpTile64x64, float)" />
    [IntrinsicImplementation]
    public static WarpTile32x32 Scale(WarpTile32x32 sums, float factor) => throw new NotSupportedException();

    /// <summary>Stores 16 rows of the sums in shared memory, row-major with <see cref="BandPadding"/> unused floats after each row.</summary>
    /// <param name="sums">Read only.</param>
    /// <param name="band">Which 16 rows.</param>
    /// <param name="shared">Where this lane's first two sums go: row lane / 4, columns 2·(lane mod 4) and the next.</param>
    [IntrinsicImplementation]
    public static void StoreRows(WarpTile64x64 sums, int band, uint shared) => throw new NotSupportedException();

    /// <inheritdoc cref="StoreRows(WarpTile64x64, int, uint)" />
    [IntrinsicImplementation]
    public static void StoreRows(WarpTile64x32 sums, int band, uint shared) => throw new NotSupportedException();

    /// <inheritdoc cref="StoreRows(WarpTile64x64, int, uint)" />
    [IntrinsicImplementation]
    public static void StoreRows(WarpTile32x32 sums, int band, uint shared) => throw new NotSupportedException();

    /// <summary>
    /// Starts <paramref name="count"/> copies of 16 bytes from global to shared memory, of rows <paramref name="step"/> apart; rows from <paramref name="rows"/> on become zeros unread.
    /// </summary>
    /// <param name="shared">Where the first goes; the others follow <paramref name="sharedStep"/> bytes apart.</param>
    /// <param name="global">Where the first comes from, aligned to 16 bytes.</param>
    /// <param name="globalStep">Bytes from one copied row to the next.</param>
    /// <param name="rows">Rows that exist, counted from the first copied one; may be negative.</param>
    /// <param name="bytes">16, or 0 where the matrix has no such columns.</param>
    /// <param name="count">A constant.</param>
    /// <param name="step">A constant.</param>
    /// <param name="sharedStep">A constant.</param>
    [IntrinsicImplementation]
    public static void CopyRowsAsync(uint shared, ref ushort global, long globalStep, int rows, int bytes, int count, int step, int sharedStep) => throw new NotSupportedException();
}
