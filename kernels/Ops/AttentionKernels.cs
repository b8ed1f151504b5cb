// Attention on devices: causal grouped-query attention over packed sequences, with an online softmax, in 32-bit floats. The maths is in Attention.cs.
//
// Maths      as in Attention.cs, with exponents of two: P = 2^(f·q·k − m), y = Σ P·v / Σ P, lse = ln 2·m + ln Σ P, with f = scale·log₂e
// Shapes     q, y [N, H, C] T · k, v [M, G, C] T · sequences [S, 4] i32 · lse [N, H] f32 or left out. C ≤ 256
// Layout     row-major; moved in quads of elements where C is a multiple of 4 and slices are aligned to quads, else element by element
// Launch     grid (tiles of rows, at most; G; parts of the keys), groups of 128 or 256. A row is a query of one of the H/G heads that share keys. A group owns 32 or 64 rows of a
//            sequence and walks over the keys that they see, 64 at a time, through shared memory in chunks of 64 columns: 26 or 34 KB for any C. What a thread owns: AttentionProducts
// Floor      flops 4·C per visible (query, key, head) · bytes q and y once, k and v once for each tile of rows; bound by arithmetic but for decoding
// Numerics   within 1e-5 of the f64 oracle in f32 (ex2.approx), rounded once to T. A row's sums depend on its sequence and on the number of parts alone: runs repeat bit for bit
// Source     Dao 2023, arXiv:2307.08691 (FlashAttention-2), algorithm 1

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class AttentionKernels
{
    /// <inheritdoc cref="Backend.AttentionForward" />
    public static void Forward<T>(KernelDevice device, ScratchBuffers scratch, bool tensorCores, AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
        where T : unmanaged, IElement<T>
    {
        const string Operation = "AttentionForward";
        long queryRows = Check<T>(Operation, shape, q, k, v, sequences);
        Expect.Elements(Operation, T.Type, q.Length, (nameof(y), y));
        Expect.Optional(Operation, nameof(lse), lse, DType.F32, queryRows * shape.Heads);
        int parts = AttentionDecodeKernels.Parts(shape, q, k, sequences);
        if (tensorCores && TensorCoreAttention.Supports(shape) && !HasFewRows(shape, q, sequences))
        {
            TensorCoreAttention.Forward(device, shape, q, k, v, sequences, y, lse);
        }
        else if (parts == 1)
        {
            Launch<T, T>(device, shape, 1, q, k, v, sequences, y, lse);
        }
        else
        {
            AttentionDecodeKernels.Forward<T>(device, scratch, shape, parts, q, k, v, sequences, y, lse);
        }
    }

    /// <summary>Whether a sequence has so few queries, as in decoding, that those of all heads that share keys make up half a tile at most.</summary>
    public static bool HasFewRows(AttentionShape shape, Slice q, Slice sequences) =>
        q.Length / shape.KeyValueHeads / shape.HeadWidth <= AttentionProducts<Four>.Rows * (sequences.Length / 4);

    /// <summary>Attends to parts of the keys. Each leaves a whole y and lse; they follow one after the other.</summary>
    public static void Launch<T, TOutput>(KernelDevice device, AttentionShape shape, int parts, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
        where T : unmanaged, IElement<T> where TOutput : unmanaged, IElement<TOutput>
    {
        if (HasFewRows(shape, q, sequences))
        {
            Launch<T, TOutput, Four>(device, shape, parts, q, k, v, sequences, y, lse);
        }
        else
        {
            Launch<T, TOutput, Eight>(device, shape, parts, q, k, v, sequences, y, lse);
        }
    }

    /// <summary>Checks what the host can know of the arguments, and returns the number of query rows.</summary>
    public static long Check<T>(string operation, AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences) where T : unmanaged, IElement<T>
    {
        Expect.Elements(operation, T.Type, q.Length, (nameof(q), q));
        Expect.Elements(operation, T.Type, k.Length, (nameof(k), k), (nameof(v), v));
        Expect.That(shape.HeadWidth <= 256, operation, $"heads are {shape.HeadWidth} wide, expected at most 256 on this device. Use the device cpu.");
        return Attention.CheckShapes(operation, shape, q, k, v, sequences).QueryRows;
    }

    static void Launch<T, TOutput, TWarps>(KernelDevice device, AttentionShape shape, int parts, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
        where T : unmanaged, IElement<T> where TOutput : unmanaged, IElement<TOutput> where TWarps : unmanaged, IConstant
    {
        var call = new AttentionCall(shape, q, k);
        long tiles = SequenceTile.Bound((long)call.Queries * call.HeadsPerGroup, AttentionProducts<TWarps>.Rows, sequences.Length / 4);
        var launch = new LaunchShape(new Index3D(checked((int)tiles), shape.KeyValueHeads, parts), AttentionProducts<TWarps>.Threads, AttentionProducts<TWarps>.SharedBytes);
        var buffers = device.Buffers;
        device.Launch<ArrayView<T>, ArrayView<T>, ArrayView<T>, ArrayView<int>, ArrayView<TOutput>, ArrayView<F32>, AttentionCall, HeadRows>(
            shape.HeadWidth switch { <= 64 => Kernel<T, TOutput, TWarps, One>, <= 128 => Kernel<T, TOutput, TWarps, Two>, _ => Kernel<T, TOutput, TWarps, Four> },
            launch, buffers.View<T>(q), buffers.View<T>(k), buffers.View<T>(v), buffers.View<int>(sequences), buffers.View<TOutput>(y), buffers.View<F32>(lse), call,
            new HeadRows(shape.HeadWidth, q, k, v, y));
    }

    static void Kernel<T, TOutput, TWarps, TBlocks>(ArrayView<T> q, ArrayView<T> k, ArrayView<T> v, ArrayView<int> table, ArrayView<TOutput> y, ArrayView<F32> lse, AttentionCall call,
        HeadRows heads)
        where T : unmanaged, IElement<T> where TOutput : unmanaged, IElement<TOutput> where TWarps : unmanaged, IConstant where TBlocks : unmanaged, IConstant
    {
        // The last tiles of a sequence see the most keys: they go first.
        var tile = SequenceTile.Find(table, 0, Grid.DimX - 1 - Grid.IdxX, AttentionProducts<TWarps>.Rows, call.Queries, call.HeadsPerGroup);
        long part = (long)Grid.IdxZ * call.Queries * call.QueryStride; // where its output begins
        if (tile.ClearRows > 0)
        {
            // Without a key no row has a sum: in parts this says that there is nothing to join.
            long row = (long)tile.ClearFrom * call.Heads + Grid.IdxY * call.HeadsPerGroup;
            HeadRows.Fill(y, part + row * call.Width, call.QueryStride, tile.ClearRows, call.HeadsPerGroup * call.Width, 0);
            HeadRows.Fill(lse, part / call.Width + row, call.Heads, lse.Length > 0 ? tile.ClearRows : 0, call.HeadsPerGroup, Grid.DimZ > 1 ? float.NegativeInfinity : 0);
        }

        if (!tile.Exists)
        {
            return;
        }

        int rows = Math.Min(tile.Queries * call.HeadsPerGroup - tile.Start, AttentionProducts<TWarps>.Rows), end = tile.Start + rows;
        int row0 = tile.Start + AttentionProducts<TWarps>.Row, row1 = row0 + 1, row2 = row0 + 2, row3 = row0 + 3;

        // The keys that any row of the tile sees, and this part's share of them.
        int firstKey = FirstKey(tile.Offset + tile.Start / call.HeadsPerGroup, call), lastKey = tile.Offset + (end - 1) / call.HeadsPerGroup;
        int share = (lastKey - firstKey + AttentionProducts<TWarps>.Columns) / AttentionProducts<TWarps>.Columns; // tiles of keys
        share = (share + Grid.DimZ - 1) / Grid.DimZ * AttentionProducts<TWarps>.Columns;
        firstKey += Grid.IdxZ * share;
        int endKey = Math.Min(lastKey + 1, firstKey + share);

        RowStarts starts = default;
        starts.A = RowStart(tile, Math.Min(row0, end - 1), call);
        starts.B = RowStart(tile, Math.Min(row1, end - 1), call);
        starts.C = RowStart(tile, Math.Min(row2, end - 1), call);
        starts.D = RowStart(tile, Math.Min(row3, end - 1), call);
        int last0 = tile.Offset + row0 / call.HeadsPerGroup, last1 = tile.Offset + row1 / call.HeadsPerGroup; // the last keys that rows see
        int last2 = tile.Offset + row2 / call.HeadsPerGroup, last3 = tile.Offset + row3 / call.HeadsPerGroup;

        var shared = AttentionProducts<TWarps>.Shared();
        Sums sums = default;
        float m0 = float.NegativeInfinity, m1 = m0, m2 = m0, m3 = m0; // maxima so far, as exponents of two
        float l0 = 0, l1 = 0, l2 = 0, l3 = 0; // sums of this thread's columns
        for (int start = firstKey; start < endKey; start += AttentionProducts<TWarps>.Columns)
        {
            int count = Math.Min(endKey - start, AttentionProducts<TWarps>.Columns), key = start + AttentionProducts<TWarps>.Column;
            long at = (long)(tile.Key + start) * call.KeyStride + Grid.IdxY * call.Width;
            var s = AttentionProducts<TWarps>.Scores(shared, q, starts, k, at, call.KeyStride, count, rows, heads);
            s.R0 = Visible(s.R0, key, last0, call);
            s.R1 = Visible(s.R1, key, last1, call);
            s.R2 = Visible(s.R2, key, last2, call);
            s.R3 = Visible(s.R3, key, last3, call);
            float n0 = Maximum(m0, s.R0), n1 = Maximum(m1, s.R1), n2 = Maximum(m2, s.R2), n3 = Maximum(m3, s.R3);
            s.R0 = Exponentials(s.R0, n0);
            s.R1 = Exponentials(s.R1, n1);
            s.R2 = Exponentials(s.R2, n2);
            s.R3 = Exponentials(s.R3, n3);
            Float4 kept = default; // what is there was relative to the maxima before
            (kept.X, kept.Y, kept.Z, kept.W) = (Exponential(m0, n0), Exponential(m1, n1), Exponential(m2, n2), Exponential(m3, n3));
            (m0, m1, m2, m3) = (n0, n1, n2, n3);
            (l0, l1, l2, l3) = (l0 * kept.X + Sum(s.R0), l1 * kept.Y + Sum(s.R1), l2 * kept.Z + Sum(s.R2), l3 * kept.W + Sum(s.R3));
            AttentionProducts<TWarps>.Put(shared, s);
            sums = sums.Scaled<TBlocks>(kept);
            sums = AttentionProducts<TWarps>.AddWeighted<T, TBlocks>(shared, sums, v, at, call.KeyStride, count, rows, heads);
        }

        RowStarts outputs = default;
        outputs.A = row0 < end ? part + starts.A : -1;
        outputs.B = row1 < end ? part + starts.B : -1;
        outputs.C = row2 < end ? part + starts.C : -1;
        outputs.D = row3 < end ? part + starts.D : -1;
        Float4 inverses = default;
        inverses.X = Finish<TWarps>(m0, l0, outputs.A, lse, call);
        inverses.Y = Finish<TWarps>(m1, l1, outputs.B, lse, call);
        inverses.Z = Finish<TWarps>(m2, l2, outputs.C, lse, call);
        inverses.W = Finish<TWarps>(m3, l3, outputs.D, lse, call);
        if (firstKey < endKey) // else a part without keys: its lse says that there is nothing to join
        {
            AttentionProducts<TWarps>.Write<TOutput, TBlocks>(y, outputs, sums.Scaled<TBlocks>(inverses), heads);
        }
    }

    /// <summary>Where a row begins in q and y: rows are a sequence's queries, each with the heads that share keys.</summary>
    static long RowStart(SequenceTile tile, int row, AttentionCall call) =>
        (long)(tile.Query + row / call.HeadsPerGroup) * call.QueryStride + (Grid.IdxY * call.HeadsPerGroup + row % call.HeadsPerGroup) * call.Width;

    /// <summary>The first key, in whole tiles, that a query sees whose last is <paramref name="last"/>.</summary>
    public static int FirstKey(int last, AttentionCall call) => call.Window == 0 ? 0 : Math.Max(0, last + 1 - call.Window) / AttentionProducts<One>.Columns * AttentionProducts<One>.Columns;

    /// <summary>Whether a query whose last key is <paramref name="last"/> sees <paramref name="key"/>.</summary>
    public static bool Sees(int last, int key, AttentionCall call) => key <= last && (call.Window == 0 || last - key < call.Window);

    /// <summary>Scores as exponents of two; of keys that the row does not see, −∞.</summary>
    static Float4 Visible(Float4 scores, int key, int last, AttentionCall call) => new()
    {
        X = Sees(last, key, call) ? scores.X * call.Scale2 : float.NegativeInfinity,
        Y = Sees(last, key + 16, call) ? scores.Y * call.Scale2 : float.NegativeInfinity,
        Z = Sees(last, key + 32, call) ? scores.Z * call.Scale2 : float.NegativeInfinity,
        W = Sees(last, key + 48, call) ? scores.W * call.Scale2 : float.NegativeInfinity,
    };

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
    static float Finish<TWarps>(float maximum, float total, long output, ArrayView<F32> lse, AttentionCall call) where TWarps : unmanaged, IConstant
    {
        total = AttentionProducts<TWarps>.SumOfLanes(total);
        if (output >= 0 && Group.IdxX % 16 == 0 && lse.Length > 0)
        {
            lse[output / call.Width] = F32.Narrow(maximum / Intrinsics.Log2E + XMath.Log(total));
        }

        return 1 / total;
    }
}
