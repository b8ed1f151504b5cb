// TensorCoreMatMul: dense matrix products in bfloat16, and a low-rank update within them.
//
// Maths      C (+)= alpha·(op(A)·op(B) + s·op(X)·op(Y)) + bias; products exact, sums in f32, terms in order, the low-rank ones first
// Shapes     op(A) [M, K] · op(B) [K, N] BF16 · op(X) [M, R] · op(Y) [R, N] BF16 · bias [N] F32 → C [M, N] F32 or BF16; any extents
// Layout     row-major. x·Wᵀ, dy·W and dyᵀ·x read their operands as they are: ldmatrix transposes those that are stored [depth, extent].
//            Rows that begin at multiples of 16 bytes are copied asynchronously, others value by value
// Launch     a group of 4 warps, 2 x 2, for 128 x 128 or 64 x 64 outputs; a ring of 3 stages of 64 terms of both operands in shared memory: 96 or 48 KB.
//            Groups go down 8 tiles before they go right, so that those that run at a time share operands in the second-level cache
// Floor      2·M·N·K flops, bound by tensor cores: a warp's 64 x 64 tile costs 128 multiplies, 32 ldmatrix and 16 copies for 64 terms
// Numerics   within 1e-5 of the f64 product of the same bfloat16 operands before C is rounded; runs repeat bit for bit
// Source     CUTLASS' description of its hierarchical GEMM for sm_80; fragment layouts from the PTX manual

using ILGPU;

namespace IlgpuPeft.Kernels;

static class TensorCoreMatMul
{
    /// <summary>Tiles in the ring: one that is multiplied and two under way.</summary>
    public const int Stages = 3;

    /// <summary>Rows of tiles that neighbouring groups share columns of.</summary>
    const int RasterRows = 8;

    /// <summary>Computes a dense product of BF16 operands.</summary>
    /// <param name="device">One that has tensor cores.</param>
    /// <param name="call">What; A and B are not both transposed.</param>
    /// <param name="extension">A low-rank product that is added to the sums: X, Y and R in place of A, B and K, and <see cref="MatMulCall.Alpha"/> as s. Its other fields are ignored.</param>
    /// <exception cref="ArgumentException">A slice does not have the size that the extents give it, or a type that is not taken.</exception>
    /// <exception cref="NotSupportedException">The device has no tensor cores.</exception>
    public static void Multiply(KernelDevice device, MatMulCall call, MatMulCall? extension = null)
    {
        long largeTiles = Tiles(call, 128, 128);
        if (call.M > 64 && call.N > 64 && largeTiles >= device.Accelerator.NumMultiprocessors && SharedBytes<WarpTile64x64>() <= device.MaxSharedBytes)
        {
            Multiply<WarpTile64x64>(device, call, extension);
        }
        else
        {
            Multiply<WarpTile32x32>(device, call, extension);
        }
    }

    /// <summary>Computes a product in groups of 2 x 2 warp tiles.</summary>
    /// <inheritdoc cref="Multiply(KernelDevice, MatMulCall, MatMulCall?)" />
    internal static void Multiply<TTile>(KernelDevice device, MatMulCall call, MatMulCall? extension) where TTile : unmanaged, IWarpTile<TTile>
    {
        Check(device, call, extension);
        if (call.M == 0 || call.N == 0)
        {
            return;
        }

        switch (call.TransposeA, call.TransposeB)
        {
            case (false, true):
                Run<TTile, ByExtent, ByExtent>(device, call, extension);
                break;
            case (false, false):
                Run<TTile, ByExtent, ByDepth>(device, call, extension);
                break;
            default:
                Run<TTile, ByDepth, ByDepth>(device, call, extension);
                break;
        }
    }

    static void Run<TTile, TA, TB>(KernelDevice device, MatMulCall call, MatMulCall? extension)
        where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder
    {
        if (call.C.Type == DType.BF16)
        {
            Run<TTile, TA, TB, BF16>(device, call, extension);
        }
        else
        {
            Run<TTile, TA, TB, F32>(device, call, extension);
        }
    }

