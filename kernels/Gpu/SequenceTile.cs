using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// A tile of consecutive query or key rows of one sequence. Only the device knows how long the sequences are, so a kernel is launched for as many tiles as there can be, and each group
/// walks the table to its own.
/// </summary>
struct SequenceTile
{
    /// <summary>A row of the table: see <see cref="Backend.AttentionForward"/>.</summary>
    public int Query, Queries, Key, Keys;

    /// <summary>The tile's first row, counted from the sequence's.</summary>
    public int Start;

    /// <summary>Rows of no sequence just before the one that begins with this tile, or after the last: the group of this tile clears them.</summary>
    public int ClearFrom, ClearRows;

    /// <summary>Whether the group has a tile; otherwise all but <see cref="ClearFrom"/> and <see cref="ClearRows"/> is undefined.</summary>
    public bool Exists;

    /// <summary>Keys in front of those that the first query sees last: query i sees key Offset + i and those before.</summary>
    public readonly int Offset => Keys - Queries;

    /// <summary>How many groups find all tiles: each sequence has at most one tile that is not full, and one group clears what is left at the end.</summary>
    public static long Bound(long rows, int tileRows, long sequences) => rows / tileRows + sequences + 1;

    /// <summary>The tile of that number, counted over all sequences. Every warp looks for itself, at 32 sequences at a time; all its lanes must call.</summary>
    /// <param name="table">I32 [S, 4].</param>
    /// <param name="column">0 for tiles of queries, 2 for tiles of keys.</param>
    /// <param name="tile">The number.</param>
    /// <param name="tileRows">Rows of a tile.</param>
    /// <param name="rows">Rows of the tensor.</param>
    /// <param name="heads">How many rows of a tile each row of the tensor is: the heads that share keys, if they share tiles too.</param>
    public static SequenceTile Find(ArrayView<int> table, int column, int tile, int tileRows, int rows, int heads = 1)
    {
        int count = (int)(table.Length / 4), sequence = count, end = 0;
        for (int first = 0; first < count && sequence == count; first += 32)
        {
            int at = 4 * (first + Warp.LaneIdx) + column, start = 0, length = 0;
            if (first + Warp.LaneIdx < count)
            {
                (start, length) = (table[at], table[at + 1]);
            }

            int tiles = (length * heads + tileRows - 1) / tileRows, through = tiles; // through: of this lane's sequence and those before it
            for (int distance = 1; distance < 32; distance <<= 1)
            {
                int before = Warp.ShuffleUp(through, distance);
                through += Warp.LaneIdx >= distance ? before : 0;
            }

            int lane = Least(tile < through ? Warp.LaneIdx : 32);
            end = Math.Max(end, -Least(Warp.LaneIdx < lane && length > 0 ? -start - length : 0));
            if (lane < 32)
            {
                sequence = first + lane;
                tile -= Warp.Shuffle(through - tiles, lane);
            }
            else
            {
                tile -= Warp.Shuffle(through, 31);
            }
        }

        SequenceTile found = default;
        found.Exists = sequence < count;
        if (found.Exists)
        {
            int field = table[4 * sequence + (Warp.LaneIdx & 3)];
            (found.Query, found.Queries, found.Key, found.Keys) = (Warp.Shuffle(field, 0), Warp.Shuffle(field, 1), Warp.Shuffle(field, 2), Warp.Shuffle(field, 3));
            rows = Warp.Shuffle(field, column);
        }

        found.Start = tile * tileRows;
        found.ClearFrom = end;
        found.ClearRows = tile == 0 ? rows - end : 0;
        return found;
    }

    static int Least(int x)
    {
        for (int distance = 16; distance > 0; distance >>= 1)
        {
            x = Math.Min(x, Warp.ShuffleXor(x, distance));
        }

        return x;
    }
}
