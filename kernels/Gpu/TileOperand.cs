using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>A bfloat16 matrix in global memory, row-major. Beyond its edges it is zero. Rows that begin at multiples of 16 bytes are copied asynchronously, others value by value.</summary>
/// <param name="values">[rows, columns].</param>
/// <param name="rows">As stored.</param>
/// <param name="columns">As stored.</param>
/// <param name="aligned">Whether every row begins at a multiple of 16 bytes.</param>
readonly struct TileOperand(ArrayView<ushort> values, int rows, int columns, bool aligned) : ITileSource<TileOperand, int>
{
    readonly ArrayView<ushort> values = values;
    readonly int rows = rows, columns = columns, aligned = aligned ? 1 : 0;

    /// <summary>The operand in a slice of BF16 [extent, depth], or [depth, extent] if <paramref name="byDepth"/>; nothing for a slice that is left out.</summary>
    public static TileOperand Of(KernelDevice device, Slice slice, int extent, int depth, bool byDepth)
    {
        int rows = byDepth ? depth : extent, columns = byDepth ? extent : depth;
        return new(device.Buffers.View<ushort>(slice), rows, columns, slice.Address % 16 == 0 && columns % SharedTile.Chunk == 0);
    }

    /// <inheritdoc />
    public static ArrayView<float> Prepare() => default;

    /// <inheritdoc />
    public int Start<TOrder>(SharedMemoryBlock shared, int place, int firstOfExtent, int firstOfDepth, int extent) where TOrder : struct, IOperandOrder
    {
        int tileRows = TOrder.ByDepth ? WarpTileIntrinsics.Depth : extent, chunks = (TOrder.ByDepth ? extent : WarpTileIntrinsics.Depth) / SharedTile.Chunk;
        int step = SharedTile.Threads / chunks; // 8 or 16: a thread's rows share their place in the swizzle
        int row = Group.IdxX / chunks, chunk = Group.IdxX % chunks;
        int firstRow = (TOrder.ByDepth ? firstOfDepth : firstOfExtent) + row, column = (TOrder.ByDepth ? firstOfExtent : firstOfDepth) + chunk * SharedTile.Chunk;
        int target = place + row * chunks + (chunk ^ (row & 7));
        long index = (long)firstRow * columns + column;
        if (aligned != 0)
        {
            WarpTileIntrinsics.CopyRowsAsync(shared.Address + (uint)target * 16, ref values[index], (long)step * columns * sizeof(ushort), rows - firstRow, column < columns ? 16 : 0,
                tileRows / step, step, SharedTile.Threads * 16);
        }
        else
        {
            for (int i = 0; i < tileRows; i += step)
            {
                shared.View[target + i * chunks] = ElementCopy.Read(values, index + (long)i * columns, firstRow + i < rows ? columns - column : 0);
            }
        }

        return 0;
    }

    /// <inheritdoc />
    public void Finish(SharedMemoryBlock shared, int place, int held, ArrayView<float> table)
    {
    }

    /// <inheritdoc />
    public override string ToString() => $"bf16 [{rows}, {columns}]";
}