    static void Run<TTile, TA, TB, TC>(KernelDevice device, MatMulCall call, MatMulCall? extension)
        where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder where TC : unmanaged, IElement<TC>
    {
        var update = extension ?? default;
        int groups = checked((int)Tiles(call, 2 * TTile.Rows, 2 * TTile.Columns));
        device.Launch<TileOperand, TileOperand, TileOperand, TileOperand, TileResult<TC>, int, int, float>(Kernel<TTile, TA, TB, TC>,
            LaunchShape.Groups(groups, SharedTile.Threads, SharedBytes<TTile>()),
            TileOperand.Of(device, call.A, call.M, call.K, TA.ByDepth), TileOperand.Of(device, call.B, call.N, call.K, TB.ByDepth),
            TileOperand.Of(device, update.A, call.M, update.K, TA.ByDepth), TileOperand.Of(device, update.B, call.N, update.K, TB.ByDepth),
            TileResult<TC>.Of(device, call), call.K, update.K, update.Alpha);
    }

    static void Kernel<TTile, TA, TB, TC>(TileOperand a, TileOperand b, TileOperand x, TileOperand y, TileResult<TC> result, int terms, int rank, float factor)
        where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder where TC : unmanaged, IElement<TC>
    {
        var shared = SharedMemory.GetDynamic<Word4>();
        uint address = Intrinsics.SharedAddress(ref shared[0]);
        var (row, column) = Place<TTile>(result.Rows, result.Columns);
        int updates = Steps(rank), steps = updates + Steps(terms), warpRow = Warp.WarpIdx >> 1, warpColumn = Warp.WarpIdx & 1;
        int aOffset = SharedTile.LaneOffset(TTile.Rows, warpRow, TA.ByDepth), bOffset = SharedTile.LaneOffset(TTile.Columns, warpColumn, TB.ByDepth);
        for (int ahead = 0; ahead < Stages - 1; ahead++)
        {
            Load<TTile, TA, TB>(a, b, x, y, row, column, ahead, updates, steps, shared, address, ahead);
        }

        TTile sums = default;
        int step = 0, stage = 0;
        for (; step < updates; step++)
        {
            sums = Step<TTile, TA, TB>(sums, a, b, x, y, row, column, step, updates, steps, shared, address, stage, aOffset, bOffset);
            stage = Next(stage);
        }

        sums = TTile.Scale(sums, factor);
        for (; step < steps; step++)
        {
            sums = Step<TTile, TA, TB>(sums, a, b, x, y, row, column, step, updates, steps, shared, address, stage, aOffset, bOffset);
            stage = Next(stage);
        }

        Intrinsics.CopyAsyncWait(0);
        Group.Barrier(); // the last tiles have been read: their memory serves the result
        TileResult<TC>.Store(result, sums, 0, row + warpRow * TTile.Rows, column + warpColumn * TTile.Columns, shared, address);
    }

    /// <summary>Adds 64 terms, and starts loading those of two steps later into the stage that was read one step ago.</summary>
    static TTile Step<TTile, TA, TB>(TTile sums, TileOperand a, TileOperand b, TileOperand x, TileOperand y, int row, int column, int step, int updates, int steps,
        ArrayView<Word4> shared, uint address, int stage, int aOffset, int bOffset)
        where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder
    {
        Intrinsics.CopyAsyncWait(Stages - 2);
        Group.Barrier(); // what all threads copied for this step is there, and all warps have read the stage before it
        Load<TTile, TA, TB>(a, b, x, y, row, column, step + Stages - 1, updates, steps, shared, address, stage == 0 ? Stages - 1 : stage - 1);
        uint tile = address + (uint)(stage * StageChunks<TTile>() * 16);
        return TTile.MultiplyAdd(sums, tile, aOffset, tile + (uint)SharedTile.Chunks(TTile.Rows) * 16, bOffset, TA.ByDepth, TB.ByDepth);
    }

