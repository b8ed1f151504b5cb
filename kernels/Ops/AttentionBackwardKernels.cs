// The gradients of attention on devices, in 32-bit floats. The maths is in Attention.cs.
//
// Maths      P = 2^(f·q·k − lse·log₂e) again, f = scale·log₂e · D = Σ_c dy·y · dS = P·(dy·v − D) · dq = scale·Σ dS·k · dk = scale·Σ dS·q · dv = Σ P·dy
// Shapes     dy, q, y, dq [N, H, C] T · k, v, dk, dv [M, G, C] T · sequences [S, 4] i32 · lse [N, H] f32. C ≤ 256
// Layout     as in AttentionKernels.cs; lse and D of a head lie one query after the other
// Launch     D: half a warp each. dq: grid (tiles of 64 queries, at most; H), group 256, walks over the keys that the queries see. dk and dv: grid (tiles of 64 keys, at most; G),
//            group 256, walks over the queries that see the keys, of all heads that share them. 34 KB of shared memory for any C
// Floor      flops 10·C per visible (query, key, head), here 14·C, since both walks compute P and dS; bound by arithmetic
// Numerics   within 1e-5 of the f64 oracle in f32 (ex2.approx), rounded once to T; every sum has one owner: no atomics, runs repeat bit for bit
// Source     Dao 2023, arXiv:2307.08691 (FlashAttention-2), algorithm 2, with dq in a walk of its own

using ILGPU;

namespace IlgpuPeft.Kernels;

static class AttentionBackwardKernels
{
    /// <summary>What the backward pass needs of a head of a query.</summary>
    internal struct Row
    {
        /// <summary>lse, as an exponent of two.</summary>
        public float Log;

        /// <summary>D = dy·y.</summary>
        public float Product;
    }

    /// <inheritdoc cref="Backend.AttentionBackward" />
    public static void Backward<T>(KernelDevice device, ScratchBuffers scratch, bool tensorCores, AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y,
        Slice lse, Slice dq, Slice dk, Slice dv)
        where T : unmanaged, IElement<T>
    {
        const string Operation = "AttentionBackward";
        long queryRows = AttentionKernels.Check<T>(Operation, shape, q, k, v, sequences);
        Expect.Elements(Operation, T.Type, q.Length, (nameof(dy), dy), (nameof(y), y), (nameof(dq), dq));
        Expect.Elements(Operation, T.Type, k.Length, (nameof(dk), dk), (nameof(dv), dv));
        Expect.Elements(Operation, DType.F32, queryRows * shape.Heads, (nameof(lse), lse));
        if (tensorCores && TensorCoreAttention.Supports(shape))
        {
            TensorCoreAttention.Backward(device, scratch, shape, dy, q, k, v, sequences, y, lse, dq, dk, dv);
            return;
        }

        var call = new AttentionCall(shape, q, k);
        var heads = new HeadRows(shape.HeadWidth, dy, q, k, v, y, dq, dk, dv);
        var buffers = device.Buffers;
        ArrayView<T> dyView = buffers.View<T>(dy), qView = buffers.View<T>(q), kView = buffers.View<T>(k), vView = buffers.View<T>(v);
        var table = buffers.View<int>(sequences);
        var rows = buffers.View<Row>(scratch.Get("attention rows", DType.F32, 2 * lse.Length));
        int threads = AttentionProducts<Eight>.Threads;
        device.Launch(RowKernel, LaunchShape.Groups((16 * lse.Length + threads - 1) / threads, threads), dyView, buffers.View<T>(y), buffers.View<float>(lse), rows, call, heads);
        LaunchShape Tiles(int count, int perTile) => new(new Index3D(checked((int)SequenceTile.Bound(count, AttentionProducts<Eight>.Rows, sequences.Length / 4)), perTile, 1), threads,
            AttentionProducts<Eight>.SharedBytes);
        device.Launch<ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<int>, ArrayView<Row>, ArrayView<T>, AttentionCall, HeadRows>(
            shape.HeadWidth switch { <= 64 => QueryKernel<T, One>, <= 128 => QueryKernel<T, Two>, _ => QueryKernel<T, Four> },
            Tiles(call.Queries, shape.Heads), dyView, qView, kView, vView, table, rows, buffers.View<T>(dq), call, heads);
        device.Launch<ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<int>, ArrayView<Row>, ArrayView<T>, ArrayView<T>, AttentionCall, HeadRows>(
            shape.HeadWidth switch { <= 64 => KeyKernel<T, One>, <= 128 => KeyKernel<T, Two>, _ => KeyKernel<T, Four> },
            Tiles(call.Keys, shape.KeyValueHeads), dyView, qView, kView, vView, table, rows, buffers.View<T>(dk), buffers.View<T>(dv), call, heads);
    }

