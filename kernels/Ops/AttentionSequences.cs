using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>Which sequence a group of threads works for: the table lies on the device, and no launch waits for its numbers.</summary>
static class AttentionSequences
{
    /// <summary>A tile of some sequence.</summary>
    /// <param name="Sequence">Row of the table; negative where the launch has more groups than there are tiles.</param>
    /// <param name="Start">First row of the tile, counted within the sequence.</param>
    public readonly record struct Tile(int Sequence, int Start);

    /// <summary>
    /// Groups that suffice for the tiles of all sequences: their rows are known only together.
    /// </summary>
    public static int MaxTiles(long rows, long sequences, int rowsOfTile) => checked((int)((rows + sequences * (rowsOfTile - 1)) / rowsOfTile));

    /// <summary>Finds tile <paramref name="index"/> of those that queries form, or keys. Every warp does it for itself, 32 sequences at a time.</summary>
    /// <param name="table">The sequences.</param>
    /// <param name="index">Counts the tiles of all sequences in order.</param>
    /// <param name="ofKeys">Whether tiles are of keys rather than of queries.</param>
    /// <param name="rowsOfOne">Rows that each of them is.</param>
    /// <param name="rowsOfTile">Rows of a tile.</param>
    public static Tile Find(ArrayView<Attention.Sequence> table, int index, bool ofKeys, int rowsOfOne, int rowsOfTile)
    {
        int lane = Warp.LaneIdx;
        for (int first = 0; first < table.IntLength; first += 32)
        {
            int tiles = 0;
            if (first + lane < table.IntLength)
            {
                var sequence = table[first + lane];
                tiles = ((ofKeys ? sequence.Keys : sequence.Queries) * rowsOfOne + rowsOfTile - 1) / rowsOfTile;
            }

            int end = tiles; // tiles up to this lane's sequence
            for (int distance = 1; distance < 32; distance <<= 1)
            {
                int before = Warp.ShuffleUp(end, distance);
                end += lane >= distance ? before : 0;
            }

            int total = Warp.Shuffle(end, 31);
            if (index < total)
            {
                int found = index < end ? lane : 31;
                for (int distance = 16; distance > 0; distance >>= 1)
                {
                    found = Math.Min(found, Warp.ShuffleXor(found, distance));
                }

                return new Tile(first + found, (index - Warp.Shuffle(end - tiles, found)) * rowsOfTile);
            }

            index -= total;
        }

        return new Tile(-1, 0);
    }

    /// <summary>Zeros the rows that belong to no sequence.</summary>
    public static void ClearOthers<T>(KernelDevice device, Slice x, int width, ArrayView<Attention.Sequence> table, bool ofKeys) where T : unmanaged, IElement<T> =>
        device.Launch(ClearKernel, LaunchShape.Over(x.Length / width), device.Buffers.View<T>(x), table, width, ofKeys ? 1 : 0);

    /// <summary>Whether a row belongs to a sequence. They are ordered by their first row.</summary>
    public static bool Covers(ArrayView<Attention.Sequence> table, long row, bool keys)
    {
        int low = 0, high = table.IntLength; // sequences from high on begin after the row, those before low do not
        while (low < high)
        {
            int middle = (low + high) / 2;
            var sequence = table[middle];
            if ((keys ? sequence.Key : sequence.Query) <= row)
            {
                low = middle + 1;
            }
            else
            {
                high = middle;
            }
        }

        if (low == 0)
        {
            return false;
        }

        var last = table[low - 1];
        return row < (keys ? last.Key + last.Keys : last.Query + last.Queries);
    }

    static void ClearKernel<T>(ArrayView<T> x, ArrayView<Attention.Sequence> table, int width, int ofKeys) where T : unmanaged, IElement<T>
    {
        long row = Grid.LongGlobalIndex.X;
        if (row * width < x.Length && !Covers(table, row, ofKeys != 0))
        {
            for (int i = 0; i < width; i++)
            {
                x[row * width + i] = T.Narrow(0);
            }
        }
    }
}
