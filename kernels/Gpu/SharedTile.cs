using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>How an operand of a matrix product is stored, in global memory and in tiles of shared memory.</summary>
interface IOperandOrder
{
    /// <summary>Whether the matrix is [depth, extent]: the index that is summed over numbers its rows.</summary>
    static abstract bool ByDepth { get; }
}

/// <summary>[extent, depth]: the terms of a sum lie side by side. x and W of x·Wᵀ.</summary>
readonly struct ByExtent : IOperandOrder
{
    public static bool ByDepth => false;
}

/// <summary>[depth, extent]: W of dy·W, both operands of dyᵀ·x.</summary>
readonly struct ByDepth : IOperandOrder
{
    static bool IOperandOrder.ByDepth => true;
}

/// <summary>
/// Tiles of bfloat16 operands in shared memory: rows of 16-byte chunks, chunk c of row r at place c ^ (r mod 8), so that neither copies in nor ldmatrix ever meet in a bank.
/// A group is 2 x 2 warps; its tile of an operand spans two warps' extent and <see cref="WarpTileIntrinsics.Depth"/> terms.
/// </summary>
static class SharedTile
{
    /// <summary>Threads of a group: 2 x 2 warps.</summary>
    public const int Threads = 128;

    /// <summary>Values of a 16-byte chunk.</summary>
    public const int Chunk = 8;

    /// <summary>16-byte chunks of an operand's tile, for a warp's extent.</summary>
    public static int Chunks(int warpExtent) => 2 * warpExtent * WarpTileIntrinsics.Depth / Chunk;

    /// <summary>Where within its tile a lane's ldmatrix address is at first, in bytes: row lane mod 16, chunk lane / 16 of the warp's part.</summary>
    /// <param name="warpExtent">Rows or columns that a warp computes.</param>
    /// <param name="warp">0 for the first warp along this operand's extent, 1 for the second.</param>
    /// <param name="byDepth">How the tile is stored.</param>
    public static int LaneOffset(int warpExtent, int warp, bool byDepth)
    {
        int lane = Warp.LaneIdx, row = lane & 15, chunk = lane >> 4;
        return byDepth
            ? row * 4 * warpExtent + (((warp * warpExtent / Chunk + chunk) ^ (row & 7)) << 4)
            : (warp * warpExtent + row) * 2 * WarpTileIntrinsics.Depth + ((chunk ^ (row & 7)) << 4);
    }
}

/// <summary>The group's shared memory: for C# in 16-byte words, for instructions that take addresses.</summary>
/// <param name="view">All of it.</param>
/// <param name="address">Where it begins.</param>
readonly struct SharedMemoryBlock(ArrayView<Word4> view, uint address)
{
    public readonly ArrayView<Word4> View = view;
    public readonly uint Address = address;

    /// <summary>The shared memory that the launch asked for.</summary>
    public static SharedMemoryBlock Dynamic()
    {
        var view = SharedMemory.GetDynamic<Word4>();
        return new(view, Intrinsics.SharedAddress(ref view[0]));
    }
}

/// <summary>
/// An operand whose tiles come into shared memory in two steps, so that what takes long, reading global memory, happens while an earlier tile is multiplied.
/// </summary>
/// <typeparam name="TSelf">The operand itself.</typeparam>
/// <typeparam name="THeld">What a thread keeps in registers between the steps.</typeparam>
interface ITileSource<TSelf, THeld> where TSelf : struct, ITileSource<TSelf, THeld> where THeld : unmanaged
{
    /// <summary>A table in shared memory that decoding needs, complete for the whole group; or nothing.</summary>
    static abstract ArrayView<float> Prepare();

    /// <summary>
    /// Begins to bring a tile of <paramref name="extent"/> by <see cref="WarpTileIntrinsics.Depth"/> to 16-byte word <paramref name="place"/> of shared memory. Copies that the thread
    /// starts belong to the group of copies that it commits next.
    /// </summary>
    THeld Start<TOrder>(SharedMemoryBlock shared, int place, int firstOfExtent, int firstOfDepth, int extent) where TOrder : struct, IOperandOrder;

    /// <summary>Stores what the thread still holds.</summary>
    void Finish(SharedMemoryBlock shared, int place, THeld held, ArrayView<float> table);
}
