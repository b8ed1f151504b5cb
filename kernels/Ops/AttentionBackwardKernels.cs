// The gradients of attention on devices. The maths is in Attention.cs.
//
// Maths      P = 2^(scale/ln 2 · q·k − lse/ln 2) again · D = Σ_c dy·y · dS = P·(dy·v − D) · dq = scale·Σ_keys dS·k · dk = scale·Σ_queries,heads dS·q · dv = Σ_queries,heads P·dy
// Shapes     dy, q, y, dq [N, H, C] T · k, v, dk, dv [M, G, C] T · sequences [S, 4] i32 · lse [N, H] f32; C up to 256
// Layout     as in AttentionKernels.cs; lse and D of a head lie one query after the other
// Launch     half a warp for each D; then groups of 256 that own 64 queries of a head and walk over the keys that these see, and groups of 256 that own 64 keys and walk over
//            the queries that see these, of all the heads that share them: every sum has one owner, so there are no atomics. 34 KB of shared memory
// Floor      10·C flops per visible (query, key, head); 14·C here, since both walks compute P and dS. Bound by arithmetic
// Numerics   within 1e-5 of the f64 oracle in f32 (ex2.approx); runs repeat bit for bit, packed or not
// Source     Dao 2023, arXiv:2307.08691 (FlashAttention-2), algorithm 2, with its loop for dq made a kernel of its own

using ILGPU;

namespace IlgpuPeft.Kernels;

static class AttentionBackwardKernels
{
    const int Threads = 256;

    /// <summary>What the backward pass needs of a query's head.</summary>
    internal struct Row
    {
        /// <summary>Logarithm of the softmax's denominator, as an exponent of two.</summary>
        public float Log;

        /// <summary>dy·y.</summary>
        public float Product;
    }

    /// <inheritdoc cref="Backend.AttentionBackward" />
    public static void Backward<T>(KernelDevice device, ScratchBuffers scratch, AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse,
        Slice dq, Slice dk, Slice dv)
        where T : unmanaged, IElement<T>
    {
        const string Operation = "AttentionBackward";
        var (queryRows, keyRows) = AttentionKernels.Check<T>(Operation, shape, q, k, v, sequences);
        Expect.Elements(Operation, T.Type, q.Length, (nameof(dy), dy), (nameof(y), y), (nameof(dq), dq));
        Expect.Elements(Operation, T.Type, k.Length, (nameof(dk), dk), (nameof(dv), dv));
        Expect.Elements(Operation, DType.F32, queryRows * shape.Heads, (nameof(lse), lse));

        bool aligned = true;
        foreach (Slice slice in (ReadOnlySpan<Slice>)[dy, q, k, v, y, dq, dk, dv])
        {
            aligned &= Quads.Fit(slice, shape.HeadWidth);
        }

        var sizes = new AttentionSizes(shape, aligned);
        var buffers = device.Buffers;
        var table = buffers.View<Attention.Sequence>(sequences);
        var rows = buffers.View<Row>(scratch.Get("attention rows", DType.F32, 2 * lse.Length));
        device.Launch(RowKernel, LaunchShape.Groups((16 * lse.Length + Threads - 1) / Threads, Threads), buffers.View<T>(dy), buffers.View<T>(y), buffers.View<float>(lse), rows, sizes);

        int tileRows = AttentionTile.Rows<Eight>();
        LaunchShape Tiles(long count, int heads) => new(new Index3D(AttentionSequences.MaxTiles(count, table.Length, tileRows), heads, 1), AttentionTile.Threads(tileRows),
            AttentionTile.SharedBytes(tileRows));
        device.Launch<ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<Attention.Sequence>, ArrayView<Row>, ArrayView<T>, AttentionSizes>(
            shape.HeadWidth switch { <= 64 => QueryKernel<T, One>, <= 128 => QueryKernel<T, Two>, _ => QueryKernel<T, Four> },
            Tiles(queryRows, shape.Heads), buffers.View<T>(dy), buffers.View<T>(q), buffers.View<T>(k), buffers.View<T>(v), table, rows, buffers.View<T>(dq), sizes);
        device.Launch<ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<Attention.Sequence>, ArrayView<Row>, ArrayView<T>, ArrayView<T>, AttentionSizes>(
            shape.HeadWidth switch { <= 64 => KeyKernel<T, One>, <= 128 => KeyKernel<T, Two>, _ => KeyKernel<T, Four> },
            Tiles(keyRows, shape.KeyValueHeads), buffers.View<T>(dy), buffers.View<T>(q), buffers.View<T>(k), buffers.View<T>(v), table, rows, buffers.View<T>(dk),
            buffers.View<T>(dv), sizes);

        AttentionSequences.ClearOthers<T>(device, dq, shape.Heads * shape.HeadWidth, table, false);
        AttentionSequences.ClearOthers<T>(device, dk, shape.KeyValueHeads * shape.HeadWidth, table, true);
        AttentionSequences.ClearOthers<T>(device, dv, shape.KeyValueHeads * shape.HeadWidth, table, true);
    }

