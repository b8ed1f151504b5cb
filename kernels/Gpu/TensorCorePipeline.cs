using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The loop of a tensor-core product: a ring of <see cref="Stages"/> tiles of both operands in shared memory, one that is multiplied while the next ones are under way. A low-rank product
/// X·Y comes first, its sums times a factor; then A·B is added to the same sums.
/// </summary>
/// <typeparam name="TTile">What a warp computes.</typeparam>
/// <typeparam name="TA">How A and X are stored.</typeparam>
/// <typeparam name="TB">How B and Y are stored.</typeparam>
/// <typeparam name="TSource">What holds B.</typeparam>
/// <typeparam name="THeld">What it keeps in registers.</typeparam>
readonly struct TensorCorePipeline<TTile, TA, TB, TSource, THeld>
    where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder where TSource : struct, ITileSource<TSource, THeld> where THeld : unmanaged
{
    /// <summary>Tiles in the ring.</summary>
    public const int Stages = 3;

    readonly TileOperand a, x, y;
    readonly TSource b;
    readonly SharedMemoryBlock shared;
    readonly ArrayView<float> table;
    readonly int row, column, updates, end;

    /// <summary>The loop of one group.</summary>
    /// <param name="a">A.</param>
    /// <param name="b">B.</param>
    /// <param name="x">X.</param>
    /// <param name="y">Y.</param>
    /// <param name="shared"><see cref="SharedBytes"/>.</param>
    /// <param name="row">First row of the group's tile.</param>
    /// <param name="column">First column.</param>
    /// <param name="updates">Steps of the low-rank product.</param>
    /// <param name="end">Steps of both products, up to where this group goes.</param>
    public TensorCorePipeline(TileOperand a, TSource b, TileOperand x, TileOperand y, SharedMemoryBlock shared, int row, int column, int updates, int end)
    {
        this.a = a;
        this.b = b;
        this.x = x;
        this.y = y;
        this.shared = shared;
        table = TSource.Prepare();
        this.row = row;
        this.column = column;
        this.updates = updates;
        this.end = end;
    }

    /// <summary>Shared memory of a group.</summary>
    public static int SharedBytes => Stages * StageChunks * 16;

    static int StageChunks => SharedTile.Chunks(TTile.Rows) + SharedTile.Chunks(TTile.Columns);

    /// <summary>A warp's sums, from step <paramref name="first"/> on.</summary>
    public TTile Run(int first, float factor)
    {
        int aOffset = SharedTile.LaneOffset(TTile.Rows, Warp.WarpIdx >> 1, TA.ByDepth), bOffset = SharedTile.LaneOffset(TTile.Columns, Warp.WarpIdx & 1, TB.ByDepth);
        for (int ahead = 0; ahead < Stages - 1; ahead++)
        {
            Finish(first + ahead, ahead, Start(first + ahead, ahead));
        }

        TTile sums = default;
        int step = first, stage = 0;
        for (; step < Math.Min(updates, end); step++)
        {
            sums = Step(sums, step, stage, aOffset, bOffset);
            stage = stage == Stages - 1 ? 0 : stage + 1;
        }

        sums = TTile.Scale(sums, factor);
        for (; step < end; step++)
        {
            sums = Step(sums, step, stage, aOffset, bOffset);
            stage = stage == Stages - 1 ? 0 : stage + 1;
        }

        Intrinsics.CopyAsyncWait(0);
        Group.Barrier(); // the last tiles have been read: their memory serves the result
        return sums;
    }

    TTile Step(TTile sums, int step, int stage, int aOffset, int bOffset)
    {
        Intrinsics.CopyAsyncWait(Stages - 2);
        Group.Barrier(); // what all threads brought for this step is there, and all warps have read the stage that is filled next
        int free = stage == 0 ? Stages - 1 : stage - 1;
        var held = Start(step + Stages - 1, free);
        uint tile = shared.Address + (uint)(stage * StageChunks * 16);
        sums = TTile.MultiplyAdd(sums, tile, aOffset, tile + (uint)SharedTile.Chunks(TTile.Rows) * 16, bOffset, TA.ByDepth, TB.ByDepth);
        Finish(step + Stages - 1, free, held);
        return sums;
    }

    THeld Start(int step, int stage)
    {
        THeld held = default;
        int place = stage * StageChunks, right = place + SharedTile.Chunks(TTile.Rows);
        if (step < Math.Min(updates, end))
        {
            int depth = step * WarpTileIntrinsics.Depth;
            x.Start<TA>(shared, place, row, depth, 2 * TTile.Rows);
            y.Start<TB>(shared, right, column, depth, 2 * TTile.Columns);
        }
        else if (step < end)
        {
            int depth = (step - updates) * WarpTileIntrinsics.Depth;
            a.Start<TA>(shared, place, row, depth, 2 * TTile.Rows);
            held = b.Start<TB>(shared, right, column, depth, 2 * TTile.Columns);
        }

        Intrinsics.CopyAsyncCommit(); // also where nothing is left to copy: waiting counts groups
        return held;
    }

    void Finish(int step, int stage, THeld held)
    {
        if (step >= updates && step < end)
        {
            b.Finish(shared, stage * StageChunks + SharedTile.Chunks(TTile.Rows), held, table);
        }
    }
}
