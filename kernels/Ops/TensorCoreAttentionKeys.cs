using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>The gradients of keys and values: header in TensorCoreAttentionBackward.cs.</summary>
static partial class TensorCoreAttention
{
    /// <summary>Which gradients <see cref="KeyKernel"/> computes.</summary>
    interface IGradients
    {
        static abstract bool OfKeys { get; }

        static abstract bool OfValues { get; }
    }

    struct KeysAndValues : IGradients
    {
        public static bool OfKeys => true;

        public static bool OfValues => true;
    }

    struct KeysOnly : IGradients
    {
        public static bool OfKeys => true;

        public static bool OfValues => false;
    }

    struct ValuesOnly : IGradients
    {
        public static bool OfKeys => false;

        public static bool OfValues => true;
    }

    static void KeyKernel<TOutput, TScores, TRows, TUnit, TCopy, TParts>(ArrayView<TUnit> dy, ArrayView<TUnit> q, ArrayView<TUnit> k, ArrayView<TUnit> v, ArrayView<int> sequences,
        ArrayView<float> lse2, ArrayView<float> delta, ArrayView<TUnit> dk, ArrayView<TUnit> dv, AttentionCall call)
        where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit> where TParts : IGradients
    {
        int rowBlocks = AttentionWarp<TOutput, TScores, TRows>.RowBlocks, width = AttentionWarp<TOutput, TScores, TRows>.Width;
        int columns = AttentionWarp<TOutput, TScores, TRows>.Columns, rows = AttentionWarp<TOutput, TScores, TRows>.Rows;
        int head = Grid.IdxY, queryStride = call.QueryStride, keyStride = call.KeyStride; // the head is one of keys and values

        // The first tiles of a sequence are seen by the most queries.
        var tile = SequenceTile.Find(sequences, 2, Grid.IdxX, Warps * rows, call.Keys);
        if (tile.ClearRows > 0)
        {
            long from = (long)tile.ClearFrom * keyStride + head * call.Width;
            if (TParts.OfKeys)
            {
                SharedRows.Clear<TUnit, TCopy>(dk, from, keyStride, tile.ClearRows, call.Width);
            }

            if (TParts.OfValues)
            {
                SharedRows.Clear<TUnit, TCopy>(dv, from, keyStride, tile.ClearRows, call.Width);
            }
        }

        if (!tile.Exists)
        {
            return;
        }

        // Shared memory: keys and values (later their gradients), two stages of queries, of gradients of outputs, and of the numbers of each query.
        uint stage = (uint)(2 * columns * width), keyTile = Intrinsics.SharedAddress(ref SharedMemory.GetDynamic<Word4>()[0]);
        uint valueTile = keyTile + (uint)(2 * Warps * rows * width), queryTile = valueTile + (valueTile - keyTile), outputTile = queryTile + 2 * stage;
        uint numbers = outputTile + 2 * stage;

        int firstRow = Group.IdxX / 32 * rows, firstKey = tile.Start + firstRow; // of the warp
        int firstQuery = IntrinsicMath.Max(0, tile.Start - tile.Offset), endQuery = tile.Queries;
        if (call.Window > 0)
        {
            endQuery = IntrinsicMath.Min(endQuery, IntrinsicMath.Min(tile.Start + Warps * rows, tile.Keys) - 1 - tile.Offset + call.Window);
        }

        // Keys that no query sees still get a tile, of which nothing is computed.
        int tiles = IntrinsicMath.Max(1, (endQuery - firstQuery + columns - 1) / columns), steps = tiles * call.HeadsPerGroup;
        long keyStart = (long)(tile.Key + tile.Start) * keyStride + head * call.Width;
        SharedRows.Load<TUnit, TCopy>(keyTile, valueTile, Warps * rows, width, k, v, keyStart, keyStride, tile.Keys - tile.Start, call.Width);

        var keyRow = SharedRows.Left(keyTile, firstRow, width);
        var valueRow = SharedRows.Left(valueTile, firstRow, width);
        var queryRow = SharedRows.Right(queryTile, width);
        var outputRow = SharedRows.Right(outputTile, width);
        var queryColumn = SharedRows.Left(queryTile, 0, width);
        var outputColumn = SharedRows.Left(outputTile, 0, width);
        TOutput keys = default, values = default;

        // Step i computes what step i - 1 has loaded; step -1 only loads.
        for (int i = -1; i < steps; i++)
        {
            Intrinsics.CopyAsyncWait(0);
            Group.Barrier(); // the tiles of step i are there for all, and all are done with the stage that the next go to
            uint place = (uint)(i & 1) * stage;
            if (i + 1 < steps)
            {
                int queryHead = head * call.HeadsPerGroup + (i + 1) / tiles, next = firstQuery + (i + 1) % tiles * columns;
                SharedRows.Load<TUnit, TCopy>(queryTile + stage - place, outputTile + stage - place, columns, width, q, dy,
                    (long)(tile.Query + next) * queryStride + queryHead * call.Width, queryStride, tile.Queries - next, call.Width);
                LoadNumbers(numbers + (uint)(8 * columns * ((i + 1) & 1)), columns, lse2, delta, tile, next, queryHead, call.Heads);
            }

            Intrinsics.CopyAsyncCommit();

            // The warp's first key is seen by queries from firstSeen on, its last from lastSeen on, each by a window of them.
            int first = firstQuery + i % tiles * columns, firstSeen = firstKey - tile.Offset, lastSeen = firstSeen + rows - 1;
            if (i >= 0 && firstKey < tile.Keys && first + columns > firstSeen && (call.Window == 0 || first < lastSeen + call.Window))
            {
                uint logs = numbers + (uint)(8 * columns * (i & 1) + 8 * (Group.IdxX & 3));
                var scores = AttentionTile.Multiply<TScores>(keyRow, SharedRows.Next(queryRow, place), width, rowBlocks);
                if (first < lastSeen || (call.Window > 0 && first + columns > firstSeen + call.Window))
                {
                    int seen = firstSeen + (Group.IdxX >> 2 & 7) - first - 2 * (Group.IdxX & 3);
                    scores = AttentionTile.Mask(scores, seen, call.Window > 0 ? seen + call.Window : int.MaxValue, rowBlocks);
                }

                scores = AttentionTile.ColumnExponentials(scores, logs, call.Scale2, rowBlocks);
                if (TParts.OfValues)
                {
                    values = AttentionTile.MultiplyAdd(values, scores, SharedRows.Next(outputColumn, place), rowBlocks);
                }

                if (TParts.OfKeys)
                {
                    var gradients = AttentionTile.Multiply<TScores>(valueRow, SharedRows.Next(outputRow, place), width, rowBlocks);
                    gradients = AttentionTile.ColumnDifferences(gradients, scores, logs + (uint)(4 * columns), rowBlocks);
                    keys = AttentionTile.MultiplyAdd(keys, gradients, SharedRows.Next(queryColumn, place), rowBlocks);
                }
            }
        }

        Warp.Barrier(); // all lanes are done with the warp's keys and values
        if (TParts.OfKeys)
        {
            keys = AttentionTile.Scale(keys, AttentionTile.Rows<TRows>(call.Scale));
            AttentionTile.Store(keys, SharedRows.Fragment(keyTile, firstRow, width), rowBlocks);
            Warp.Barrier(); // the warp's dk is there for all its lanes
            SharedRows.Store<TUnit, TCopy>(keyTile, firstRow, rows, width, dk, keyStart, keyStride, tile.Keys - tile.Start, call.Width);
        }

        if (TParts.OfValues)
        {
            AttentionTile.Store(values, SharedRows.Fragment(valueTile, firstRow, width), rowBlocks);
            Warp.Barrier(); // the warp's dv is there for all its lanes
            SharedRows.Store<TUnit, TCopy>(valueTile, firstRow, rows, width, dv, keyStart, keyStride, tile.Keys - tile.Start, call.Width);
        }
    }
}
