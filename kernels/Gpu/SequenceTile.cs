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

    /// <summary>The tile of that number, counted over all sequences.</summary>
    /// <param name="table">I32 [S, 4].</param>
    /// <param name="column">0 for tiles of queries, 2 for tiles of keys.</param>
    /// <param name="tile">The number.</param>
    /// <param name="tileRows">Rows of a tile.</param>
    /// <param name="rows">Rows of the tensor.</param>
    public static SequenceTile Find(ArrayView<int> table, int column, int tile, int tileRows, int rows)
    {
        int end = 0, sequence = 0, count = (int)(table.Length / 4);
        while (sequence < count)
        {
            int length = table[4 * sequence + column + 1], tiles = (length + tileRows - 1) / tileRows;
            if (tile < tiles)
            {
                break;
            }

            tile -= tiles;
            end = length > 0 ? table[4 * sequence + column] + length : end;
            sequence++;
        }

        bool exists = sequence < count;
        SequenceTile found = default;
        if (exists)
        {
            found.Query = table[4 * sequence];
            found.Queries = table[4 * sequence + 1];
            found.Key = table[4 * sequence + 2];
            found.Keys = table[4 * sequence + 3];
            rows = table[4 * sequence + column];
        }

        found.Exists = exists;
        found.Start = tile * tileRows;
        found.ClearFrom = end;
        found.ClearRows = tile == 0 ? rows - end : 0;
        return found;
    }
}
