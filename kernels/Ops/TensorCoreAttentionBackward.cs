// Gradients of attention on tensor cores. Sequences, masks and windows are those of Attention.cs.
//
// Maths      D = Σ_c dy·y (a kernel of its own) · P = 2^(f·S − lse·log₂e) · dP = dY·Vᵀ · dS = P·(dP − D) · dq = scale·dS·K · dk = scale·dSᵀ·Q · dv = Pᵀ·dY,
//            with S = Q·Kᵀ and f = scale·log₂e. Products of bfloat16, sums in f32; P and dS are rounded to bfloat16 as operands
// Shapes     dy, q, y, dq [N, H, C] bf16 · k, v, dk, dv [M, G, C] bf16 · sequences [S, 4] i32 · lse [N, H] f32. C as in TensorCoreAttention.cs
// Layout     row-major; moved in chunks of 16 bytes where C is a multiple of 8 and slices are aligned to 16 bytes, else value by value
// Launch     D: 8 lanes a (query, head). dq: grid (tiles of 64 queries, at most; H), group 128, loops over keys. dk and dv: grid (tiles of 64 keys, at most; G), group 128, loops over
//            the queries of all heads of the group, in turn; it computes Sᵀ and dPᵀ, whose registers are the left operands of the next products. Two launches for C > 128, where the sums
//            of both do not fit the registers. Shared: two tiles of the group's rows, two stages of two tiles of the others: 49 KB for C = 64, 64.5 KB for C = 128, 96.1 KB for C = 256
// Floor      flops 10·C per visible (query, key, head), here 14·C (18·C for C > 128), since S and dP are computed for each kernel · bound by tensor cores
// Numerics   within 1e-2 of the f64 oracle; no atomics, runs repeat bit for bit
// Source     Dao 2023, arXiv:2307.08691 (FlashAttention-2), algorithm 2, with dq in a loop of its own

using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>The gradients of <see cref="Forward"/>: header above.</summary>
static partial class TensorCoreAttention
{
    /// <summary>Rows of a group in the backward pass: 16 a warp, beside two tiles of scores and in <see cref="KeyKernel"/> two of sums.</summary>
    const int BackwardRows = 16 * Warps;

    /// <inheritdoc cref="Backend.AttentionBackward" />
    public static void Backward(KernelDevice device, ScratchBuffers scratch, AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse,
        Slice dq, Slice dk, Slice dv)
    {
        var call = new AttentionCall(shape, q, k);
        long rows = (long)call.Queries * call.Heads;
        var sums = scratch.Get("attention backward", DType.F32, 2 * rows);
        var run = new BackwardRun(device, call, dy, q, k, v, sequences, y, lse, dq, dk, dv, sums.Range(0, rows), sums.Range(rows, rows));
        switch (shape.HeadWidth)
        {
            case <= 16:
                run.Launch<Floats8, Floats32>();
                break;
            case <= 32:
                run.Launch<Floats16, Floats32>();
                break;
            case <= 48:
                run.Launch<Floats24, Floats32>();
                break;
            case <= 64:
                run.Launch<Floats32, Floats32>();
                break;
            case <= 96:
                run.Launch<Floats48, Floats16>();
                break;
            case <= 128:
                run.Launch<Floats64, Floats16>();
                break;
            case <= 192:
                run.Launch<Floats96, Floats8>();
                break;
            default:
                run.Launch<Floats128, Floats8>();
                break;
        }
    }

