// TensorCoreMatMul: dense matrix products in bfloat16, and a low-rank update within them.
//
// Maths      C (+)= alpha·(s·op(X)·op(Y) + op(A)·op(B)) + bias; products exact, sums in f32, terms in order
// Shapes     op(A) [M, K] · op(B) [K, N] · op(X) [M, R] · op(Y) [R, N] BF16 · bias [N] F32 → C [M, N] F32 or BF16; any extents
// Layout     row-major. x·Wᵀ, dy·W and dyᵀ·x read their operands as they are: ldmatrix transposes those that are stored [depth, extent].
//            Rows that begin at multiples of 16 bytes are copied asynchronously, others value by value
// Launch     a group of 4 warps, 2 x 2, for 128 x 128 or 64 x 64 outputs; a ring of 3 stages of 64 terms of both operands in 96 or 48 KB of shared memory.
//            Groups go down 8 tiles before they go right, so that those that run at a time share operands in the second-level cache; grid (tiles, parts)
// Floor      2·M·N·K flops, bound by tensor cores: 64 terms of a warp's 64 x 64 outputs cost 128 multiplies, 32 ldmatrix and 16 copies
// Numerics   on the emulator, which rounds the sum of an mma once, within 1e-5 of the f64 product of the same bfloat16 operands, before C is rounded. Tensor cores cut off what lies
//            below the last place of a step's largest term (Fasi et al. 2021, "Numerical behavior of NVIDIA tensor cores", PeerJ CS 7:e330): where all terms have one sign, that
//            may add K·2^-25 of the sum, 2.4e-4 for K = 8,192; no GPU has measured it. Few outputs with long sums are split along K into a number of parts that extents alone
//            decide; parts are added in order, so runs repeat bit for bit
// Source     the tiling of CUTLASS' "efficient GEMM" notes for sm_80; fragment layouts from the PTX manual

using ILGPU;

namespace IlgpuPeft.Kernels;

static class TensorCoreMatMul
{
    const string Operation = nameof(TensorCoreMatMul);

    /// <summary>Large tiles from which on they beat small ones: most multiprocessors of a large GPU have one.</summary>
    const int EnoughLargeTiles = 96;

    /// <summary>Two groups for each multiprocessor of a large GPU.</summary>
    const int WantedGroups = 256;

    /// <summary>Steps of 64 terms below which adding the parts costs more than they save.</summary>
    const int SmallestPart = 4;

    /// <summary>Rows of tiles after which the groups go on to the right.</summary>
    const int RasterRows = 8;

    /// <summary>Computes a product of BF16 operands.</summary>
    /// <param name="device">One that has tensor cores.</param>
    /// <param name="call">What.</param>
    /// <param name="extension">
    /// A low-rank product that is added to the sums: X, Y and R in place of A, B and K, and <see cref="MatMulCall.Alpha"/> as s; transposed as the call is. Its C, bias and
    /// accumulation are ignored.
    /// </param>
    /// <param name="scratch">Working memory for parts of long sums; without it sums are not split.</param>
    /// <exception cref="ArgumentException">A slice does not have the size that the extents give it, or a type that is not taken.</exception>
    /// <exception cref="NotSupportedException">The device has no tensor cores.</exception>
    public static void Multiply(KernelDevice device, MatMulCall call, MatMulCall? extension = null, ScratchBuffers? scratch = null)
    {
        if (Tiles<WarpTile64x64>(call) >= EnoughLargeTiles && call.M > 64 && call.N > 64 && SharedBytes<WarpTile64x64>() <= device.MaxSharedBytes)
        {
            Multiply<WarpTile64x64>(device, call, extension, null);
        }
        else
        {
            Multiply<WarpTile32x32>(device, call, extension, scratch);
        }
    }

