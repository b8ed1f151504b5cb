using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>The gradients of queries: header in TensorCoreAttentionBackward.cs.</summary>
static partial class TensorCoreAttention
{
    static void QueryKernel<TOutput, TScores, TRows, TUnit, TCopy>(ArrayView<TUnit> dy, ArrayView<TUnit> q, ArrayView<TUnit> k, ArrayView<TUnit> v, ArrayView<int> sequences,
        ArrayView<float> lse2, ArrayView<float> delta, ArrayView<TUnit> dq, AttentionCall call)
        where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
    {
        int rowBlocks = AttentionWarp<TOutput, TScores, TRows>.RowBlocks, width = AttentionWarp<TOutput, TScores, TRows>.Width;
        int columns = AttentionWarp<TOutput, TScores, TRows>.Columns, rows = AttentionWarp<TOutput, TScores, TRows>.Rows;
        int head = Grid.IdxY, queryStride = call.QueryStride, keyStride = call.KeyStride;

        // The last tiles of a sequence see the most keys and go first.
        var tile = SequenceTile.Find(sequences, 0, Grid.DimX - 1 - Grid.IdxX, Warps * rows, call.Queries);
        if (tile.ClearRows > 0)
        {
            SharedRows.Clear<TUnit, TCopy>(dq, (long)tile.ClearFrom * queryStride + head * call.Width, queryStride, tile.ClearRows, call.Width);
        }

        if (!tile.Exists)
        {
            return;
        }

        // Shared memory: queries (later dq) and gradients of outputs, two stages of keys and of values, the numbers of each query.
        uint stage = (uint)(2 * columns * width), queryTile = Intrinsics.SharedAddress(ref SharedMemory.GetDynamic<Word4>()[0]);
        uint outputTile = queryTile + (uint)(2 * Warps * rows * width), keyTile = outputTile + (outputTile - queryTile), valueTile = keyTile + 2 * stage;
        uint numbers = valueTile + 2 * stage;

        int firstRow = Group.IdxX / 32 * rows; // of the warp
        var walk = new KeyWalk(tile, call, head, Warps * rows, firstRow, rows, columns);
        SharedRows.Load<TUnit, TCopy>(queryTile, outputTile, Warps * rows, width, q, dy, walk.QueryStart, queryStride, tile.Queries - tile.Start, call.Width);
        SharedRows.Load<TUnit, TCopy>(keyTile, valueTile, columns, width, k, v, walk.KeyStart + (long)walk.FirstKey * keyStride, keyStride, tile.Keys - walk.FirstKey, call.Width);
        LoadNumbers(numbers, Warps * rows, lse2, delta, tile, tile.Start, head, call.Heads);
        Intrinsics.CopyAsyncCommit();

        var queryRow = SharedRows.Left(queryTile, firstRow, width);
        var outputRow = SharedRows.Left(outputTile, firstRow, width);
        var keyRow = SharedRows.Right(keyTile, width);
        var valueRow = SharedRows.Right(valueTile, width);
        var keyColumn = SharedRows.Left(keyTile, 0, width);
        Intrinsics.CopyAsyncWait(0);
        Group.Barrier(); // all numbers are there
        int row = firstRow + (Group.IdxX >> 2 & 7); // the lane's first
        var logs = AttentionTile.LoadRows<TRows>(numbers + (uint)(4 * row));
        var deltas = AttentionTile.LoadRows<TRows>(numbers + (uint)(4 * (Warps * rows + row)));
        TOutput output = default;
        for (int i = 0; i < walk.Tiles; i++)
        {
            Intrinsics.CopyAsyncWait(0);
            Group.Barrier(); // tile i is there for all, and all are done with the stage that the next tile goes to
            int first = walk.FirstKey + i * columns, next = first + columns;
            uint place = (uint)(i & 1) * stage;
            if (i + 1 < walk.Tiles)
            {
                SharedRows.Load<TUnit, TCopy>(keyTile + stage - place, valueTile + stage - place, columns, width, k, v, walk.KeyStart + (long)next * keyStride, keyStride,
                    tile.Keys - next, call.Width);
            }

            Intrinsics.CopyAsyncCommit();
            if (walk.Sees(first))
            {
                var scores = AttentionTile.Multiply<TScores>(queryRow, SharedRows.Next(keyRow, place), width, rowBlocks);
                scores = walk.Masked(scores, first, rowBlocks);
                scores = AttentionTile.Exponentials(scores, logs, call.Scale2);
                var gradients = AttentionTile.Multiply<TScores>(outputRow, SharedRows.Next(valueRow, place), width, rowBlocks);
                gradients = AttentionTile.Differences(gradients, scores, deltas);
                output = AttentionTile.MultiplyAdd(output, gradients, SharedRows.Next(keyColumn, place), rowBlocks);
            }
        }

        output = AttentionTile.Scale(output, AttentionTile.Rows<TRows>(call.Scale));
        Warp.Barrier(); // all lanes are done with the queries
        AttentionTile.Store(output, SharedRows.Fragment(queryTile, firstRow, width), rowBlocks);
        Warp.Barrier(); // the warp's dq is there for all its lanes
        SharedRows.Store<TUnit, TCopy>(queryTile, firstRow, rows, width, dq, walk.QueryStart, queryStride, tile.Queries - tile.Start, call.Width);
    }

    /// <summary>Starts copying lse·log₂e and D of a head's queries of a sequence to shared memory, one after the other; 0 where there is no query.</summary>
    static void LoadNumbers(uint to, int rows, ArrayView<float> lse2, ArrayView<float> delta, SequenceTile tile, int query, int head, int heads)
    {
        if (Group.IdxX < rows)
        {
            int bytes = query + Group.IdxX < tile.Queries ? 4 : 0;
            long from = bytes > 0 ? (long)(tile.Query + query + Group.IdxX) * heads + head : 0;
            Intrinsics.CopyAsync4(to + (uint)(4 * Group.IdxX), ref lse2[from], bytes);
            Intrinsics.CopyAsync4(to + (uint)(4 * (rows + Group.IdxX)), ref delta[from], bytes);
        }
    }
}