    static void RowKernel<T>(ArrayView<T> dy, ArrayView<T> y, ArrayView<float> lse, ArrayView<Row> rows, AttentionCall call, HeadRows heads) where T : unmanaged, IElement<T>
    {
        long row = Grid.LongGlobalIndex.X / 16; // a head of a query
        float sum = 0;
        for (int column = Group.IdxX % 16 * 4; column < heads.Width && row < lse.Length; column += 64)
        {
            var a = heads.Read(dy, row * heads.Width, column);
            var b = heads.Read(y, row * heads.Width, column);
            sum += a.X * b.X + a.Y * b.Y + (a.Z * b.Z + a.W * b.W);
        }

        sum = AttentionProducts<Eight>.SumOfLanes(sum);
        if (row < lse.Length && Group.IdxX % 16 == 0)
        {
            rows[row % call.Heads * call.Queries + row / call.Heads] = new Row { Log = lse[row] * Intrinsics.Log2E, Product = sum };
        }
    }

    static void QueryKernel<T, TBlocks>(ArrayView<T> dy, ArrayView<T> q, ArrayView<T> k, ArrayView<T> v, ArrayView<int> table, ArrayView<Row> rows, ArrayView<T> dq, AttentionCall call,
        HeadRows heads)
        where T : unmanaged, IElement<T> where TBlocks : unmanaged, IConstant
    {
        // The last tiles of a sequence see the most keys: they go first.
        var tile = SequenceTile.Find(table, 0, Grid.DimX - 1 - Grid.IdxX, AttentionProducts<Eight>.Rows, call.Queries);
        int head = Grid.IdxY, row = AttentionProducts<Eight>.Row;
        HeadRows.Fill(dq, (long)tile.ClearFrom * call.QueryStride + head * call.Width, call.QueryStride, tile.ClearRows, call.Width, 0);
        if (!tile.Exists)
        {
            return;
        }

        int count = Math.Min(tile.Queries - tile.Start, AttentionProducts<Eight>.Rows);
        long first = (long)(tile.Query + tile.Start) * call.QueryStride + head * call.Width;
        var starts = AttentionProducts<Eight>.Starts(first, call.QueryStride, count);
        var ofTile = rows.SubView((long)head * call.Queries + tile.Query + tile.Start);
        Row r0 = ofTile[Math.Min(row, count - 1)], r1 = ofTile[Math.Min(row + 1, count - 1)], r2 = ofTile[Math.Min(row + 2, count - 1)], r3 = ofTile[Math.Min(row + 3, count - 1)];
        int last = tile.Offset + tile.Start + row; // the last key that this thread's first row sees

        var shared = AttentionProducts<Eight>.Shared();
        Sums sums = default;
        int endKey = tile.Offset + tile.Start + count;
        for (int start = AttentionKernels.FirstKey(tile.Offset + tile.Start, call); start < endKey; start += AttentionProducts<Eight>.Columns)
        {
            int keys = Math.Min(endKey - start, AttentionProducts<Eight>.Columns), key = start + AttentionProducts<Eight>.Column;
            long at = (long)(tile.Key + start) * call.KeyStride + head / call.HeadsPerGroup * call.Width;
            var s = AttentionProducts<Eight>.Scores(shared, q, starts, k, at, call.KeyStride, keys, count, heads);
            var ds = AttentionProducts<Eight>.Scores(shared, dy, starts, v, at, call.KeyStride, keys, count, heads);
            ds.R0 = OfQuery(s.R0, ds.R0, last, key, r0, call);
            ds.R1 = OfQuery(s.R1, ds.R1, last + 1, key, r1, call);
            ds.R2 = OfQuery(s.R2, ds.R2, last + 2, key, r2, call);
            ds.R3 = OfQuery(s.R3, ds.R3, last + 3, key, r3, call);
            AttentionProducts<Eight>.Put(shared, ds);
            sums = AttentionProducts<Eight>.AddWeighted<T, TBlocks>(shared, sums, k, at, call.KeyStride, keys, count, heads);
        }

        Write<T, TBlocks>(dq, first, call.QueryStride, count, sums, call.Scale, heads);
    }

