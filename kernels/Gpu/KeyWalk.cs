using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>The walk of a tile of queries over the keys that it sees, some columns at a time, and what the queries of this warp see of them.</summary>
readonly struct KeyWalk
{
    /// <summary>The first key of the walk, and how many tiles of keys follow.</summary>
    public readonly int FirstKey, Tiles;

    /// <summary>Where the tile's first query and the sequence's first key begin in their tensors.</summary>
    public readonly long QueryStart, KeyStart;

    // Of the warp's queries, the first sees keys up to firstEnd, the last up to lastEnd, each a window of them; lastEnd is 0 where the warp has none.
    readonly int columns, window, firstEnd, lastEnd;

    /// <param name="tile">Of queries.</param>
    /// <param name="call">The numbers of the call.</param>
    /// <param name="head">Head of the queries.</param>
    /// <param name="tileRows">Queries of a tile.</param>
    /// <param name="firstRow">The warp's first, counted from the tile's.</param>
    /// <param name="rows">The warp's queries.</param>
    /// <param name="columns">Keys of a tile.</param>
    public KeyWalk(SequenceTile tile, AttentionCall call, int head, int tileRows, int firstRow, int rows, int columns)
    {
        int lastKeys = tile.Offset + IntrinsicMath.Min(tile.Start + tileRows, tile.Queries), firstQuery = tile.Start + firstRow;
        FirstKey = call.Window > 0 ? IntrinsicMath.Max(0, tile.Offset + tile.Start + 1 - call.Window) : 0;
        Tiles = (lastKeys - FirstKey + columns - 1) / columns;
        QueryStart = (long)(tile.Query + tile.Start) * call.QueryStride + head * call.Width;
        KeyStart = (long)tile.Key * call.KeyStride + head / call.HeadsPerGroup * call.Width;
        this.columns = columns;
        window = call.Window;
        firstEnd = tile.Offset + firstQuery + 1;
        lastEnd = firstQuery < tile.Queries ? firstEnd + rows - 1 : 0;
    }

    /// <summary>Whether a query of the warp sees a key of the tile that begins with <paramref name="first"/>.</summary>
    public bool Sees(int first) => first < lastEnd && (window == 0 || first + columns > firstEnd - window);

    /// <summary>Scores of that tile, from which those of keys that a query does not see are taken.</summary>
    public TScores Masked<TScores>(TScores scores, int first, int rowBlocks) where TScores : unmanaged
    {
        if (first + columns > firstEnd || (window > 0 && first < lastEnd - window))
        {
            int end = firstEnd + (Group.IdxX >> 2 & 7) - first - 2 * (Group.IdxX & 3); // of the lane's first row, counted from its first column
            scores = AttentionTile.Mask(scores, window > 0 ? end - window : int.MinValue, end, rowBlocks);
        }

        return scores;
    }
}
