// Attention on devices: causal grouped-query attention over packed sequences, with an online softmax. The maths is in Attention.cs.
//
// Maths      as in Attention.cs, with exponents of two: P = 2^(scale/ln 2 · q·k − m), all of it in f32
// Shapes     q, y [N, H, C] T · k, v [M, G, C] T · sequences [S, 4] i32 · lse [N, H] f32; C up to 256
// Layout     row-major; rows that are whole quads of elements move in quads, others element by element
// Launch     grid (tiles of rows, G, parts of the keys), groups of 128 or 256 threads. A row is a query of one of the H/G heads that share keys: a group owns 32 or 64 rows of
//            one sequence and walks over the keys that they see, 64 at a time. Operands pass through shared memory in chunks of 64 columns (AttentionTile), 26 or 34 KB for any C
// Floor      4·C flops per visible (query, key, head). Keys and values are read once for each tile of rows: C·H/G flops or more a byte; bound by arithmetic but for decoding
// Numerics   within 1e-5 of the f64 oracle in f32 (ex2.approx). A row's sums depend on its sequence and the number of parts alone: runs repeat bit for bit, packed or not
// Source     Dao 2023, arXiv:2307.08691 (FlashAttention-2), algorithm 1

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class AttentionKernels
{
    /// <inheritdoc cref="Backend.AttentionForward" />
    public static void Forward<T>(KernelDevice device, ScratchBuffers scratch, AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
        where T : unmanaged, IElement<T>
    {
        const string Operation = "AttentionForward";
        var (queryRows, _) = Check<T>(Operation, shape, q, k, v, sequences);
        Expect.Elements(Operation, T.Type, q.Length, (nameof(y), y));
        if (!lse.IsEmpty)
        {
            Expect.Elements(Operation, DType.F32, queryRows * shape.Heads, (nameof(lse), lse));
        }

        int parts = AttentionDecodeKernels.Parts(shape, q, k, sequences);
        if (parts > 1)
        {
            AttentionDecodeKernels.Forward<T>(device, scratch, shape, parts, q, k, v, sequences, y, lse);
            return;
        }

        Launch<T, T>(device, shape, 1, q, k, v, sequences, y, lse);
        var table = device.Buffers.View<Attention.Sequence>(sequences);
        AttentionSequences.ClearOthers<T>(device, y, shape.Heads * shape.HeadWidth, table, false);
        if (!lse.IsEmpty)
        {
            AttentionSequences.ClearOthers<F32>(device, lse, shape.Heads, table, false);
        }
    }

    /// <summary>Rows that a group owns: few where most sequences have few, as in decoding.</summary>
    public static int RowsOfTile(AttentionShape shape, Slice q, Slice sequences) => q.Length / shape.KeyValueHeads / shape.HeadWidth <= 32 * (sequences.Length / 4) ? 32 : 64;

    /// <summary>Attends to parts of the keys: each writes an output and the logarithm of its denominator, one after the other in y and lse.</summary>
    public static void Launch<T, TOutput>(KernelDevice device, AttentionShape shape, int parts, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
        where T : unmanaged, IElement<T> where TOutput : unmanaged, IElement<TOutput>
    {
        if (RowsOfTile(shape, q, sequences) == 32)
        {
            Launch<T, TOutput, Four>(device, shape, parts, q, k, v, sequences, y, lse);
        }
        else
        {
            Launch<T, TOutput, Eight>(device, shape, parts, q, k, v, sequences, y, lse);
        }
    }

    /// <summary>Checks what the host can know, and returns the rows of queries and of keys.</summary>
    public static (long QueryRows, long KeyRows) Check<T>(string operation, AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences) where T : unmanaged, IElement<T>
    {
        var rows = Attention.CheckShapes(operation, shape, q, k, v, sequences);
        Expect.Elements(operation, T.Type, q.Length, (nameof(q), q));
        Expect.Elements(operation, T.Type, k.Length, (nameof(k), k), (nameof(v), v));
        Expect.That(shape.HeadWidth <= 256, operation, $"heads are {shape.HeadWidth} wide, expected at most 256 on this device. Use the device cpu.");
        return rows;
    }

    static void Launch<T, TOutput, TWarps>(KernelDevice device, AttentionShape shape, int parts, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
        where T : unmanaged, IElement<T> where TOutput : unmanaged, IElement<TOutput> where TWarps : unmanaged, IConstant
    {
        int rows = AttentionTile.Rows<TWarps>(), tiles = AttentionSequences.MaxTiles(q.Length / shape.KeyValueHeads / shape.HeadWidth, sequences.Length / 4, rows);
        bool aligned = Quads.Fit(q, shape.HeadWidth) && Quads.Fit(k, shape.HeadWidth) && Quads.Fit(v, shape.HeadWidth) && Quads.Fit(y, shape.HeadWidth);
        var buffers = device.Buffers;
        device.Launch<ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<Attention.Sequence>, ArrayView<TOutput>, ArrayView<float>, AttentionSizes>(
            shape.HeadWidth switch
            {
                <= 64 => Kernel<T, TOutput, TWarps, One>,
                <= 128 => Kernel<T, TOutput, TWarps, Two>,
                _ => Kernel<T, TOutput, TWarps, Four>,
            },
            new LaunchShape(new Index3D(tiles, shape.KeyValueHeads, parts), AttentionTile.Threads(rows), AttentionTile.SharedBytes(rows)),
            buffers.View<T>(q), buffers.View<T>(k), buffers.View<T>(v), buffers.View<Attention.Sequence>(sequences), buffers.View<TOutput>(y), buffers.View<float>(lse),
            new AttentionSizes(shape, aligned));
    }

    static void Kernel<T, TOutput, TWarps, TBlocks>(ArrayView<T> q, ArrayView<T> k, ArrayView<T> v, ArrayView<Attention.Sequence> table, ArrayView<TOutput> y,
        ArrayView<float> lse, AttentionSizes sizes)
        where T : unmanaged, IElement<T> where TOutput : unmanaged, IElement<TOutput> where TWarps : unmanaged, IConstant where TBlocks : unmanaged, IConstant
    {
        // The last tiles of a sequence see the most keys: they go first.
        var tile = AttentionSequences.Find(table, Grid.DimX - 1 - Grid.IdxX, false, sizes.Group, AttentionTile.Rows<TWarps>());
        if (tile.Sequence < 0)
        {
            return;
        }

        var sequence = table[tile.Sequence];
        int rows = Math.Min(sequence.Queries * sizes.Group - tile.Start, AttentionTile.Rows<TWarps>());
        int row = tile.Start + Group.IdxX / 16 * 4; // the first of this thread's four
        bool busy = Group.IdxX / 32 * 8 < rows;

        // The keys that any row of the tile sees, and the share of them that is this part's.
        int begin = Math.Max(0, sequence.Offset + tile.Start / sizes.Group + 1 - sizes.Window) / AttentionTile.Columns * AttentionTile.Columns;
        int end = sequence.Offset + (tile.Start + rows - 1) / sizes.Group + 1;
        int share = ((end - begin + AttentionTile.Columns - 1) / AttentionTile.Columns + Grid.DimZ - 1) / Grid.DimZ * AttentionTile.Columns;
        begin += Grid.IdxZ * share;
        end = Math.Min(end, begin + share);

        RowStarts starts = default;
        int load = tile.Start + Group.IdxX / 16, step = 2 * TWarps.Value, last = tile.Start + rows - 1;
        starts.A = RowStart(sequence, Math.Min(load, last), sizes);
        starts.B = RowStart(sequence, Math.Min(load + step, last), sizes);
        starts.C = RowStart(sequence, Math.Min(load + 2 * step, last), sizes);
        starts.D = RowStart(sequence, Math.Min(load + 3 * step, last), sizes);
        int last0 = sequence.Offset + row / sizes.Group, last1 = sequence.Offset + (row + 1) / sizes.Group; // the last keys that rows see
        int last2 = sequence.Offset + (row + 2) / sizes.Group, last3 = sequence.Offset + (row + 3) / sizes.Group;

        Sums sums = default;
        float m0 = float.NegativeInfinity, m1 = m0, m2 = m0, m3 = m0; // running maxima, in exponents of two
        float l0 = 0, l1 = 0, l2 = 0, l3 = 0; // sums over the columns of this thread
        for (int start = begin; start < end; start += AttentionTile.Columns)
        {
            int count = Math.Min(end - start, AttentionTile.Columns), key = start + Group.IdxX % 16;
            long at = (sequence.Key + start) * sizes.KeyStride + (long)Grid.IdxY * sizes.Width;
            var s = AttentionTile.Scores<T, TWarps>(q, starts, k, at, sizes.KeyStride, count, busy, sizes);
            s.R0 = Visible(s.R0, key, last0, sizes);
            s.R1 = Visible(s.R1, key, last1, sizes);
            s.R2 = Visible(s.R2, key, last2, sizes);
            s.R3 = Visible(s.R3, key, last3, sizes);
            float n0 = Maximum(m0, s.R0), n1 = Maximum(m1, s.R1), n2 = Maximum(m2, s.R2), n3 = Maximum(m3, s.R3);
            s.R0 = Exponentials(s.R0, n0);
            s.R1 = Exponentials(s.R1, n1);
            s.R2 = Exponentials(s.R2, n2);
            s.R3 = Exponentials(s.R3, n3);

            // What is there was relative to the maxima so far.
            Float4 kept = default;
            kept.X = Exponential(m0, n0);
            kept.Y = Exponential(m1, n1);
            kept.Z = Exponential(m2, n2);
            kept.W = Exponential(m3, n3);
            (m0, m1, m2, m3) = (n0, n1, n2, n3);
            l0 = l0 * kept.X + Sum(s.R0);
            l1 = l1 * kept.Y + Sum(s.R1);
            l2 = l2 * kept.Z + Sum(s.R2);
            l3 = l3 * kept.W + Sum(s.R3);

            AttentionTile.Put<TWarps>(s);
            sums = AttentionTile.Scaled<TBlocks>(sums, kept);
            sums = AttentionTile.AddWeighted<T, TWarps, TBlocks>(sums, v, at, sizes.KeyStride, count, busy, sizes);
        }

        RowStarts outputs = default; // of this thread's rows, in the part's output
        outputs.A = row <= last ? Grid.IdxZ * q.Length + RowStart(sequence, row, sizes) : -1;
        outputs.B = row + 1 <= last ? Grid.IdxZ * q.Length + RowStart(sequence, row + 1, sizes) : -1;
        outputs.C = row + 2 <= last ? Grid.IdxZ * q.Length + RowStart(sequence, row + 2, sizes) : -1;
        outputs.D = row + 3 <= last ? Grid.IdxZ * q.Length + RowStart(sequence, row + 3, sizes) : -1;
        Float4 inverse = default;
        inverse.X = Finish(m0, l0, outputs.A, lse, sizes);
        inverse.Y = Finish(m1, l1, outputs.B, lse, sizes);
        inverse.Z = Finish(m2, l2, outputs.C, lse, sizes);
        inverse.W = Finish(m3, l3, outputs.D, lse, sizes);
        if (begin < end) // else a part without keys: its lse says that it weighs nothing
        {
            AttentionTile.Write<TOutput, TBlocks>(y, outputs, sums, inverse, sizes);
        }
    }

    /// <summary>Where a row's head begins in q: rows of a sequence are its queries, each with the heads that share keys.</summary>
    static long RowStart(Attention.Sequence sequence, int row, AttentionSizes sizes) =>
        (sequence.Query + row / sizes.Group) * sizes.QueryStride + ((long)Grid.IdxY * sizes.Group + row % sizes.Group) * sizes.Width;

    /// <summary>Scores as exponents of two; of keys that the row does not see, −∞.</summary>
    static Float4 Visible(Float4 scores, int key, int last, AttentionSizes sizes) => new()
    {
        X = Visible(scores.X, key, last, sizes),
        Y = Visible(scores.Y, key + 16, last, sizes),
        Z = Visible(scores.Z, key + 32, last, sizes),
        W = Visible(scores.W, key + 48, last, sizes),
    };

    static float Visible(float score, int key, int last, AttentionSizes sizes) => key <= last && last - key < sizes.Window ? score * sizes.ScaleOfTwo : float.NegativeInfinity;

    /// <summary>The largest of the maximum so far and of a row's scores, which lie with 16 lanes.</summary>
    static float Maximum(float sofar, Float4 scores)
    {
        float maximum = XMath.Max(XMath.Max(scores.X, scores.Y), XMath.Max(scores.Z, scores.W));
        for (int distance = 8; distance > 0; distance >>= 1)
        {
            maximum = XMath.Max(maximum, Warp.ShuffleXor(maximum, distance));
        }

        return XMath.Max(sofar, maximum);
    }

    static Float4 Exponentials(Float4 scores, float maximum) => new()
    {
        X = Exponential(scores.X, maximum),
        Y = Exponential(scores.Y, maximum),
        Z = Exponential(scores.Z, maximum),
        W = Exponential(scores.W, maximum),
    };

    /// <summary>2^(exponent − maximum); 0 while the row has seen no key.</summary>
    static float Exponential(float exponent, float maximum) => Intrinsics.Exp2(exponent - (maximum == float.NegativeInfinity ? 0 : maximum));

    static float Sum(Float4 x) => x.X + x.Y + (x.Z + x.W);

    /// <summary>Writes a row's lse and returns what its sums are to be multiplied by.</summary>
    static float Finish(float maximum, float total, long output, ArrayView<float> lse, AttentionSizes sizes)
    {
        total = AttentionTile.SumOfLanes(total);
        if (output >= 0 && Group.IdxX % 16 == 0 && lse.Length > 0)
        {
            lse[output / sizes.Width] = maximum * 0.69314718f + XMath.Log(total);
        }

        return 1 / total;
    }
}