    readonly record struct BackwardRun(KernelDevice Device, AttentionCall Call, Slice Dy, Slice Q, Slice K, Slice V, Slice Sequences, Slice Y, Slice Lse, Slice Dq, Slice Dk, Slice Dv,
        Slice Lse2, Slice Delta)
    {
        public void Launch<TOutput, TScores>() where TOutput : unmanaged where TScores : unmanaged
        {
            if (ChunkCopy.Serves(Call.Width, Dy, Q, K, V, Y, Dq, Dk, Dv))
            {
                Launch<TOutput, TScores, Word4, ChunkCopy>();
            }
            else
            {
                Launch<TOutput, TScores, ushort, ElementCopy>();
            }
        }

        void Launch<TOutput, TScores, TUnit, TCopy>() where TOutput : unmanaged where TScores : unmanaged where TUnit : unmanaged where TCopy : unmanaged, ITileCopy<TUnit>
        {
            var buffers = Device.Buffers;
            Device.Launch(DeltaKernel<TUnit, TCopy>, LaunchShape.Over(8 * Delta.Length), buffers.View<TUnit>(Dy), buffers.View<TUnit>(Y), buffers.View<float>(Lse),
                buffers.View<float>(Lse2), buffers.View<float>(Delta), Call.Width);

            int width = AttentionWarp<TOutput, TScores, Float2>.Width, columns = AttentionWarp<TOutput, TScores, Float2>.Columns, sharedBytes = 4 * width * (BackwardRows + 2 * columns);
            int queryTiles = checked((int)SequenceTile.Bound(Call.Queries, BackwardRows, Sequences.Length / 4));
            Device.Launch(QueryKernel<TOutput, TScores, TUnit, TCopy>, new LaunchShape(new Index3D(queryTiles, Call.Heads, 1), 32 * Warps, sharedBytes),
                buffers.View<TUnit>(Dy), buffers.View<TUnit>(Q), buffers.View<TUnit>(K), buffers.View<TUnit>(V), buffers.View<int>(Sequences), buffers.View<float>(Lse2),
                buffers.View<float>(Delta), buffers.View<TUnit>(Dq), Call);
            if (width <= 128)
            {
                LaunchKeys<TOutput, TScores, TUnit, TCopy, KeysAndValues>(sharedBytes);
            }
            else
            {
                LaunchKeys<TOutput, TScores, TUnit, TCopy, KeysOnly>(sharedBytes);
                LaunchKeys<TOutput, TScores, TUnit, TCopy, ValuesOnly>(sharedBytes);
            }
        }

        void LaunchKeys<TOutput, TScores, TUnit, TCopy, TParts>(int sharedBytes)
            where TOutput : unmanaged where TScores : unmanaged where TUnit : unmanaged where TCopy : unmanaged, ITileCopy<TUnit> where TParts : unmanaged, IGradients
        {
            var buffers = Device.Buffers;
            int tiles = checked((int)SequenceTile.Bound(Call.Keys, BackwardRows, Sequences.Length / 4)), columns = AttentionWarp<TOutput, TScores, Float2>.Columns;
            Device.Launch(KeyKernel<TOutput, TScores, TUnit, TCopy, TParts>, new LaunchShape(new Index3D(tiles, Call.Heads / Call.HeadsPerGroup, 1), 32 * Warps, sharedBytes + 16 * columns),
                buffers.View<TUnit>(Dy), buffers.View<TUnit>(Q), buffers.View<TUnit>(K), buffers.View<TUnit>(V), buffers.View<int>(Sequences), buffers.View<float>(Lse2),
                buffers.View<float>(Delta), buffers.View<TUnit>(Dk), buffers.View<TUnit>(Dv), Call);
        }
    }

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

    /// <summary>What both kernels need of each (query, head): lse·log₂e and D. Eight lanes share a row.</summary>
    static void DeltaKernel<TUnit, TCopy>(ArrayView<TUnit> dy, ArrayView<TUnit> y, ArrayView<float> lse, ArrayView<float> lse2, ArrayView<float> delta, int width)
        where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
    {
        long row = Grid.LongGlobalIndex.X / 8;
        float sum = 0;
        if (row < delta.Length)
        {
            for (int column = SharedRows.Chunk * (Group.IdxX & 7); column < width; column += 8 * SharedRows.Chunk)
            {
                int count = IntrinsicMath.Min(width - column, SharedRows.Chunk);
                Word4 a = TCopy.Read(dy, row * width + column, count), b = TCopy.Read(y, row * width + column, count);
                sum += Dot(a.X, b.X) + Dot(a.Y, b.Y) + (Dot(a.Z, b.Z) + Dot(a.W, b.W));
            }
        }

        sum += Warp.ShuffleXor(sum, 4);
        sum += Warp.ShuffleXor(sum, 2);
        sum += Warp.ShuffleXor(sum, 1);
        if (row < delta.Length && (Group.IdxX & 7) == 0)
        {
            lse2[row] = lse[row] * AttentionCall.Log2E;
            delta[row] = sum;
        }
    }

    /// <summary>The products of two pairs of bfloat16 values, added.</summary>
    static float Dot(uint a, uint b) => Interop.IntAsFloat(a << 16) * Interop.IntAsFloat(b << 16) + Interop.IntAsFloat(a & 0xFFFF0000) * Interop.IntAsFloat(b & 0xFFFF0000);

