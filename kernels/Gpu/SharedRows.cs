using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// Tiles of bfloat16 rows in shared memory, as <c>ldmatrix</c> reads them: rows one after another in chunks of 16 bytes, of which some low bits of the number are exclusive-ored with
/// bits of the row's. So the same chunk of eight rows lies in all 32 banks, and so do neighbouring chunks of a row: neither copies nor <c>ldmatrix</c> have bank conflicts.
/// Tiles are padded to a multiple of 16 columns with zeros; what they are copied from may have any number.
/// </summary>
static class SharedRows
{
    /// <summary>Values in a chunk.</summary>
    public const int Chunk = 8;

    /// <summary>Low bits of a chunk's number that the swizzle changes; rows whose chunks fill the banks unevenly by themselves need fewer.</summary>
    public static int SwizzleMask(int width) => width / Chunk % 8 == 0 ? 7 : width / Chunk % 4 == 0 ? 3 : 1;

    /// <summary>What is exclusive-ored into the chunk numbers of a row.</summary>
    public static int Swizzle(int row, int width) => ((row * (SwizzleMask(width) + 1)) >> 3) & SwizzleMask(width);

    /// <summary>The place of a chunk, in chunks from the start of its tile.</summary>
    public static int Place(int row, int chunk, int width) => row * (width / Chunk) + (chunk ^ Swizzle(row, width));

    /// <summary>A lane's row of a tile at a shared address, from a chunk of it on.</summary>
    public static MatrixRow Row(uint tile, int row, int chunk, int width) =>
        new() { Address = tile + (uint)(row * width * 2), Swizzle = (uint)((chunk ^ Swizzle(row, width)) * 16) };

    /// <summary>A lane's row of a left operand, or of a right one that is read transposed.</summary>
    public static MatrixRow Left(uint tile, int firstRow, int width) => Row(tile, firstRow + (Group.IdxX & 15), (Group.IdxX >> 4) & 1, width);

    /// <summary>A lane's row of a right operand whose rows are the columns of the product.</summary>
    public static MatrixRow Right(uint tile, int width) => Row(tile, (Group.IdxX & 7) + ((Group.IdxX >> 1) & 8), (Group.IdxX >> 3) & 1, width);

    /// <summary>Where a lane stores its part of fragments.</summary>
    public static MatrixRow Fragment(uint tile, int firstRow, int width)
    {
        var row = Row(tile, firstRow + ((Group.IdxX >> 2) & 7), 0, width);
        row.Address += (uint)(4 * (Group.IdxX & 3));
        return row;
    }

    /// <summary>The tile <paramref name="bytes"/> further on.</summary>
    public static MatrixRow Next(MatrixRow row, int bytes) => new() { Address = row.Address + (uint)bytes, Swizzle = row.Swizzle };

    /// <summary>Starts copying rows into a tile, by all threads of the group; rows from <paramref name="rows"/> on and columns from <paramref name="columns"/> on become zero.</summary>
    /// <param name="shared">All shared memory.</param>
    /// <param name="tile">Where the tile begins, in chunks.</param>
    /// <param name="tileRows">Rows of the tile.</param>
    /// <param name="width">Columns of the tile.</param>
    /// <param name="source">What is copied from.</param>
    /// <param name="start">Its first element.</param>
    /// <param name="stride">Elements from row to row.</param>
    /// <param name="rows">Rows that there are.</param>
    /// <param name="columns">Columns that there are.</param>
    public static void Load<TUnit, TCopy>(ArrayView<Word4> shared, int tile, int tileRows, int width, ArrayView<TUnit> source, long start, int stride, int rows, int columns)
        where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
    {
        int chunks = width / Chunk, step = Group.DimX / chunks, chunk = Group.IdxX % chunks, row = Group.IdxX / chunks; // a thread keeps to one chunk of every row
        int count = IntrinsicMath.Clamp(columns - chunk * Chunk, 0, Chunk);
        long at = start + (long)row * stride + chunk * Chunk;
        for (row = row < step ? row : tileRows; row < tileRows; row += step)
        {
            TCopy.Load(source, at, row < rows ? count : 0, shared, tile + Place(row, chunk, width));
            at += (long)step * stride;
        }
    }

    /// <summary>Copies the rows of a warp out of a tile, by all its lanes.</summary>
    public static void Store<TUnit, TCopy>(ArrayView<Word4> shared, int tile, int firstRow, int tileRows, int width, ArrayView<TUnit> destination, long start, int stride, int rows,
        int columns) where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
    {
        for (int i = Group.IdxX & 31; i < tileRows * (width / Chunk); i += 32)
        {
            int row = firstRow + i / (width / Chunk), chunk = i % (width / Chunk);
            int count = row < rows ? IntrinsicMath.Clamp(columns - chunk * Chunk, 0, Chunk) : 0;
            if (count > 0)
            {
                TCopy.Store(destination, start + (long)row * stride + chunk * Chunk, count, shared[tile + Place(row, chunk, width)]);
            }
        }
    }

    /// <summary>Writes zeros to rows in global memory, by all threads of the group.</summary>
    public static void Clear<TUnit, TCopy>(ArrayView<TUnit> destination, long start, int stride, int rows, int columns) where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
    {
        int chunks = (columns + Chunk - 1) / Chunk;
        for (int i = Group.IdxX; i < rows * chunks; i += Group.DimX)
        {
            int row = i / chunks, chunk = i % chunks;
            TCopy.Store(destination, start + (long)row * stride + chunk * Chunk, IntrinsicMath.Min(columns - chunk * Chunk, Chunk), default);
        }
    }
}