    /// <summary>Computes a product in groups of 2 x 2 warp tiles.</summary>
    internal static void Multiply<TTile>(KernelDevice device, MatMulCall call, MatMulCall? extension, ScratchBuffers? scratch) where TTile : unmanaged, IWarpTile<TTile>
    {
        Check(device, call, extension);
        Expect.Elements(Operation, DType.BF16, (long)call.N * call.K, (nameof(call.B), call.B));
        var b = TileOperand.Of(device, call.B, call.N, call.K, !call.TransposeB);
        switch (call.TransposeA, call.TransposeB)
        {
            case (false, true):
                Multiply<TTile, ByExtent, ByExtent, TileOperand, int>(device, scratch, call, b, extension);
                break;
            case (false, false):
                Multiply<TTile, ByExtent, ByDepth, TileOperand, int>(device, scratch, call, b, extension);
                break;
            case (true, true):
                Multiply<TTile, ByDepth, ByExtent, TileOperand, int>(device, scratch, call, b, extension);
                break;
            case (true, false):
                Multiply<TTile, ByDepth, ByDepth, TileOperand, int>(device, scratch, call, b, extension);
                break;
        }
    }

    /// <summary>Computes a checked product whose right operand is any source of tiles.</summary>
    internal static void Multiply<TTile, TA, TB, TSource, THeld>(KernelDevice device, ScratchBuffers? scratch, MatMulCall call, TSource b, MatMulCall? extension)
        where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder where TSource : struct, ITileSource<TSource, THeld> where THeld : unmanaged
    {
        if (call.C.Type == DType.BF16)
        {
            Multiply<TTile, TA, TB, TSource, THeld, BF16>(device, scratch, call, b, extension);
        }
        else
        {
            Multiply<TTile, TA, TB, TSource, THeld, F32>(device, scratch, call, b, extension);
        }
    }

    static void Multiply<TTile, TA, TB, TSource, THeld, TC>(KernelDevice device, ScratchBuffers? scratch, MatMulCall call, TSource b, MatMulCall? extension)
        where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder where TSource : struct, ITileSource<TSource, THeld> where THeld : unmanaged
        where TC : unmanaged, IElement<TC>
    {
        if (call.M == 0 || call.N == 0)
        {
            return;
        }

        var result = TileResult<TC>.Of(device, call);
        int steps = Steps(call.K) + Steps(extension?.K ?? 0), parts = scratch == null ? 1 : Parts<TTile>(call, steps);
        if (parts == 1)
        {
            Launch<TTile, TA, TB, TSource, THeld, TC>(device, call, b, extension, result, 1, steps);
            return;
        }

        int each = (steps + parts - 1) / parts, pitch = (call.N + 3) / 4 * 4; // rows of whole quads; sums beyond the matrix are zeros
        parts = (steps + each - 1) / each;
        var sums = device.Buffers.View<F32>(scratch!.Get("parts of sums", DType.F32, (long)parts * call.M * pitch));
        Launch<TTile, TA, TB, TSource, THeld, F32>(device, call, b, extension, new TileResult<F32>(sums, default, call.M, pitch, 1, accumulate: false, quads: true), parts, each);
        device.Launch(SumKernel<TC>, LaunchShape.Over((long)call.M * pitch / 4), sums, result, parts);
    }

    static void Launch<TTile, TA, TB, TSource, THeld, TC>(KernelDevice device, MatMulCall call, TSource b, MatMulCall? extension, TileResult<TC> result, int parts, int stepsOfPart)
        where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder where TSource : struct, ITileSource<TSource, THeld> where THeld : unmanaged
        where TC : unmanaged, IElement<TC>
    {
        var update = extension ?? default;
        device.Launch(Kernel<TTile, TA, TB, TSource, THeld, TC>,
            new LaunchShape(new Index3D(checked((int)Tiles<TTile>(call)), parts, 1), SharedTile.Threads, SharedBytes<TTile>()),
            TileOperand.Of(device, call.A, call.M, call.K, TA.ByDepth), b, TileOperand.Of(device, update.A, call.M, update.K, TA.ByDepth),
            TileOperand.Of(device, update.B, call.N, update.K, TB.ByDepth), result, Steps(call.K), Steps(update.K), update.Alpha, stepsOfPart);
    }