    static void KeyKernel<T, TBlocks>(ArrayView<T> dy, ArrayView<T> q, ArrayView<T> k, ArrayView<T> v, ArrayView<int> table, ArrayView<Row> rows, ArrayView<T> dk, ArrayView<T> dv,
        AttentionCall call, HeadRows heads)
        where T : unmanaged, IElement<T> where TBlocks : unmanaged, IConstant
    {
        var tile = SequenceTile.Find(table, 2, Grid.IdxX, AttentionProducts<Eight>.Rows, call.Keys); // the first tiles are seen by the most queries
        long clear = (long)tile.ClearFrom * call.KeyStride + Grid.IdxY * call.Width;
        HeadRows.Fill(dk, clear, call.KeyStride, tile.ClearRows, call.Width, 0);
        HeadRows.Fill(dv, clear, call.KeyStride, tile.ClearRows, call.Width, 0);
        if (!tile.Exists)
        {
            return;
        }

        int count = Math.Min(tile.Keys - tile.Start, AttentionProducts<Eight>.Rows), key = tile.Start + AttentionProducts<Eight>.Row;
        long first = (long)(tile.Key + tile.Start) * call.KeyStride + Grid.IdxY * call.Width;
        var starts = AttentionProducts<Eight>.Starts(first, call.KeyStride, count);

        // The queries that see any key of the tile.
        int firstQuery = Math.Max(0, tile.Start - tile.Offset) / AttentionProducts<Eight>.Columns * AttentionProducts<Eight>.Columns;
        int endQuery = call.Window == 0 ? tile.Queries : Math.Min(tile.Queries, tile.Start + count - 1 - tile.Offset + call.Window);
        var shared = AttentionProducts<Eight>.Shared();
        Sums keySums = default, valueSums = default;
        for (int head = Grid.IdxY * call.HeadsPerGroup; head < (Grid.IdxY + 1) * call.HeadsPerGroup; head++)
        {
            var ofHead = rows.SubView((long)head * call.Queries + tile.Query);
            for (int start = firstQuery; start < endQuery; start += AttentionProducts<Eight>.Columns)
            {
                int queries = Math.Min(endQuery - start, AttentionProducts<Eight>.Columns), query = start + AttentionProducts<Eight>.Column;
                long at = (long)(tile.Query + start) * call.QueryStride + head * call.Width;
                Row r0 = ofHead[Math.Min(query, endQuery - 1)], r1 = ofHead[Math.Min(query + 16, endQuery - 1)];
                Row r2 = ofHead[Math.Min(query + 32, endQuery - 1)], r3 = ofHead[Math.Min(query + 48, endQuery - 1)];
                int last0 = LastKey(tile, query, endQuery), last1 = LastKey(tile, query + 16, endQuery);
                int last2 = LastKey(tile, query + 32, endQuery), last3 = LastKey(tile, query + 48, endQuery);
                var p = AttentionProducts<Eight>.Scores(shared, k, starts, q, at, call.QueryStride, queries, count, heads);
                var ds = AttentionProducts<Eight>.Scores(shared, v, starts, dy, at, call.QueryStride, queries, count, heads);
                p.R0 = OfKey(p.R0, last0, last1, last2, last3, key, r0, r1, r2, r3, call);
                p.R1 = OfKey(p.R1, last0, last1, last2, last3, key + 1, r0, r1, r2, r3, call);
                p.R2 = OfKey(p.R2, last0, last1, last2, last3, key + 2, r0, r1, r2, r3, call);
                p.R3 = OfKey(p.R3, last0, last1, last2, last3, key + 3, r0, r1, r2, r3, call);
                ds.R0 = Gradient(p.R0, ds.R0, r0, r1, r2, r3);
                ds.R1 = Gradient(p.R1, ds.R1, r0, r1, r2, r3);
                ds.R2 = Gradient(p.R2, ds.R2, r0, r1, r2, r3);
                ds.R3 = Gradient(p.R3, ds.R3, r0, r1, r2, r3);
                AttentionProducts<Eight>.Put(shared, p);
                valueSums = AttentionProducts<Eight>.AddWeighted<T, TBlocks>(shared, valueSums, dy, at, call.QueryStride, queries, count, heads);
                AttentionProducts<Eight>.Put(shared, ds);
                keySums = AttentionProducts<Eight>.AddWeighted<T, TBlocks>(shared, keySums, q, at, call.QueryStride, queries, count, heads);
            }
        }

        Write<T, TBlocks>(dk, first, call.KeyStride, count, keySums, call.Scale, heads);
        Write<T, TBlocks>(dv, first, call.KeyStride, count, valueSums, 1, heads);
    }