    static void QueryKernel<TOutput, TScores, TUnit, TCopy>(ArrayView<TUnit> dy, ArrayView<TUnit> q, ArrayView<TUnit> k, ArrayView<TUnit> v, ArrayView<int> sequences,
        ArrayView<float> lse2, ArrayView<float> delta, ArrayView<TUnit> dq, AttentionCall call)
        where TOutput : unmanaged where TScores : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
    {
        int width = AttentionWarp<TOutput, TScores, Float2>.Width, columns = AttentionWarp<TOutput, TScores, Float2>.Columns;
        int head = Grid.IdxY, queryStride = call.QueryStride, keyStride = call.KeyStride;

        // The last tiles of a sequence see the most keys and go first.
        var tile = SequenceTile.Find(sequences, 0, Grid.DimX - 1 - Grid.IdxX, BackwardRows, call.Queries);
        if (tile.ClearRows > 0)
        {
            SharedRows.Clear<TUnit, TCopy>(dq, (long)tile.ClearFrom * queryStride + head * call.Width, queryStride, tile.ClearRows, call.Width);
        }

        if (!tile.Exists)
        {
            return;
        }

        // Shared memory, in chunks: queries (later dq) and gradients of outputs, two stages of keys and of values.
        int stage = columns * width / SharedRows.Chunk, outputTile = BackwardRows * width / SharedRows.Chunk, keyTile = 2 * outputTile, valueTile = keyTile + 2 * stage;
        var shared = SharedMemory.GetDynamic<Word4>();
        uint address = Intrinsics.SharedAddress(ref shared[0]);

        int firstRow = Group.IdxX / 32 * 16, firstQuery = tile.Start + firstRow; // of the warp
        int lastKeys = tile.Offset + IntrinsicMath.Min(tile.Start + BackwardRows, tile.Queries);
        int firstKey = call.Window > 0 ? IntrinsicMath.Max(0, tile.Offset + tile.Start + 1 - call.Window) : 0;
        int tiles = (lastKeys - firstKey + columns - 1) / columns;
        long queryStart = (long)(tile.Query + tile.Start) * queryStride + head * call.Width;
        long keyStart = (long)(tile.Key + firstKey) * keyStride + head / call.HeadsPerGroup * call.Width;
        SharedRows.Load<TUnit, TCopy>(shared, 0, BackwardRows, width, q, queryStart, queryStride, tile.Queries - tile.Start, call.Width);
        SharedRows.Load<TUnit, TCopy>(shared, outputTile, BackwardRows, width, dy, queryStart, queryStride, tile.Queries - tile.Start, call.Width);
        SharedRows.Load<TUnit, TCopy>(shared, keyTile, columns, width, k, keyStart, keyStride, tile.Keys - firstKey, call.Width);
        SharedRows.Load<TUnit, TCopy>(shared, valueTile, columns, width, v, keyStart, keyStride, tile.Keys - firstKey, call.Width);
        Intrinsics.CopyAsyncCommit();

        var queryRow = SharedRows.Left(address, firstRow, width);
        var outputRow = SharedRows.Left(address + (uint)(16 * outputTile), firstRow, width);
        var keyRow = SharedRows.Right(address + (uint)(16 * keyTile), width);
        var valueRow = SharedRows.Right(address + (uint)(16 * valueTile), width);
        var keyColumn = SharedRows.Left(address + (uint)(16 * keyTile), 0, width);
        int row = firstQuery + (Group.IdxX >> 2 & 7); // the lane's first; the second is 8 further on
        var logs = RowsOf(lse2, tile, row, head, call.Heads);
        var deltas = RowsOf(delta, tile, row, head, call.Heads);
        TOutput output = default;
        for (int i = 0; i < tiles; i++)
        {
            Intrinsics.CopyAsyncWait(0);
            Group.Barrier(); // tile i is there for all, and all are done with the stage that the next tile goes to
            int place = (i & 1) * stage, first = firstKey + i * columns;
            if (i + 1 < tiles)
            {
                int next = (i + 1) * columns, nextPlace = stage - place;
                SharedRows.Load<TUnit, TCopy>(shared, keyTile + nextPlace, columns, width, k, keyStart + (long)next * keyStride, keyStride, tile.Keys - firstKey - next, call.Width);
                SharedRows.Load<TUnit, TCopy>(shared, valueTile + nextPlace, columns, width, v, keyStart + (long)next * keyStride, keyStride, tile.Keys - firstKey - next, call.Width);
            }

            Intrinsics.CopyAsyncCommit();

            // Of the warp's queries, the first sees keys up to firstEnd, the last up to lastEnd, each a window of them.
            int firstEnd = tile.Offset + firstQuery + 1, lastEnd = firstEnd + 15;
            if (firstQuery < tile.Queries && first < lastEnd && (call.Window == 0 || first + columns > firstEnd - call.Window))
            {
                var scores = AttentionTile.Multiply<TScores>(queryRow, SharedRows.Next(keyRow, 16 * place), width, 1);
                if (first + columns > firstEnd || (call.Window > 0 && first < lastEnd - call.Window))
                {
                    int end = tile.Offset + row + 1 - first - 2 * (Group.IdxX & 3);
                    scores = AttentionTile.Mask(scores, call.Window > 0 ? end - call.Window : int.MinValue, end, 1);
                }

                scores = AttentionTile.Exponentials(scores, logs, call.Scale2);
                var gradients = AttentionTile.Multiply<TScores>(outputRow, SharedRows.Next(valueRow, 16 * place), width, 1);
                gradients = AttentionTile.Differences(gradients, scores, deltas);
                output = AttentionTile.MultiplyAdd(output, gradients, SharedRows.Next(keyColumn, 16 * place), 1);
            }
        }

        output = AttentionTile.Scale(output, AttentionTile.Rows<Float2>(call.Scale));
        Warp.Barrier(); // all lanes are done with the queries
        AttentionTile.Store(output, SharedRows.Fragment(address, firstRow, width), 1);
        Warp.Barrier(); // the warp's dq is there for all its lanes
        SharedRows.Store<TUnit, TCopy>(shared, 0, firstRow, 16, width, dq, queryStart, queryStride, tile.Queries - tile.Start, call.Width);
    }