    static void Kernel<TTile, TA, TB, TSource, THeld, TC>(TileOperand a, TSource b, TileOperand x, TileOperand y, TileResult<TC> result, int steps, int updates, float factor, int stepsOfPart)
        where TTile : unmanaged, IWarpTile<TTile> where TA : struct, IOperandOrder where TB : struct, IOperandOrder where TSource : struct, ITileSource<TSource, THeld> where THeld : unmanaged
        where TC : unmanaged, IElement<TC>
    {
        int tileRows = 2 * TTile.Rows, tileColumns = 2 * TTile.Columns, down = (result.Rows + tileRows - 1) / tileRows, right = (result.Columns + tileColumns - 1) / tileColumns;
        int band = Grid.IdxX / (RasterRows * right), within = Grid.IdxX % (RasterRows * right), height = Math.Min(RasterRows, down - band * RasterRows);
        int row = (band * RasterRows + within % height) * tileRows, column = within / height * tileColumns, first = Grid.IdxY * stepsOfPart;
        var shared = SharedMemoryBlock.Dynamic();
        var pipeline = new TensorCorePipeline<TTile, TA, TB, TSource, THeld>(a, b, x, y, shared, row, column, updates, Math.Min(first + stepsOfPart, steps + updates));
        var sums = pipeline.Run(first, factor);
        TileResult<TC>.Store(result, sums, Grid.IdxY, row + (Warp.WarpIdx >> 1) * TTile.Rows, column + (Warp.WarpIdx & 1) * TTile.Columns, shared);
    }

    /// <summary>Adds the parts of four neighbours, in order.</summary>
    static void SumKernel<TC>(ArrayView<F32> sums, TileResult<TC> result, int parts) where TC : unmanaged, IElement<TC>
    {
        long i = Grid.LongGlobalIndex.X;
        int width = (result.Columns + 3) / 4, row = (int)(i / width), column = (int)(i % width) * 4;
        if (row >= result.Rows)
        {
            return;
        }

        Float4 sum = default;
        for (int part = 0; part < parts; part++)
        {
            sum += Quads.Load(sums, (long)part * result.Rows * width + i);
        }

        result.StoreQuad(0, row, column, sum, result.BiasOf(column));
    }

    static int Steps(int terms) => (terms + WarpTileIntrinsics.Depth - 1) / WarpTileIntrinsics.Depth;

    static int Parts<TTile>(MatMulCall call, int steps) where TTile : unmanaged, IWarpTile<TTile> =>
        (int)Math.Clamp(WantedGroups / Math.Max(1, Tiles<TTile>(call)), 1, Math.Max(1, steps / SmallestPart));

    static long Tiles<TTile>(MatMulCall call) where TTile : unmanaged, IWarpTile<TTile> =>
        (((long)call.M + 2 * TTile.Rows - 1) / (2 * TTile.Rows)) * (((long)call.N + 2 * TTile.Columns - 1) / (2 * TTile.Columns));

    static int SharedBytes<TTile>() where TTile : unmanaged, IWarpTile<TTile> => TensorCorePipeline<TTile, ByExtent, ByExtent, TileOperand, int>.SharedBytes;

    /// <summary>Checks all of a product but its right operand.</summary>
    internal static void Check(KernelDevice device, MatMulCall call, MatMulCall? extension)
    {
        if (!device.HasTensorCores)
        {
            throw new NotSupportedException($"{Operation}: {device.Name} has no tensor cores for bfloat16, expected CUDA of compute capability 8.0 or more. Use the portable product.");
        }

        Expect.That(call.M >= 0 && call.N >= 0 && call.K >= 0, Operation, $"extents are {call.M} x {call.N} x {call.K}, expected none below zero.");
        Expect.That(call.C.Type is DType.F32 or DType.BF16, Operation, $"C is {call.C.Type}, expected F32 or BF16.");
        Expect.Length(Operation, nameof(call.C), call.C, (long)call.M * call.N);
        Expect.Elements(Operation, DType.BF16, (long)call.M * call.K, (nameof(call.A), call.A));
        if (!call.Bias.IsEmpty)
        {
            Expect.Elements(Operation, DType.F32, call.N, (nameof(call.Bias), call.Bias));
        }

        if (extension is { } update)
        {
            Expect.That((update.M, update.N) == (call.M, call.N), Operation, $"the extension is {update.M} x {update.N}, expected {call.M} x {call.N}.");
            Expect.That((update.TransposeA, update.TransposeB) == (call.TransposeA, call.TransposeB), Operation, "the extension's operands are transposed otherwise than the call's.");
            Expect.Elements(Operation, DType.BF16, (long)update.M * update.K, ("the extension's A", update.A));
            Expect.Elements(Operation, DType.BF16, (long)update.N * update.K, ("the extension's B", update.B));
        }
    }
}
