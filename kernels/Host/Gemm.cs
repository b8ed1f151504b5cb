// Gemm: C = beta·C + alpha·op(A)·op(B), the product behind every linear layer.
//
// Maths      C[i,j] = beta·C[i,j] + alpha·Σ_k op(A)[i,k]·op(B)[k,j]; sums in T with fused multiply-add, in k order within a depth block,
//            depth blocks added in order. With beta = 0, C is written without being read
// Shapes     op(A) [M, K], op(B) [K, N], C [M, N], all row-major with leading dimensions; B may be a stored weight (BF16, F16, NF4)
// Layout     blocks of A and B are packed into panels as wide as the register tile, K innermost: the micro-kernel reads both in order.
//            A stored weight is converted during packing: one panel at a time is dense, never the matrix
// Floor      2·M·N·K flops at two FMA vectors a cycle and core
// Numerics   relative error against f64 about 1e-6 for K = 576; the split into tasks is of C alone, so any number of threads gives the same bits
// Source     Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication"; Van Zee and van de Geijn 2015 (BLIS)

using System.Numerics;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

static unsafe class Gemm
{
    // A panel of B (depth·columns) shares the first-level cache with one of A: 384·16 floats are 24 KB of 32.
    const int MaxDepth = 384;
    const int DepthUnit = 32; // keeps depth blocks on whole vector steps of the NF4 decoder

    // One task: at most 192·384 floats of A (288 KB), which stay in the second-level cache while 96 columns of B pass by.
    const int TaskRows = 192, TaskColumns = 96;

    // Packed at a time, shared by all threads, for the third-level cache: up to 4.5 MB of B and 6 MB of A at full depth.
    const int PassColumns = 3072, PassRows = 4032;

    // From so many columns on, and while all of A fits the third-level cache (8 MB of floats), tasks pack B for themselves.
    const int WideColumns = 3072;
    const long WideElements = 1 << 21;

    const int CacheLine = 64; // bytes

    const int PackLanes = 96; // rows or columns that one task packs; a multiple of every tile

    /// <summary>C [m, n] = beta·C + alpha·op(A)·op(B), op = transposition where asked.</summary>
    public static void Multiply<T>(int m, int n, int k, T alpha, T* a, long lda, bool transposeA, T* b, long ldb, bool transposeB, T beta, T* c, long ldc)
        where T : unmanaged, IBinaryFloatingPointIeee754<T> =>
        Multiply(m, n, k, alpha, new Operand<T>((nint)a, lda, !transposeA), new Operand<T>((nint)b, ldb, transposeB), beta, c, ldc);

