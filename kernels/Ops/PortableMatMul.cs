// PortableMatMul: matrix products in f32 that any device runs.
//
// Maths      C (+)= alpha·op(A)·op(B) + bias + scale·X·op(Y), the last a low-rank update; sums in f32, terms in order
// Shapes     op(A) [M, K] · op(B) [K, N], dense or NF4 · bias [N] · X [M, R] · op(Y) [R, N] → C [M, N]; any extents
// Layout     row-major, each operand either way round; 16-byte accesses (8 of bfloat16) where rows start at multiples of them
// Launch     a group of 64 threads for 64 x 64 outputs, a thread for 8 x 8 of them in registers; operands in two 8 KB tiles of shared memory, see ProductTile;
//            grid (N/64, M/64, splits)
// Floor      2·M·N·K flops; bound by f32 multiply-adds: 64 of them for 4 shared loads
// Numerics   within 1e-5 of the f64 oracle in f32. Few outputs with long sums are split along K into a number of parts that extents alone decide; parts are added in order, so runs
//            repeat bit for bit
// Source     register blocking as in Nath, Tomov and Dongarra 2010, "An improved MAGMA GEMM for Fermi GPUs"

using ILGPU;

namespace IlgpuPeft.Kernels;

static class PortableMatMul
{
    const int WantedGroups = 256;  // two groups for each multiprocessor of a large GPU
    const int SmallestPart = 256;  // terms; below, adding the parts costs more than they save

    /// <summary>Computes a product whose right operand is dense or NF4.</summary>
    public static void Multiply<TB>(KernelDevice device, ScratchBuffers scratch, MatMulCall call, TB b, LowRankProduct update) where TB : struct, IProductOperand
    {
        if (call.A.Type == DType.BF16)
        {
            Multiply<BF16, TB>(device, scratch, call, b, update);
        }
        else
        {
            Multiply<F32, TB>(device, scratch, call, b, update);
        }
    }

    static void Multiply<TA, TB>(KernelDevice device, ScratchBuffers scratch, MatMulCall call, TB b, LowRankProduct update)
        where TA : unmanaged, IElement<TA> where TB : struct, IProductOperand
    {
        if (call.C.Type == DType.BF16)
        {
            Multiply<TA, TB, BF16>(device, scratch, call, b, update);
        }
        else
        {
            Multiply<TA, TB, F32>(device, scratch, call, b, update);
        }
    }

    /// <summary>Queues the portable kernel, in parts where the result alone has too few tiles to occupy a device.</summary>
    static void Multiply<TA, TB, TC>(KernelDevice device, ScratchBuffers scratch, MatMulCall call, TB b, LowRankProduct update)
        where TA : unmanaged, IElement<TA> where TB : struct, IProductOperand where TC : unmanaged, IElement<TC>
    {
        int columns = (call.N + ProductTile.Outers - 1) / ProductTile.Outers, rows = (call.M + ProductTile.Outers - 1) / ProductTile.Outers;
        int parts = (int)Math.Clamp(WantedGroups / ((long)columns * rows), 1, Math.Max(1, call.K / SmallestPart));
        int depths = ((call.K + parts - 1) / parts + ProductTile.Depths - 1) / ProductTile.Depths * ProductTile.Depths;
        var shape = new LaunchShape(new Index3D(columns, rows, parts), ProductTile.Threads);
        var a = DenseOperand<TA>.Of(device, call.A, call.M, call.K, !call.TransposeA, call.Alpha);
        var x = DenseOperand<TA>.Of(device, update.Left, call.M, update.Rank, true, update.Scale);
        var y = DenseOperand<F32>.Of(device, update.Right, call.N, update.Rank, update.TransposeRight);
        if (parts == 1)
        {
            device.Launch(Kernel<TA, TB, TC>, shape, a, b, x, y, Result<TC>.Of(device, call), call.K, depths, update.Rank);
            return;
        }

        long size = (long)call.M * call.N;
        var sums = scratch.Get("partial products", DType.F32, parts * size);
        var partial = Result<F32>.Of(device, call with { C = sums, Bias = default, Accumulate = false });
        device.Launch(Kernel<TA, TB, F32>, shape, a, b, x, y, partial, call.K, depths, update.Rank);
        device.Launch(AddPartsKernel<TC>, LaunchShape.Over(size), device.Buffers.View<F32>(sums), parts, Result<TC>.Of(device, call));
    }

    static void Kernel<TA, TB, TC>(DenseOperand<TA> a, TB b, DenseOperand<TA> x, DenseOperand<F32> y, Result<TC> c, int k, int depths, int rank)
        where TA : unmanaged, IElement<TA> where TB : struct, IProductOperand where TC : unmanaged, IElement<TC>
    {
        var left = SharedMemory.Allocate<Float4>(ProductTile.Quads);
        var right = SharedMemory.Allocate<Float4>(ProductTile.Quads);
        var codes = SharedMemory.Allocate<float>(16);
        b.Prepare(codes);
        int row = Grid.IdxY * ProductTile.Outers, column = Grid.IdxX * ProductTile.Outers, first = Grid.IdxZ * depths;
        var sums = Sum(default, a, b, left, right, codes, row, column, first, IntrinsicMath.Min(first + depths, k));
        if (Grid.IdxZ == 0)
        {
            sums = Sum(sums, x, y, left, right, codes, row, column, 0, rank);
        }

        int i = row + Group.IdxX / 8 * 4, j = column + Group.IdxX % 8 * 4;
        c.Store(Grid.IdxZ, i, j, sums.TopLeft);
        c.Store(Grid.IdxZ, i, j + 32, sums.TopRight);
        c.Store(Grid.IdxZ, i + 32, j, sums.BottomLeft);
        c.Store(Grid.IdxZ, i + 32, j + 32, sums.BottomRight);
    }

    /// <summary>Adds terms <paramref name="first"/> ... <paramref name="end"/> - 1 of the group's products to the thread's sums.</summary>
    static Block8 Sum<TA, TB>(Block8 sums, TA a, TB b, ArrayView<Float4> left, ArrayView<Float4> right, ArrayView<float> codes, int row, int column, int first, int end)
        where TA : struct, IProductOperand where TB : struct, IProductOperand
    {
        int i = Group.IdxX / 8, j = Group.IdxX % 8;
        for (int depth = first; depth < end; depth += ProductTile.Depths)
        {
            Group.Barrier(); // the tiles were read, the table of codes is complete
            a.Fill(left, codes, row, depth);
            b.Fill(right, codes, column, depth);
            Group.Barrier(); // the tiles are complete
            int count = IntrinsicMath.Min(ProductTile.Depths, end - depth);
            for (int d = 0; d < count; d++)
            {
                int l = ProductTile.Quad(d, i), r = ProductTile.Quad(d, j);
                sums = sums.Add(left[l], left[l + 8], right[r], right[r + 8]);
            }
        }

        return sums;
    }

    static void AddPartsKernel<TC>(ArrayView<F32> sums, int parts, Result<TC> c) where TC : unmanaged, IElement<TC>
    {
        long i = Grid.LongGlobalIndex.X, size = sums.Length / parts;
        if (i < size)
        {
            float sum = 0;
            for (int part = 0; part < parts; part++)
            {
                sum += F32.Widen(sums[part * size + i]);
            }

            c.Store(i, sum);
        }
    }
}