    static void RowKernel<T>(ArrayView<T> dy, ArrayView<T> y, ArrayView<float> lse, ArrayView<Row> rows, AttentionSizes sizes) where T : unmanaged, IElement<T>
    {
        long row = Grid.LongGlobalIndex.X / 16; // a head of a query
        float sum = 0;
        for (int at = Group.IdxX % 16 * 4; at < sizes.Width && row < lse.Length; at += AttentionTile.Columns)
        {
            var a = AttentionTile.Read(dy, row * sizes.Width + at, sizes.Width - at, sizes);
            var b = AttentionTile.Read(y, row * sizes.Width + at, sizes.Width - at, sizes);
            sum += a.X * b.X + a.Y * b.Y + (a.Z * b.Z + a.W * b.W);
        }

        sum = AttentionTile.SumOfLanes(sum);
        if (row < lse.Length && Group.IdxX % 16 == 0)
        {
            rows[row % sizes.Heads * (lse.Length / sizes.Heads) + row / sizes.Heads] = new Row { Log = lse[row] * 1.4426950f, Product = sum };
        }
    }

    static void QueryKernel<T, TBlocks>(ArrayView<T> dy, ArrayView<T> q, ArrayView<T> k, ArrayView<T> v, ArrayView<Attention.Sequence> table, ArrayView<Row> rows, ArrayView<T> dq,
        AttentionSizes sizes)
        where T : unmanaged, IElement<T> where TBlocks : unmanaged, IConstant
    {
        // The last tiles of a sequence see the most keys: they go first.
        var tile = AttentionSequences.Find(table, Grid.DimX - 1 - Grid.IdxX, false, 1, AttentionTile.Rows<Eight>());
        if (tile.Sequence < 0)
        {
            return;
        }

        var sequence = table[tile.Sequence];
        int count = Math.Min(sequence.Queries - tile.Start, AttentionTile.Rows<Eight>()), row = Group.IdxX / 16 * 4, head = Grid.IdxY;
        bool busy = Group.IdxX / 32 * 8 < count;
        long first = (sequence.Query + tile.Start) * sizes.QueryStride + (long)head * sizes.Width;
        var starts = AttentionTile.Starts<Eight>(first, sizes.QueryStride, 0, count);
        var ofHead = rows.SubView(head * (rows.Length / sizes.Heads) + sequence.Query + tile.Start);
        Row r0 = ofHead[Math.Min(row, count - 1)], r1 = ofHead[Math.Min(row + 1, count - 1)], r2 = ofHead[Math.Min(row + 2, count - 1)], r3 = ofHead[Math.Min(row + 3, count - 1)];
        int last = sequence.Offset + tile.Start + row; // the last key that the first row sees

        Sums sums = default;
        int end = sequence.Offset + tile.Start + count;
        int begin = Math.Max(0, sequence.Offset + tile.Start + 1 - sizes.Window) / AttentionTile.Columns * AttentionTile.Columns;
        for (int start = begin; start < end; start += AttentionTile.Columns)
        {
            int keys = Math.Min(end - start, AttentionTile.Columns), key = start + Group.IdxX % 16;
            long at = (sequence.Key + start) * sizes.KeyStride + (long)(head / sizes.Group) * sizes.Width;
            var s = AttentionTile.Scores<T, Eight>(q, starts, k, at, sizes.KeyStride, keys, busy, sizes);
            var ds = AttentionTile.Scores<T, Eight>(dy, starts, v, at, sizes.KeyStride, keys, busy, sizes);
            ds.R0 = OfQuery(s.R0, ds.R0, last, key, r0, sizes);
            ds.R1 = OfQuery(s.R1, ds.R1, last + 1, key, r1, sizes);
            ds.R2 = OfQuery(s.R2, ds.R2, last + 2, key, r2, sizes);
            ds.R3 = OfQuery(s.R3, ds.R3, last + 3, key, r3, sizes);
            AttentionTile.Put<Eight>(ds);
            sums = AttentionTile.AddWeighted<T, Eight, TBlocks>(sums, k, at, sizes.KeyStride, keys, busy, sizes);
        }

        Write<T, TBlocks>(dq, first, sizes.QueryStride, count, sums, sizes.Scale, sizes);
    }