    /// <summary>A head's numbers of two queries of a sequence, 8 apart; 0 where there is no query.</summary>
    static Float2 RowsOf(ArrayView<float> numbers, SequenceTile tile, int query, int head, int heads) => new()
    {
        X = query < tile.Queries ? numbers[(long)(tile.Query + query) * heads + head] : 0,
        Y = query + 8 < tile.Queries ? numbers[(long)(tile.Query + query + 8) * heads + head] : 0,
    };

    static void KeyKernel<TOutput, TScores, TUnit, TCopy, TParts>(ArrayView<TUnit> dy, ArrayView<TUnit> q, ArrayView<TUnit> k, ArrayView<TUnit> v, ArrayView<int> sequences,
        ArrayView<float> lse2, ArrayView<float> delta, ArrayView<TUnit> dk, ArrayView<TUnit> dv, AttentionCall call)
        where TOutput : unmanaged where TScores : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit> where TParts : IGradients
    {
        int width = AttentionWarp<TOutput, TScores, Float2>.Width, columns = AttentionWarp<TOutput, TScores, Float2>.Columns;
        int head = Grid.IdxY, queryStride = call.QueryStride, keyStride = call.KeyStride; // the head is one of keys and values

        // The first tiles of a sequence are seen by the most queries.
        var tile = SequenceTile.Find(sequences, 2, Grid.IdxX, BackwardRows, call.Keys);
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

        // Shared memory, in chunks: keys and values (later their gradients), two stages of queries, of gradients of outputs, and of the numbers of each query.
        int stage = columns * width / SharedRows.Chunk, valueTile = BackwardRows * width / SharedRows.Chunk, queryTile = 2 * valueTile, outputTile = queryTile + 2 * stage;
        int numberTile = outputTile + 2 * stage;
        var shared = SharedMemory.GetDynamic<Word4>();
        uint address = Intrinsics.SharedAddress(ref shared[0]), numbers = address + (uint)(16 * numberTile);

        int firstRow = Group.IdxX / 32 * 16, firstKey = tile.Start + firstRow; // of the warp
        int firstQuery = IntrinsicMath.Max(0, tile.Start - tile.Offset), endQuery = tile.Queries;
        if (call.Window > 0)
        {
            endQuery = IntrinsicMath.Min(endQuery, IntrinsicMath.Min(tile.Start + BackwardRows, tile.Keys) - 1 - tile.Offset + call.Window);
        }

        // Keys that no query sees still get a tile, of which nothing is computed.
        int tiles = IntrinsicMath.Max(1, (endQuery - firstQuery + columns - 1) / columns), steps = tiles * call.HeadsPerGroup;
        long keyStart = (long)(tile.Key + tile.Start) * keyStride + head * call.Width;
        SharedRows.Load<TUnit, TCopy>(shared, 0, BackwardRows, width, k, keyStart, keyStride, tile.Keys - tile.Start, call.Width);
        SharedRows.Load<TUnit, TCopy>(shared, valueTile, BackwardRows, width, v, keyStart, keyStride, tile.Keys - tile.Start, call.Width);

        var keyRow = SharedRows.Left(address, firstRow, width);
        var valueRow = SharedRows.Left(address + (uint)(16 * valueTile), firstRow, width);
        var queryRow = SharedRows.Right(address + (uint)(16 * queryTile), width);
        var outputRow = SharedRows.Right(address + (uint)(16 * outputTile), width);
        var queryColumn = SharedRows.Left(address + (uint)(16 * queryTile), 0, width);
        var outputColumn = SharedRows.Left(address + (uint)(16 * outputTile), 0, width);
        TOutput keys = default, values = default;

        // Step i computes what step i - 1 has loaded; step -1 only loads.
        for (int i = -1; i < steps; i++)
        {
            Intrinsics.CopyAsyncWait(0);
            Group.Barrier(); // the tiles of step i are there for all, and all are done with the stage that the next go to
            if (i + 1 < steps)
            {
                int queryHead = head * call.HeadsPerGroup + (i + 1) / tiles, next = firstQuery + (i + 1) % tiles * columns, nextPlace = ((i + 1) & 1) * stage;
                long start = (long)(tile.Query + next) * queryStride + queryHead * call.Width;
                SharedRows.Load<TUnit, TCopy>(shared, queryTile + nextPlace, columns, width, q, start, queryStride, tile.Queries - next, call.Width);
                SharedRows.Load<TUnit, TCopy>(shared, outputTile + nextPlace, columns, width, dy, start, queryStride, tile.Queries - next, call.Width);
                if (Group.IdxX < columns)
                {
                    int there = next + Group.IdxX < tile.Queries ? 4 : 0;
                    long number = there > 0 ? (long)(tile.Query + next + Group.IdxX) * call.Heads + queryHead : 0;
                    uint place = numbers + (uint)(8 * columns * ((i + 1) & 1) + 4 * Group.IdxX);
                    Intrinsics.CopyAsync4(place, ref lse2[number], there);
                    Intrinsics.CopyAsync4(place + (uint)(4 * columns), ref delta[number], there);
                }
            }

            Intrinsics.CopyAsyncCommit();

            // The warp's first key is seen by queries from firstSeen on, its last from lastSeen on, each by a window of them.
            int first = firstQuery + i % tiles * columns, firstSeen = firstKey - tile.Offset, lastSeen = firstSeen + 15;
            if (i >= 0 && firstKey < tile.Keys && first + columns > firstSeen && (call.Window == 0 || first < lastSeen + call.Window))
            {
                int bytes = 16 * (i & 1) * stage;
                uint logs = numbers + (uint)(8 * columns * (i & 1) + 8 * (Group.IdxX & 3));
                var scores = AttentionTile.Multiply<TScores>(keyRow, SharedRows.Next(queryRow, bytes), width, 1);
                if (first < lastSeen || (call.Window > 0 && first + columns > firstSeen + call.Window))
                {
                    int seen = firstSeen + (Group.IdxX >> 2 & 7) - first - 2 * (Group.IdxX & 3);
                    scores = AttentionTile.Mask(scores, seen, call.Window > 0 ? seen + call.Window : int.MaxValue, 1);
                }

                scores = AttentionTile.ColumnExponentials(scores, logs, call.Scale2, 1);
                if (TParts.OfValues)
                {
                    values = AttentionTile.MultiplyAdd(values, scores, SharedRows.Next(outputColumn, bytes), 1);
                }

                if (TParts.OfKeys)
                {
                    var gradients = AttentionTile.Multiply<TScores>(valueRow, SharedRows.Next(outputRow, bytes), width, 1);
                    gradients = AttentionTile.ColumnDifferences(gradients, scores, logs + (uint)(4 * columns), 1);
                    keys = AttentionTile.MultiplyAdd(keys, gradients, SharedRows.Next(queryColumn, bytes), 1);
                }
            }
        }

        Warp.Barrier(); // all lanes are done with the warp's keys and values
        if (TParts.OfKeys)
        {
            keys = AttentionTile.Scale(keys, AttentionTile.Rows<Float2>(call.Scale));
            AttentionTile.Store(keys, SharedRows.Fragment(address, firstRow, width), 1);
            Warp.Barrier(); // the warp's dk is there for all its lanes
            SharedRows.Store<TUnit, TCopy>(shared, 0, firstRow, 16, width, dk, keyStart, keyStride, tile.Keys - tile.Start, call.Width);
        }

        if (TParts.OfValues)
        {
            AttentionTile.Store(values, SharedRows.Fragment(address + (uint)(16 * valueTile), firstRow, width), 1);
            Warp.Barrier(); // the warp's dv is there for all its lanes
            SharedRows.Store<TUnit, TCopy>(shared, valueTile, firstRow, 16, width, dv, keyStart, keyStride, tile.Keys - tile.Start, call.Width);
        }
    }
}