    /// <summary>The last key that a query sees; before all keys for what lies past the end.</summary>
    static int LastKey(SequenceTile tile, int query, int endQuery) => query < endQuery ? tile.Offset + query : -1;

    static float Probability(float score, int last, int key, float log, AttentionCall call) =>
        AttentionKernels.Sees(last, key, call) ? Intrinsics.Exp2(score * call.Scale2 - log) : 0;

    /// <summary>dS of a query and the four keys of this thread.</summary>
    static Float4 OfQuery(Float4 s, Float4 dp, int last, int key, Row row, AttentionCall call) => new()
    {
        X = Probability(s.X, last, key, row.Log, call) * (dp.X - row.Product),
        Y = Probability(s.Y, last, key + 16, row.Log, call) * (dp.Y - row.Product),
        Z = Probability(s.Z, last, key + 32, row.Log, call) * (dp.Z - row.Product),
        W = Probability(s.W, last, key + 48, row.Log, call) * (dp.W - row.Product),
    };

    /// <summary>Probabilities of a key for the four queries of this thread.</summary>
    static Float4 OfKey(Float4 s, int last0, int last1, int last2, int last3, int key, Row r0, Row r1, Row r2, Row r3, AttentionCall call) => new()
    {
        X = Probability(s.X, last0, key, r0.Log, call),
        Y = Probability(s.Y, last1, key, r1.Log, call),
        Z = Probability(s.Z, last2, key, r2.Log, call),
        W = Probability(s.W, last3, key, r3.Log, call),
    };

    /// <summary>dS of a key and the four queries of this thread.</summary>
    static Float4 Gradient(Float4 p, Float4 dp, Row r0, Row r1, Row r2, Row r3) => new()
    {
        X = p.X * (dp.X - r0.Product),
        Y = p.Y * (dp.Y - r1.Product),
        Z = p.Z * (dp.Z - r2.Product),
        W = p.W * (dp.W - r3.Product),
    };

    static void Write<T, TBlocks>(ArrayView<T> target, long first, long stride, int count, Sums sums, float factor, HeadRows heads)
        where T : unmanaged, IElement<T> where TBlocks : unmanaged, IConstant
    {
        int row = AttentionProducts<Eight>.Row;
        RowStarts starts = default;
        starts.A = row < count ? first + row * stride : -1;
        starts.B = row + 1 < count ? first + (row + 1) * stride : -1;
        starts.C = row + 2 < count ? first + (row + 2) * stride : -1;
        starts.D = row + 3 < count ? first + (row + 3) * stride : -1;
        var factors = new Float4 { X = factor, Y = factor, Z = factor, W = factor };
        AttentionProducts<Eight>.Write<T, TBlocks>(target, starts, sums.Scaled<TBlocks>(factors), heads);
    }
}