    static void KeyKernel<T, TBlocks>(ArrayView<T> dy, ArrayView<T> q, ArrayView<T> k, ArrayView<T> v, ArrayView<Attention.Sequence> table, ArrayView<Row> rows, ArrayView<T> dk,
        ArrayView<T> dv, AttentionSizes sizes)
        where T : unmanaged, IElement<T> where TBlocks : unmanaged, IConstant
    {
        var tile = AttentionSequences.Find(table, Grid.IdxX, true, 1, AttentionTile.Rows<Eight>()); // the first tiles are seen by the most queries
        if (tile.Sequence < 0)
        {
            return;
        }

        var sequence = table[tile.Sequence];
        int count = Math.Min(sequence.Keys - tile.Start, AttentionTile.Rows<Eight>()), key = tile.Start + Group.IdxX / 16 * 4;
        bool busy = Group.IdxX / 32 * 8 < count;
        long first = (sequence.Key + tile.Start) * sizes.KeyStride + (long)Grid.IdxY * sizes.Width;
        var starts = AttentionTile.Starts<Eight>(first, sizes.KeyStride, 0, count);

        // The queries that see any key of the tile.
        int begin = Math.Max(0, tile.Start - sequence.Offset) / AttentionTile.Columns * AttentionTile.Columns;
        int end = (int)Math.Min(sequence.Queries, (long)tile.Start + count - 1 - sequence.Offset + sizes.Window);
        Sums ofKeys = default, ofValues = default;
        for (int head = Grid.IdxY * sizes.Group; head < (Grid.IdxY + 1) * sizes.Group; head++)
        {
            var ofHead = rows.SubView(head * (rows.Length / sizes.Heads) + sequence.Query);
            for (int start = begin; start < end; start += AttentionTile.Columns)
            {
                int queries = Math.Min(end - start, AttentionTile.Columns), query = start + Group.IdxX % 16;
                long at = (sequence.Query + start) * sizes.QueryStride + (long)head * sizes.Width;
                Row r0 = ofHead[Math.Min(query, end - 1)], r1 = ofHead[Math.Min(query + 16, end - 1)], r2 = ofHead[Math.Min(query + 32, end - 1)], r3 = ofHead[Math.Min(query + 48, end - 1)];
                int last0 = Last(sequence, query, end), last1 = Last(sequence, query + 16, end), last2 = Last(sequence, query + 32, end), last3 = Last(sequence, query + 48, end);
                var p = AttentionTile.Scores<T, Eight>(k, starts, q, at, sizes.QueryStride, queries, busy, sizes);
                var ds = AttentionTile.Scores<T, Eight>(v, starts, dy, at, sizes.QueryStride, queries, busy, sizes);
                p.R0 = OfKey(p.R0, last0, last1, last2, last3, key, r0, r1, r2, r3, sizes);
                p.R1 = OfKey(p.R1, last0, last1, last2, last3, key + 1, r0, r1, r2, r3, sizes);
                p.R2 = OfKey(p.R2, last0, last1, last2, last3, key + 2, r0, r1, r2, r3, sizes);
                p.R3 = OfKey(p.R3, last0, last1, last2, last3, key + 3, r0, r1, r2, r3, sizes);
                ds.R0 = Gradient(p.R0, ds.R0, r0, r1, r2, r3);
                ds.R1 = Gradient(p.R1, ds.R1, r0, r1, r2, r3);
                ds.R2 = Gradient(p.R2, ds.R2, r0, r1, r2, r3);
                ds.R3 = Gradient(p.R3, ds.R3, r0, r1, r2, r3);
                AttentionTile.Put<Eight>(p);
                ofValues = AttentionTile.AddWeighted<T, Eight, TBlocks>(ofValues, dy, at, sizes.QueryStride, queries, busy, sizes);
                AttentionTile.Put<Eight>(ds);
                ofKeys = AttentionTile.AddWeighted<T, Eight, TBlocks>(ofKeys, q, at, sizes.QueryStride, queries, busy, sizes);
            }
        }

        Write<T, TBlocks>(dk, first, sizes.KeyStride, count, ofKeys, sizes.Scale, sizes);
        Write<T, TBlocks>(dv, first, sizes.KeyStride, count, ofValues, 1, sizes);
    }