    /// <summary>
    /// Product with a weight W [O, I] of any format: C [m, O] from A [m, I] and Wᵀ if <paramref name="transpose"/>, else C [m, I] from A [m, O] and W.
    /// </summary>
    public static void Multiply<T>(int m, T alpha, T* a, long lda, Weight weight, bool transpose, T beta, T* c, long ldc)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        var (n, k) = transpose ? (weight.Rows, weight.Columns) : (weight.Columns, weight.Rows);
        Multiply(m, n, k, alpha, new Operand<T>((nint)a, lda, true), Operand<T>.From(weight, transpose), beta, c, ldc);
    }

    static void Multiply<T>(int m, int n, int k, T alpha, in Operand<T> a, in Operand<T> b, T beta, T* c, long ldc)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        if (m == 0 || n == 0)
        {
            return;
        }

        // The smaller side first: with one row and sixteen columns, the row is the few.
        bool few = m <= n
            ? MultiplyFew(m, n, k, alpha, a, b, beta, c, ldc, 1) || MultiplyFew(n, m, k, alpha, b, a, beta, c, 1, ldc)
            : MultiplyFew(n, m, k, alpha, b, a, beta, c, 1, ldc) || MultiplyFew(m, n, k, alpha, a, b, beta, c, ldc, 1);
        if (few)
        {
            return;
        }

        switch (Simd.Path)
        {
            case SimdPath.Vector512:
                Run<T, Kernel512<T>>(m, n, k, alpha, a, b, beta, c, ldc);
                break;
            case SimdPath.Vector256:
                Run<T, Kernel256<T>>(m, n, k, alpha, a, b, beta, c, ldc);
                break;
            case SimdPath.Vector128:
                Run<T, Kernel128<T>>(m, n, k, alpha, a, b, beta, c, ldc);
                break;
            default:
                Run<T, ScalarKernel<T>>(m, n, k, alpha, a, b, beta, c, ldc);
                break;
        }
    }

    /// <summary>c at i·strideFew + j·strideMany, by a product that packs nothing of `many`; false where there is none for the shape.</summary>
    static bool MultiplyFew<T>(int m, int n, int k, T alpha, in Operand<T> few, in Operand<T> many, T beta, T* c, long strideFew, long strideMany)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        if (FewRows.Suits(m, few, many))
        {
            FewRows.Multiply(m, n, k, float.CreateTruncating(alpha), few.As<float>(), many.As<float>(), float.CreateTruncating(beta), (float*)c, strideFew, strideMany);
            return true;
        }

        if (MatVec.Suits(m, few, many))
        {
            MatVec.Multiply(m, n, k, alpha, few, many, beta, c, strideFew, strideMany);
            return true;
        }

        return false;
    }

    static void Run<T, TKernel>(int m, int n, int k, T alpha, in Operand<T> a, in Operand<T> b, T beta, T* c, long ldc)
        where T : unmanaged, IBinaryFloatingPointIeee754<T> where TKernel : struct, IMicroKernel<T>
    {
        int blocks = Math.Max(1, Ceiling(k, MaxDepth));
        int maxDepth = RoundUp(Ceiling(k, blocks), DepthUnit);
        if (n >= WideColumns && k > 0 && (long)m * k <= WideElements)
        {
            RunWide<T, TKernel>(m, n, k, maxDepth, alpha, a, b, beta, c, ldc);
            return;
        }

        T* packedA = Scratch.Get<T>(ScratchSlot.PackedA, (long)RoundUp(Math.Min(m, PassRows), TKernel.Rows) * maxDepth);
        T* packedB = Scratch.Get<T>(ScratchSlot.PackedB, (long)RoundUp(Math.Min(n, PassColumns), TKernel.Columns) * maxDepth);
        for (int row = 0; row < m; row += PassRows)
        {
            int rows = Math.Min(PassRows, m - row);
            for (int column = 0; column < n; column += PassColumns)
            {
                int columns = Math.Min(PassColumns, n - column);
                int k0 = 0;
                do
                {
                    int depth = Math.Min(maxDepth, k - k0);
                    int packTasksA = Ceiling(rows, PackLanes);
                    Workers.Run(packTasksA + Ceiling(columns, PackLanes), new PackJob<T>
                    {
                        A = a, B = b, Row = row, Rows = rows, Column = column, Columns = columns, K0 = k0, Depth = depth,
                        WidthA = TKernel.Rows, WidthB = TKernel.Columns, TasksA = packTasksA, PackedA = packedA, PackedB = packedB,
                    });
                    int tall = Ceiling(rows, TaskRows);
                    Workers.Run(tall * Ceiling(columns, TaskColumns), new TileJob<T, TKernel>
                    {
                        A = packedA, B = packedB, C = c + row * ldc + column, Ldc = ldc, Rows = rows, Columns = columns, Depth = depth,
                        Tall = tall, RowsPerTask = RoundUp(Ceiling(rows, tall), TKernel.Rows),
                        Alpha = alpha, Beta = k0 == 0 ? beta : T.One,
                    });
                    k0 += depth;
                }
                while (k0 < k);
            }
        }
    }

    /// <summary>
    /// Many columns, as of a vocabulary: all of A is packed first, and then each task packs its columns of B for itself, so that reading B
    /// from memory overlaps the other threads' arithmetic, and its columns of C stay in cache from one depth block to the next.
    /// </summary>
    static void RunWide<T, TKernel>(int m, int n, int k, int maxDepth, T alpha, in Operand<T> a, in Operand<T> b, T beta, T* c, long ldc)
        where T : unmanaged, IBinaryFloatingPointIeee754<T> where TKernel : struct, IMicroKernel<T>
    {
        int rows = RoundUp(m, TKernel.Rows);
        T* packedA = Scratch.Get<T>(ScratchSlot.PackedA, (long)rows * k);
        for (int k0 = 0; k0 < k; k0 += maxDepth)
        {
            int packTasks = Ceiling(m, PackLanes);
            Workers.Run(packTasks, new PackJob<T>
            {
                A = a, Rows = m, K0 = k0, Depth = Math.Min(maxDepth, k - k0), WidthA = TKernel.Rows, TasksA = packTasks, PackedA = packedA + (long)rows * k0,
            });
        }

        Workers.Run(Ceiling(n, TaskColumns), new WideJob<T, TKernel>
        {
            A = packedA, B = b, C = c, Ldc = ldc, Rows = m, Columns = n, K = k, MaxDepth = maxDepth, Alpha = alpha, Beta = beta,
        });
    }

    static int Ceiling(int x, int unit) => (x + unit - 1) / unit;

    static int RoundUp(int x, int unit) => Ceiling(x, unit) * unit;

    /// <summary>Packs the rows of A, then the columns of B.</summary>
    struct PackJob<T> : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public Operand<T> A, B;
        public int Row, Rows, Column, Columns, K0, Depth, WidthA, WidthB, TasksA;
        public T* PackedA, PackedB;

        public readonly void Run(int index)
        {
            if (index < TasksA)
            {
                int lane = index * PackLanes;
                Packing.Pack(A, Row + lane, Math.Min(PackLanes, Rows - lane), K0, Depth, WidthA, PackedA + (long)lane * Depth);
            }
            else
            {
                int lane = (index - TasksA) * PackLanes;
                Packing.Pack(B, Column + lane, Math.Min(PackLanes, Columns - lane), K0, Depth, WidthB, PackedB + (long)lane * Depth);
            }
        }
    }

    /// <summary>One block [RowsPerTask, TaskColumns] of C.</summary>
    struct TileJob<T, TKernel> : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T> where TKernel : struct, IMicroKernel<T>
    {
        public T* A, B, C;
        public long Ldc;
        public int Rows, Columns, Depth, Tall, RowsPerTask;
        public T Alpha, Beta;

        public readonly void Run(int index)
        {
            int row = index % Tall * RowsPerTask, column = index / Tall * TaskColumns; // neighbouring tasks share their columns of B
            MultiplyPacked<T, TKernel>(A + (long)row * Depth, B + (long)column * Depth, C + row * Ldc + column, Ldc,
                Math.Min(RowsPerTask, Rows - row), Math.Min(TaskColumns, Columns - column), Depth, Alpha, Beta);
        }
    }

    /// <summary>TaskColumns columns of C, all rows and the whole depth.</summary>
    struct WideJob<T, TKernel> : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T> where TKernel : struct, IMicroKernel<T>
    {
        public T* A, C;
        public Operand<T> B;
        public long Ldc;
        public int Rows, Columns, K, MaxDepth;
        public T Alpha, Beta;

        public readonly void Run(int index)
        {
            int column = index * TaskColumns, columns = Math.Min(TaskColumns, Columns - column);
            T* packedB = Scratch.Get<T>(ScratchSlot.PackedB, (long)TaskColumns * MaxDepth);
            for (int k0 = 0; k0 < K; k0 += MaxDepth)
            {
                int depth = Math.Min(MaxDepth, K - k0);
                Packing.Pack(B, column, columns, k0, depth, TKernel.Columns, packedB);
                MultiplyPacked<T, TKernel>(A + (long)RoundUp(Rows, TKernel.Rows) * k0, packedB, C + column, Ldc, Rows, columns, depth, Alpha, k0 == 0 ? Beta : T.One);
            }
        }
    }

    /// <summary>C = beta·C + alpha·a·b of packed blocks: a panel of b stays in the first-level cache while all panels of a pass by.</summary>
    static void MultiplyPacked<T, TKernel>(T* packedA, T* packedB, T* c, long ldc, int rows, int columns, int depth, T alpha, T beta)
        where T : unmanaged, IBinaryFloatingPointIeee754<T> where TKernel : struct, IMicroKernel<T>
    {
        T* edge = stackalloc T[TKernel.Rows * TKernel.Columns];
        for (int j = 0; j < columns; j += TKernel.Columns)
        {
            T* b = packedB + (long)j * depth;
            for (int i = 0; i < rows; i += TKernel.Rows)
            {
                T* a = packedA + (long)i * depth, tile = c + i * ldc + j;
                if (i + TKernel.Rows <= rows && j + TKernel.Columns <= columns)
                {
                    Prefetch<T, TKernel>(tile, ldc);
                    TKernel.Multiply(depth, a, b, tile, ldc, alpha, beta);
                }
                else
                {
                    TKernel.Multiply(depth, a, b, edge, TKernel.Columns, alpha, T.Zero);
                    Merge(edge, TKernel.Columns, Math.Min(TKernel.Rows, rows - i), Math.Min(TKernel.Columns, columns - j), tile, ldc, beta);
                }
            }
        }
    }

    /// <summary>The tile of C is needed a few thousand cycles later, at the end of the micro-kernel.</summary>
    static void Prefetch<T, TKernel>(T* c, long ldc) where T : unmanaged where TKernel : struct, IMicroKernel<T>
    {
        if (Sse.IsSupported)
        {
            for (int i = 0; i < TKernel.Rows; i++)
            {
                for (int j = 0; j < TKernel.Columns; j += CacheLine / sizeof(T))
                {
                    Sse.Prefetch0(c + i * ldc + j);
                }
            }
        }
    }

    static void Merge<T>(T* tile, int stride, int rows, int columns, T* c, long ldc, T beta) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        for (int i = 0; i < rows; i++)
        {
            for (int j = 0; j < columns; j++)
            {
                T* at = c + i * ldc + j;
                T value = tile[i * stride + j];
                *at = beta == T.Zero ? value : T.FusedMultiplyAdd(beta, *at, value);
            }
        }
    }
}