    static void Load<TTile, TA, TB>(TileOperand a, TileOperand b, TileOperand x, TileOperand y, int row, int column, int step, int updates, int steps,
        ArrayView<Word4> shared, uint address, int stage)
        where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder
    {
        int place = stage * StageChunks<TTile>();
        if (step < updates)
        {
            TileOperand.Load<TA>(x, row, step * WarpTileIntrinsics.Depth, 2 * TTile.Rows, shared, address, place);
            TileOperand.Load<TB>(y, column, step * WarpTileIntrinsics.Depth, 2 * TTile.Columns, shared, address, place + SharedTile.Chunks(TTile.Rows));
        }
        else if (step < steps)
        {
            int depth = (step - updates) * WarpTileIntrinsics.Depth;
            TileOperand.Load<TA>(a, row, depth, 2 * TTile.Rows, shared, address, place);
            TileOperand.Load<TB>(b, column, depth, 2 * TTile.Columns, shared, address, place + SharedTile.Chunks(TTile.Rows));
        }

        Intrinsics.CopyAsyncCommit(); // also where there is nothing more to load: waiting counts groups
    }

    /// <summary>First row and column of the group's tile.</summary>
    internal static (int Row, int Column) Place<TTile>(int rows, int columns) where TTile : unmanaged, IWarpTile<TTile>
    {
        int down = (rows + 2 * TTile.Rows - 1) / (2 * TTile.Rows), right = (columns + 2 * TTile.Columns - 1) / (2 * TTile.Columns);
        int band = Grid.IdxX / (RasterRows * right), within = Grid.IdxX % (RasterRows * right), height = Math.Min(RasterRows, down - band * RasterRows);
        return ((band * RasterRows + within % height) * 2 * TTile.Rows, within / height * 2 * TTile.Columns);
    }

    internal static int Steps(int terms) => (terms + WarpTileIntrinsics.Depth - 1) / WarpTileIntrinsics.Depth;

    internal static int Next(int stage) => stage == Stages - 1 ? 0 : stage + 1;

    internal static int StageChunks<TTile>() where TTile : unmanaged, IWarpTile<TTile> => SharedTile.Chunks(TTile.Rows) + SharedTile.Chunks(TTile.Columns);

    internal static int SharedBytes<TTile>() where TTile : unmanaged, IWarpTile<TTile> => Stages * StageChunks<TTile>() * 16;

    static long Tiles(MatMulCall call, int rows, int columns) => (((long)call.M + rows - 1) / rows) * (((long)call.N + columns - 1) / columns);

    internal static void Check(KernelDevice device, MatMulCall call, MatMulCall? extension)
    {
        if (!device.HasTensorCores)
        {
            throw new NotSupportedException($"TensorCoreMatMul: {device.Name} has no tensor cores for bfloat16, expected CUDA of compute capability 8.0 or more. Use the portable product.");
        }

        const string operation = nameof(TensorCoreMatMul);
        Expect.That(call.M >= 0 && call.N >= 0 && call.K >= 0, operation, $"extents are {call.M} x {call.N} x {call.K}, expected none below zero.");
        Expect.That(!(call.TransposeA && call.TransposeB), operation, "A and B are both transposed, expected at most one of Aᵀ·B and A·Bᵀ. Compute the transposed result with A and B exchanged.");
        Expect.That(call.C.Type is DType.F32 or DType.BF16, operation, $"C is {call.C.Type}, expected F32 or BF16.");
        Expect.Length(operation, nameof(call.C), call.C, (long)call.M * call.N);
        Operands(call, nameof(call));
        if (!call.Bias.IsEmpty)
        {
            Expect.Elements(operation, DType.F32, call.N, (nameof(call.Bias), call.Bias));
        }

        if (extension is { } update)
        {
            Expect.That((update.M, update.N) == (call.M, call.N), operation, $"the extension is {update.M} x {update.N}, expected {call.M} x {call.N}.");
            Expect.That((update.TransposeA, update.TransposeB) == (call.TransposeA, call.TransposeB), operation, "the extension's operands are transposed otherwise than the call's.");
            Operands(update, nameof(extension));
        }

        static void Operands(MatMulCall product, string name)
        {
            Expect.Elements(operation, DType.BF16, (long)product.M * product.K, ($"{name}.A", product.A));
            Expect.Elements(operation, DType.BF16, (long)product.N * product.K, ($"{name}.B", product.B));
        }
    }
}