    /// <summary>The last key that a query sees; before all keys for what lies past the end.</summary>
    static int Last(Attention.Sequence sequence, int query, int end) => query < end ? sequence.Offset + query : -1;

    static float Probability(float score, int last, int key, float log, AttentionSizes sizes) =>
        key <= last && last - key < sizes.Window ? Intrinsics.Exp2(score * sizes.ScaleOfTwo - log) : 0;

    /// <summary>dS of a query and the four keys of this thread.</summary>
    static Float4 OfQuery(Float4 s, Float4 dp, int last, int key, Row row, AttentionSizes sizes) => new()
    {
        X = Probability(s.X, last, key, row.Log, sizes) * (dp.X - row.Product),
        Y = Probability(s.Y, last, key + 16, row.Log, sizes) * (dp.Y - row.Product),
        Z = Probability(s.Z, last, key + 32, row.Log, sizes) * (dp.Z - row.Product),
        W = Probability(s.W, last, key + 48, row.Log, sizes) * (dp.W - row.Product),
    };

    /// <summary>Probabilities of a key for the four queries of this thread.</summary>
    static Float4 OfKey(Float4 s, int last0, int last1, int last2, int last3, int key, Row r0, Row r1, Row r2, Row r3, AttentionSizes sizes) => new()
    {
        X = Probability(s.X, last0, key, r0.Log, sizes),
        Y = Probability(s.Y, last1, key, r1.Log, sizes),
        Z = Probability(s.Z, last2, key, r2.Log, sizes),
        W = Probability(s.W, last3, key, r3.Log, sizes),
    };

    /// <summary>dS of a key and the four queries of this thread.</summary>
    static Float4 Gradient(Float4 p, Float4 dp, Row r0, Row r1, Row r2, Row r3) => new()
    {
        X = p.X * (dp.X - r0.Product),
        Y = p.Y * (dp.Y - r1.Product),
        Z = p.Z * (dp.Z - r2.Product),
        W = p.W * (dp.W - r3.Product),
    };

    static void Write<T, TBlocks>(ArrayView<T> target, long first, long stride, int count, Sums sums, float factor, AttentionSizes sizes)
        where T : unmanaged, IElement<T> where TBlocks : unmanaged, IConstant
    {
        int row = Group.IdxX / 16 * 4;
        RowStarts starts = default;
        starts.A = row < count ? first + row * stride : -1;
        starts.B = row + 1 < count ? first + (row + 1) * stride : -1;
        starts.C = row + 2 < count ? first + (row + 2) * stride : -1;
        starts.D = row + 3 < count ? first + (row + 3) * stride : -1;
        AttentionTile.Write<T, TBlocks>(target, starts, sums, new Float4 { X = factor, Y = factor, Z = factor, W = factor }, sizes);
    }
}
