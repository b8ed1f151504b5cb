// Attention on tensor cores, forward. Sequences, masks and windows are those of Attention.cs.
//
// Maths      per tile of keys: S = Q·Kᵀ · m' = max(m, f·max S) · P = 2^(f·S − m') · o = o·2^(m − m') + P·V · l likewise; y = o / l, lse = ln 2·(m + log₂ l),
//            with f = scale·log₂e. Products of bfloat16, sums and softmax in f32; P is rounded to bfloat16 for P·V
// Shapes     q, y [N, H, C] bf16 · k, v [M, G, C] bf16 · sequences [S, 4] i32 · lse [N, H] f32 or left out. C ≤ 256, padded with zeros to 16, 32, 48, 64, 96, 128, 192 or 256
// Layout     row-major; moved in chunks of 16 bytes where C is a multiple of 8 and slices are aligned to 16 bytes, else value by value
// Launch     grid (tiles of queries, at most; H), group 128. A warp owns 32 queries, 16 for C > 128, and passes over tiles that none of them sees; keys come 64 at a time, 32 for C > 64.
//            A lane holds 136 (C = 64), 168 (C = 128) or 148 (C = 256) sums, scores and numbers of rows in registers, beside about 50 fragments and addresses
//            Shared: a tile of queries, two stages of keys and of values, lse: 48.5 KB for C = 64, 64.5 KB for C = 128, 96.3 KB for C = 256
// Floor      flops 4·C per visible (query, key, head) · bytes q and y once, k and v once for each tile of queries; bound by tensor cores
// Numerics   within 1e-2 of the f64 oracle, lse 1e-5; runs repeat bit for bit
// Source     Dao 2023, arXiv:2307.08691 (FlashAttention-2), algorithm 1

using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>Attention over bfloat16 on devices with <see cref="KernelDevice.HasTensorCores"/>.</summary>
static partial class TensorCoreAttention
{
    const int Warps = 4;

    /// <summary>Whether these kernels compute attention of that shape: heads of at most 256 columns, and a scale that keeps the order of scores.</summary>
    public static bool Supports(AttentionShape shape) => shape is { HeadWidth: > 0 and <= 256, Scale: > 0 };

