using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>A bfloat16 matrix in global memory, row-major, and how a group brings tiles of it into shared memory. Beyond its edges it is zero.</summary>
/// <param name="values">[rows, columns].</param>
/// <param name="rows">As stored.</param>
/// <param name="columns">As stored.</param>
/// <param name="aligned">1 if every row begins at a multiple of 16 bytes.</param>
readonly struct TileOperand(ArrayView<ushort> values, int rows, int columns, int aligned)
{
    public readonly ArrayView<ushort> Values = values;
    public readonly int Rows = rows, Columns = columns, Aligned = aligned;

    /// <summary>The operand in a slice of BF16 [extent, depth], or [depth, extent] if <paramref name="byDepth"/>; nothing for a slice that is left out.</summary>
    public static TileOperand Of(KernelDevice device, Slice slice, int extent, int depth, bool byDepth)
    {
        int rows = byDepth ? depth : extent, columns = byDepth ? extent : depth;
        return new(device.Buffers.View<ushort>(slice), rows, columns, slice.Address % 16 == 0 && columns % SharedTile.Chunk == 0 ? 1 : 0);
    }

    /// <summary>
    /// Starts bringing a tile of <paramref name="extent"/> by <see cref="WarpTileIntrinsics.Depth"/>, in the order that the matrix has, to shared memory at chunk <paramref name="place"/>:
    /// asynchronously if rows are aligned; else value by value, done on return.
    /// </summary>
    public static void Load<TOrder>(TileOperand matrix, int firstOfExtent, int firstOfDepth, int extent, ArrayView<Word4> shared, uint address, int place) where TOrder : struct, IOperandOrder
    {
        int tileRows = TOrder.ByDepth ? WarpTileIntrinsics.Depth : extent, tileColumns = TOrder.ByDepth ? extent : WarpTileIntrinsics.Depth;
        int chunks = tileColumns / SharedTile.Chunk, step = SharedTile.Threads / chunks; // step is 8 or 16: a thread's rows share their place in the swizzle
        int row = Group.IdxX / chunks, chunk = Group.IdxX % chunks;
        int firstRow = (TOrder.ByDepth ? firstOfDepth : firstOfExtent) + row, column = (TOrder.ByDepth ? firstOfExtent : firstOfDepth) + chunk * SharedTile.Chunk;
        int target = place + row * chunks + (chunk ^ (row & 7));
        long index = (long)firstRow * matrix.Columns + column;
        if (matrix.Aligned != 0)
        {
            int bytes = column < matrix.Columns ? 16 : 0;
            WarpTileIntrinsics.CopyRowsAsync(address + (uint)target * 16, ref matrix.Values[index], (long)step * matrix.Columns * 2, matrix.Rows - firstRow, bytes,
                TOrder.ByDepth ? WarpTileIntrinsics.Depth * extent / SharedTile.Chunk / SharedTile.Threads : extent * WarpTileIntrinsics.Depth / SharedTile.Chunk / SharedTile.Threads, step,
                SharedTile.Threads * 16);
            return;
        }

        for (int i = 0; i < tileRows; i += step)
        {
            int left = firstRow + i < matrix.Rows ? matrix.Columns - column : 0;
            shared[target + i * chunks] = new Word4
            {
                X = Pair(matrix.Values, index, left), Y = Pair(matrix.Values, index + 2, left - 2), Z = Pair(matrix.Values, index + 4, left - 4), W = Pair(matrix.Values, index + 6, left - 6),
            };
            index += (long)step * matrix.Columns;
        }
    }

    static uint Pair(ArrayView<ushort> values, long index, int left)
    {
        uint low = left > 0 ? values[index] : 0u, high = left > 1 ? values[index + 1] : 0u;
        return low | (high << 16);
    }
}
