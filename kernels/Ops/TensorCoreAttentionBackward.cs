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
    /// <inheritdoc cref="Backend.AttentionBackward" />
    public static void Backward(KernelDevice device, ScratchBuffers scratch, AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse,
        Slice dq, Slice dk, Slice dv)
    {
        var call = new AttentionCall(shape, q, k);
        long rows = (long)call.Queries * call.Heads;
        var sums = scratch.Get("attention backward", DType.F32, 2 * rows);
        var run = new BackwardRun(device, call, dy, q, k, v, sequences, y, lse, dq, dk, dv, sums.Range(0, rows), sums.Range(rows, rows));
        run.LaunchDelta();
        switch (shape.HeadWidth)
        {
            case <= 16:
                run.LaunchQueries<Floats16, Floats32, Float4>();
                run.LaunchKeys<Floats16, Floats32, Float4, KeysAndValues>();
                break;
            case <= 32:
                run.LaunchQueries<Floats32, Floats32, Float4>();
                run.LaunchKeys<Floats32, Floats32, Float4, KeysAndValues>();
                break;
            case <= 48:
                run.LaunchQueries<Floats48, Floats32, Float4>();
                run.LaunchKeys<Floats24, Floats32, Float2, KeysAndValues>();
                break;
            case <= 64:
                run.LaunchQueries<Floats64, Floats32, Float4>();
                run.LaunchKeys<Floats32, Floats32, Float2, KeysAndValues>();
                break;
            case <= 96:
                run.LaunchQueries<Floats48, Floats32, Float2>();
                run.LaunchKeys<Floats48, Floats16, Float2, KeysAndValues>();
                break;
            case <= 128:
                run.LaunchQueries<Floats64, Floats32, Float2>();
                run.LaunchKeys<Floats64, Floats16, Float2, KeysAndValues>();
                break;
            case <= 192:
                run.LaunchQueries<Floats96, Floats16, Float2>();
                run.LaunchKeys<Floats96, Floats16, Float2, KeysOnly>();
                run.LaunchKeys<Floats96, Floats16, Float2, ValuesOnly>();
                break;
            default:
                run.LaunchQueries<Floats128, Floats8, Float2>();
                run.LaunchKeys<Floats128, Floats8, Float2, KeysOnly>();
                run.LaunchKeys<Floats128, Floats8, Float2, ValuesOnly>();
                break;
        }
    }

    readonly record struct BackwardRun(KernelDevice Device, AttentionCall Call, Slice Dy, Slice Q, Slice K, Slice V, Slice Sequences, Slice Y, Slice Lse, Slice Dq, Slice Dk, Slice Dv,
        Slice Lse2, Slice Delta)
    {
        bool InChunks => ChunkCopy.Serves(Call.Width, Dy, Q, K, V, Y, Dq, Dk, Dv);

        public void LaunchDelta()
        {
            if (InChunks)
            {
                LaunchDelta<Word4, ChunkCopy>();
            }
            else
            {
                LaunchDelta<ushort, ElementCopy>();
            }
        }

        public void LaunchQueries<TOutput, TScores, TRows>() where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged
        {
            if (InChunks)
            {
                LaunchQueries<TOutput, TScores, TRows, Word4, ChunkCopy>();
            }
            else
            {
                LaunchQueries<TOutput, TScores, TRows, ushort, ElementCopy>();
            }
        }

        public void LaunchKeys<TOutput, TScores, TRows, TParts>()
            where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TParts : IGradients
        {
            if (InChunks)
            {
                LaunchKeys<TOutput, TScores, TRows, Word4, ChunkCopy, TParts>();
            }
            else
            {
                LaunchKeys<TOutput, TScores, TRows, ushort, ElementCopy, TParts>();
            }
        }

        void LaunchDelta<TUnit, TCopy>() where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
        {
            var buffers = Device.Buffers;
            Device.Launch(DeltaKernel<TUnit, TCopy>, LaunchShape.Over(8 * Delta.Length), buffers.View<TUnit>(Dy), buffers.View<TUnit>(Y), buffers.View<float>(Lse),
                buffers.View<float>(Lse2), buffers.View<float>(Delta), Call.Width);
        }

        void LaunchQueries<TOutput, TScores, TRows, TUnit, TCopy>()
            where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
        {
            var buffers = Device.Buffers;
            int width = WarpTile<TOutput, TScores, TRows>.Width, columns = WarpTile<TOutput, TScores, TRows>.Columns, rows = Warps * WarpTile<TOutput, TScores, TRows>.Rows;
            int tiles = checked((int)SequenceTile.Bound(Call.Queries, rows, Sequences.Length / 4));
            Device.Launch(QueryKernel<TOutput, TScores, TRows, TUnit, TCopy>,
                new LaunchShape(new Index3D(tiles, Call.Heads, 1), 32 * Warps, 4 * width * (rows + 2 * columns) + 8 * rows),
                buffers.View<TUnit>(Dy), buffers.View<TUnit>(Q), buffers.View<TUnit>(K), buffers.View<TUnit>(V), buffers.View<int>(Sequences), buffers.View<float>(Lse2),
                buffers.View<float>(Delta), buffers.View<TUnit>(Dq), Call);
        }

        void LaunchKeys<TOutput, TScores, TRows, TUnit, TCopy, TParts>()
            where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit> where TParts : IGradients
        {
            var buffers = Device.Buffers;
            int width = WarpTile<TOutput, TScores, TRows>.Width, columns = WarpTile<TOutput, TScores, TRows>.Columns, rows = Warps * WarpTile<TOutput, TScores, TRows>.Rows;
            int tiles = checked((int)SequenceTile.Bound(Call.Keys, rows, Sequences.Length / 4));
            Device.Launch(KeyKernel<TOutput, TScores, TRows, TUnit, TCopy, TParts>,
                new LaunchShape(new Index3D(tiles, Call.Heads / Call.HeadsPerGroup, 1), 32 * Warps, 4 * width * (rows + 2 * columns) + 16 * columns),
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
            for (int column = SharedTile.Chunk * (Group.IdxX & 7); column < width; column += 8 * SharedTile.Chunk)
            {
                int count = IntrinsicMath.Min(width - column, SharedTile.Chunk);
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

    static void QueryKernel<TOutput, TScores, TRows, TUnit, TCopy>(ArrayView<TUnit> dy, ArrayView<TUnit> q, ArrayView<TUnit> k, ArrayView<TUnit> v, ArrayView<int> sequences,
        ArrayView<float> lse2, ArrayView<float> delta, ArrayView<TUnit> dq, AttentionCall call)
        where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
    {
        int rowBlocks = WarpTile<TOutput, TScores, TRows>.RowBlocks, width = WarpTile<TOutput, TScores, TRows>.Width;
        int columns = WarpTile<TOutput, TScores, TRows>.Columns, rows = WarpTile<TOutput, TScores, TRows>.Rows;
        int head = Grid.IdxY, queryStride = call.QueryStride, keyStride = call.KeyStride;

        // The last tiles of a sequence see the most keys and go first.
        var tile = SequenceTile.Find(sequences, 0, Grid.DimX - 1 - Grid.IdxX, Warps * rows, call.Queries);
        if (tile.ClearRows > 0)
        {
            SharedTile.Clear<TUnit, TCopy>(dq, (long)tile.ClearFrom * queryStride + head * call.Width, queryStride, tile.ClearRows, call.Width);
        }

        if (!tile.Exists)
        {
            return;
        }

        // Shared memory: queries (later dq) and gradients of outputs, two stages of keys and of values, the numbers of each query.
        uint stage = (uint)(2 * columns * width), queryTile = Intrinsics.SharedAddress(ref SharedMemory.GetDynamic<Word4>()[0]);
        uint outputTile = queryTile + (uint)(2 * Warps * rows * width), keyTile = outputTile + (outputTile - queryTile), valueTile = keyTile + 2 * stage;
        uint numbers = valueTile + 2 * stage;

        int firstRow = Group.IdxX / 32 * rows, firstQuery = tile.Start + firstRow; // of the warp
        int lastKeys = tile.Offset + IntrinsicMath.Min(tile.Start + Warps * rows, tile.Queries);
        int firstKey = call.Window > 0 ? IntrinsicMath.Max(0, tile.Offset + tile.Start + 1 - call.Window) : 0;
        int tiles = (lastKeys - firstKey + columns - 1) / columns;
        long queryStart = (long)(tile.Query + tile.Start) * queryStride + head * call.Width;
        long keyStart = (long)tile.Key * keyStride + head / call.HeadsPerGroup * call.Width;
        SharedTile.Load<TUnit, TCopy>(queryTile, outputTile, Warps * rows, width, q, dy, queryStart, queryStride, tile.Queries - tile.Start, call.Width);
        SharedTile.Load<TUnit, TCopy>(keyTile, valueTile, columns, width, k, v, keyStart + (long)firstKey * keyStride, keyStride, tile.Keys - firstKey, call.Width);
        LoadNumbers(numbers, Warps * rows, lse2, delta, tile, tile.Start, head, call.Heads);
        Intrinsics.CopyAsyncCommit();

        var queryRow = SharedTile.Left(queryTile, firstRow, width);
        var outputRow = SharedTile.Left(outputTile, firstRow, width);
        var keyRow = SharedTile.Right(keyTile, width);
        var valueRow = SharedTile.Right(valueTile, width);
        var keyColumn = SharedTile.Left(keyTile, 0, width);
        Intrinsics.CopyAsyncWait(0);
        Group.Barrier(); // all numbers are there
        int row = firstRow + (Group.IdxX >> 2 & 7); // the lane's first
        var logs = AttentionTile.LoadRows<TRows>(numbers + (uint)(4 * row));
        var deltas = AttentionTile.LoadRows<TRows>(numbers + (uint)(4 * (Warps * rows + row)));
        TOutput output = default;
        for (int i = 0; i < tiles; i++)
        {
            Intrinsics.CopyAsyncWait(0);
            Group.Barrier(); // tile i is there for all, and all are done with the stage that the next tile goes to
            int first = firstKey + i * columns, next = first + columns;
            uint place = (uint)(i & 1) * stage;
            if (i + 1 < tiles)
            {
                SharedTile.Load<TUnit, TCopy>(keyTile + stage - place, valueTile + stage - place, columns, width, k, v, keyStart + (long)next * keyStride, keyStride,
                    tile.Keys - next, call.Width);
            }

            Intrinsics.CopyAsyncCommit();

            // Of the warp's queries, the first sees keys up to firstEnd, the last up to lastEnd, each a window of them.
            int firstEnd = tile.Offset + firstQuery + 1, lastEnd = firstEnd + rows - 1;
            if (firstQuery < tile.Queries && first < lastEnd && (call.Window == 0 || first + columns > firstEnd - call.Window))
            {
                var scores = AttentionTile.Multiply<TScores>(queryRow, SharedTile.Next(keyRow, place), width, rowBlocks);
                if (first + columns > firstEnd || (call.Window > 0 && first < lastEnd - call.Window))
                {
                    int end = tile.Offset + tile.Start + row + 1 - first - 2 * (Group.IdxX & 3);
                    scores = AttentionTile.Mask(scores, call.Window > 0 ? end - call.Window : int.MinValue, end, rowBlocks);
                }

                scores = AttentionTile.Exponentials(scores, logs, call.Scale2);
                var gradients = AttentionTile.Multiply<TScores>(outputRow, SharedTile.Next(valueRow, place), width, rowBlocks);
                gradients = AttentionTile.Differences(gradients, scores, deltas);
                output = AttentionTile.MultiplyAdd(output, gradients, SharedTile.Next(keyColumn, place), rowBlocks);
            }
        }

        output = AttentionTile.Scale(output, AttentionTile.Rows<TRows>(call.Scale));
        Warp.Barrier(); // all lanes are done with the queries
        AttentionTile.Store(output, SharedTile.Fragment(queryTile, firstRow, width), rowBlocks);
        Warp.Barrier(); // the warp's dq is there for all its lanes
        SharedTile.Store<TUnit, TCopy>(queryTile, firstRow, rows, width, dq, queryStart, queryStride, tile.Queries - tile.Start, call.Width);
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

    static void KeyKernel<TOutput, TScores, TRows, TUnit, TCopy, TParts>(ArrayView<TUnit> dy, ArrayView<TUnit> q, ArrayView<TUnit> k, ArrayView<TUnit> v, ArrayView<int> sequences,
        ArrayView<float> lse2, ArrayView<float> delta, ArrayView<TUnit> dk, ArrayView<TUnit> dv, AttentionCall call)
        where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit> where TParts : IGradients
    {
        int rowBlocks = WarpTile<TOutput, TScores, TRows>.RowBlocks, width = WarpTile<TOutput, TScores, TRows>.Width;
        int columns = WarpTile<TOutput, TScores, TRows>.Columns, rows = WarpTile<TOutput, TScores, TRows>.Rows;
        int head = Grid.IdxY, queryStride = call.QueryStride, keyStride = call.KeyStride; // the head is one of keys and values

        // The first tiles of a sequence are seen by the most queries.
        var tile = SequenceTile.Find(sequences, 2, Grid.IdxX, Warps * rows, call.Keys);
        if (tile.ClearRows > 0)
        {
            long from = (long)tile.ClearFrom * keyStride + head * call.Width;
            if (TParts.OfKeys)
            {
                SharedTile.Clear<TUnit, TCopy>(dk, from, keyStride, tile.ClearRows, call.Width);
            }

            if (TParts.OfValues)
            {
                SharedTile.Clear<TUnit, TCopy>(dv, from, keyStride, tile.ClearRows, call.Width);
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
        SharedTile.Load<TUnit, TCopy>(keyTile, valueTile, Warps * rows, width, k, v, keyStart, keyStride, tile.Keys - tile.Start, call.Width);

        var keyRow = SharedTile.Left(keyTile, firstRow, width);
        var valueRow = SharedTile.Left(valueTile, firstRow, width);
        var queryRow = SharedTile.Right(queryTile, width);
        var outputRow = SharedTile.Right(outputTile, width);
        var queryColumn = SharedTile.Left(queryTile, 0, width);
        var outputColumn = SharedTile.Left(outputTile, 0, width);
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
                SharedTile.Load<TUnit, TCopy>(queryTile + stage - place, outputTile + stage - place, columns, width, q, dy,
                    (long)(tile.Query + next) * queryStride + queryHead * call.Width, queryStride, tile.Queries - next, call.Width);
                LoadNumbers(numbers + (uint)(8 * columns * ((i + 1) & 1)), columns, lse2, delta, tile, next, queryHead, call.Heads);
            }

            Intrinsics.CopyAsyncCommit();

            // The warp's first key is seen by queries from firstSeen on, its last from lastSeen on, each by a window of them.
            int first = firstQuery + i % tiles * columns, firstSeen = firstKey - tile.Offset, lastSeen = firstSeen + rows - 1;
            if (i >= 0 && firstKey < tile.Keys && first + columns > firstSeen && (call.Window == 0 || first < lastSeen + call.Window))
            {
                uint logs = numbers + (uint)(8 * columns * (i & 1) + 8 * (Group.IdxX & 3));
                var scores = AttentionTile.Multiply<TScores>(keyRow, SharedTile.Next(queryRow, place), width, rowBlocks);
                if (first < lastSeen || (call.Window > 0 && first + columns > firstSeen + call.Window))
                {
                    int seen = firstSeen + (Group.IdxX >> 2 & 7) - first - 2 * (Group.IdxX & 3);
                    scores = AttentionTile.Mask(scores, seen, call.Window > 0 ? seen + call.Window : int.MaxValue, rowBlocks);
                }

                scores = AttentionTile.ColumnExponentials(scores, logs, call.Scale2, rowBlocks);
                if (TParts.OfValues)
                {
                    values = AttentionTile.MultiplyAdd(values, scores, SharedTile.Next(outputColumn, place), rowBlocks);
                }

                if (TParts.OfKeys)
                {
                    var gradients = AttentionTile.Multiply<TScores>(valueRow, SharedTile.Next(outputRow, place), width, rowBlocks);
                    gradients = AttentionTile.ColumnDifferences(gradients, scores, logs + (uint)(4 * columns), rowBlocks);
                    keys = AttentionTile.MultiplyAdd(keys, gradients, SharedTile.Next(queryColumn, place), rowBlocks);
                }
            }
        }

        Warp.Barrier(); // all lanes are done with the warp's keys and values
        if (TParts.OfKeys)
        {
            keys = AttentionTile.Scale(keys, AttentionTile.Rows<TRows>(call.Scale));
            AttentionTile.Store(keys, SharedTile.Fragment(keyTile, firstRow, width), rowBlocks);
            Warp.Barrier(); // the warp's dk is there for all its lanes
            SharedTile.Store<TUnit, TCopy>(keyTile, firstRow, rows, width, dk, keyStart, keyStride, tile.Keys - tile.Start, call.Width);
        }

        if (TParts.OfValues)
        {
            AttentionTile.Store(values, SharedTile.Fragment(valueTile, firstRow, width), rowBlocks);
            Warp.Barrier(); // the warp's dv is there for all its lanes
            SharedTile.Store<TUnit, TCopy>(valueTile, firstRow, rows, width, dv, keyStart, keyStride, tile.Keys - tile.Start, call.Width);
        }
    }
}