    /// <inheritdoc cref="Backend.AttentionForward" />
    public static void Forward(KernelDevice device, AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
    {
        var run = new ForwardRun(device, new AttentionCall(shape, q, k), q, k, v, sequences, y, lse);
        switch (shape.HeadWidth)
        {
            case <= 16:
                run.Launch<Floats16, Floats64, Float4>();
                break;
            case <= 32:
                run.Launch<Floats32, Floats64, Float4>();
                break;
            case <= 48:
                run.Launch<Floats48, Floats64, Float4>();
                break;
            case <= 64:
                run.Launch<Floats64, Floats64, Float4>();
                break;
            case <= 96:
                run.Launch<Floats96, Floats32, Float4>();
                break;
            case <= 128:
                run.Launch<Floats128, Floats32, Float4>();
                break;
            case <= 192:
                run.Launch<Floats96, Floats16, Float2>();
                break;
            default:
                run.Launch<Floats128, Floats16, Float2>();
                break;
        }
    }

    readonly record struct ForwardRun(KernelDevice Device, AttentionCall Call, Slice Q, Slice K, Slice V, Slice Sequences, Slice Y, Slice Lse)
    {
        public void Launch<TOutput, TScores, TRows>() where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged
        {
            if (ChunkCopy.Serves(Call.Width, Q, K, V, Y))
            {
                Launch<TOutput, TScores, TRows, Word4, ChunkCopy>();
            }
            else
            {
                Launch<TOutput, TScores, TRows, ushort, ElementCopy>();
            }
        }

        void Launch<TOutput, TScores, TRows, TUnit, TCopy>()
            where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
        {
            int width = AttentionWarp<TOutput, TScores, TRows>.Width, columns = AttentionWarp<TOutput, TScores, TRows>.Columns, rows = Warps * AttentionWarp<TOutput, TScores, TRows>.Rows;
            long tiles = SequenceTile.Bound(Call.Queries, rows, Sequences.Length / 4);
            var shape = new LaunchShape(new Index3D(checked((int)tiles), Call.Heads, 1), 32 * Warps, 2 * width * (rows + 4 * columns) + 4 * rows);
            Device.Launch(ForwardKernel<TOutput, TScores, TRows, TUnit, TCopy>, shape, Device.Buffers.View<TUnit>(Q), Device.Buffers.View<TUnit>(K), Device.Buffers.View<TUnit>(V),
                Device.Buffers.View<int>(Sequences), Device.Buffers.View<TUnit>(Y), Device.Buffers.View<float>(Lse), Call);
        }
    }

    static void ForwardKernel<TOutput, TScores, TRows, TUnit, TCopy>(ArrayView<TUnit> q, ArrayView<TUnit> k, ArrayView<TUnit> v, ArrayView<int> sequences, ArrayView<TUnit> y,
        ArrayView<float> lse, AttentionCall call)
        where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
    {
        int rowBlocks = AttentionWarp<TOutput, TScores, TRows>.RowBlocks, width = AttentionWarp<TOutput, TScores, TRows>.Width;
        int columns = AttentionWarp<TOutput, TScores, TRows>.Columns, rows = AttentionWarp<TOutput, TScores, TRows>.Rows;
        int head = Grid.IdxY, queryStride = call.QueryStride, keyStride = call.KeyStride;

        // The last tiles of a sequence see the most keys and go first, so that none of them is left to run alone.
        var tile = SequenceTile.Find(sequences, 0, Grid.DimX - 1 - Grid.IdxX, Warps * rows, call.Queries);
        if (tile.ClearRows > 0)
        {
            SharedRows.Clear<TUnit, TCopy>(y, (long)tile.ClearFrom * queryStride + head * call.Width, queryStride, tile.ClearRows, call.Width);
            for (int i = Group.IdxX; lse.Length > 0 && i < tile.ClearRows; i += Group.DimX)
            {
                lse[(long)(tile.ClearFrom + i) * call.Heads + head] = 0;
            }
        }

        if (!tile.Exists)
        {
            return;
        }

        // Shared memory: queries (later the output), two stages of keys and of values, the lse of each query.
        uint stage = (uint)(2 * columns * width), queryTile = Intrinsics.SharedAddress(ref SharedMemory.GetDynamic<Word4>()[0]);
        uint keyTile = queryTile + (uint)(2 * Warps * rows * width), valueTile = keyTile + 2 * stage, lseTile = valueTile + 2 * stage;

        int firstRow = Group.IdxX / 32 * rows; // of the warp
        var walk = new KeyWalk(tile, call, head, Warps * rows, firstRow, rows, columns);
        SharedRows.Load<TUnit, TCopy>(queryTile, Warps * rows, width, q, walk.QueryStart, queryStride, tile.Queries - tile.Start, call.Width);

        var queryRow = SharedRows.Left(queryTile, firstRow, width);
        var keyRow = SharedRows.Right(keyTile, width);
        var valueRow = SharedRows.Left(valueTile, 0, width);
        TOutput output = default;
        var maxima = AttentionTile.Rows<TRows>(float.MinValue);
        TRows sums = default;

        // Step i computes what step i - 1 has loaded; step -1 only loads.
        for (int i = -1; i < walk.Tiles; i++)
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
            if (i >= 0 && walk.Sees(first))
            {
                var scores = AttentionTile.Multiply<TScores>(queryRow, SharedRows.Next(keyRow, place), width, rowBlocks);
                scores = walk.Masked(scores, first, rowBlocks);
                var before = maxima;
                maxima = AttentionTile.Maximum(before, scores, call.Scale2);
                scores = AttentionTile.Exponentials(scores, maxima, call.Scale2);
                var kept = AttentionTile.Ratios(before, maxima);
                sums = AttentionTile.AddUp(sums, kept, scores);
                output = AttentionTile.Scale(output, kept);
                output = AttentionTile.MultiplyAdd(output, scores, SharedRows.Next(valueRow, place), rowBlocks);
            }
        }

        // A warp's output goes through the shared memory of its queries, which no other warp reads, and leaves in whole rows.
        sums = AttentionTile.Total(sums);
        output = AttentionTile.Scale(output, AttentionTile.Reciprocals(sums));
        Warp.Barrier(); // all lanes are done with the queries
        AttentionTile.Store(output, SharedRows.Fragment(queryTile, firstRow, width), rowBlocks);
        if ((Group.IdxX & 3) == 0)
        {
            AttentionTile.StoreRows(AttentionTile.Logarithms(maxima, sums), lseTile + (uint)(4 * (firstRow + (Group.IdxX >> 2 & 7))));
        }

        Warp.Barrier(); // the warp's output is there for all its lanes
        SharedRows.Store<TUnit, TCopy>(queryTile, firstRow, rows, width, y, walk.QueryStart, queryStride, tile.Queries - tile.Start, call.Width);
        int row = firstRow + (Group.IdxX & 31);
        if (lse.Length > 0 && (Group.IdxX & 31) < rows && tile.Start + row < tile.Queries)
        {
            lse[(long)(tile.Query + tile.Start + row) * call.Heads + head] = Intrinsics.LoadSharedFloat(lseTile + (uint)(4 * row));
        }
    }
}
