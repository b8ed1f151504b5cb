// FewRows: the product for a few rows, as in decoding several sequences at once: each stored weight is converted once and meets every row.
//
// Maths      c[i,j] = beta·c[i,j] + alpha·Σ_k x[i,k]·w[j,k]; four partial sums per output, of k ≡ 0, 1, 2, 3 (mod 4), each in k order, joined at the end
// Shapes     x [2 ≤ m ≤ 64, K] dense, w [n, K] dense or stored; c by two strides, as in MatVec. f32 only
// Layout     a vector holds four consecutive k of two rows of x (AVX2) or of four (AVX-512). Four weights, broadcast to all of its 16-byte lanes, meet
//            those rows in one multiplication: no transposed weights, and a register block as large as a packed product's. x is packed once a call into
//            panels [k / 4, rows, 4]. Rows of w are converted into a block that stays in the first-level cache while every panel passes by
// Floor      2·m·n·K flops at two FMA vectors a cycle and core, beside one conversion of w
// Numerics   as Gemm. A row's bits depend neither on the number of rows, from 2 to 64, nor on its place among them; the product of one row (MatVec) and the
//            packed one of more sum in other orders
// Source     none beyond Gemm's

using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

/// <summary>Register blocks of <see cref="FewRows"/>.</summary>
unsafe interface IFewRowsKernel
{
    /// <summary>Rows of w in a block.</summary>
    static abstract int Outputs { get; }

    /// <summary>Rows of x in a whole panel.</summary>
    static abstract int Rows { get; }

    /// <summary>sums[output, row, 4] += Σ_k w[output, 4k + 0 ... 3] · panel[k, row, 4], for a panel of <see cref="Rows"/> rows or of half as many.</summary>
    static abstract void Multiply(int quads, float* w, nint stride, float* panel, int rows, float* sums);

    /// <summary>A run of a weight that <see cref="Nf4MatVec.Supports"/>, in an order of its own within each unit.</summary>
    static abstract void DecodeNf4(Weight weight, long start, int count, float* scales, float* destination);

    /// <summary>x in the order of <see cref="DecodeNf4"/>, groups of four <paramref name="next"/> elements apart.</summary>
    static abstract void PermuteNf4(float* x, float* permuted, int count, nint next);
}

static unsafe class FewRows
{
    const int MaxRows = 64;
    const int Quad = 4;
    const int WeightsPerTask = 1 << 14; // some 5 µs for 16 rows
    const int PageSize = 4096; // bytes: rows that far apart compete for the same lines of a first-level cache

    // A block of 12·576 weights and a panel of 8·576 are 46 KB of a first-level cache of 48; with AVX2, 6·640 and 4·640 are 26 KB of 32.
    const int MaxDepth = 640, DepthUnit = 64; // whole units of the NF4 decoders

    /// <summary>Whether a product with <paramref name="rows"/> rows of <paramref name="few"/> is faster here than row by row or packed.</summary>
    public static bool Suits<T>(int rows, in Operand<T> few, in Operand<T> many) where T : unmanaged =>
        typeof(T) == typeof(float) && rows is >= 2 and <= MaxRows && few.Weight is null && few.DepthAlongRows && many.DepthAlongRows
        && Simd.Path >= SimdPath.Vector256 && Fma.IsSupported;

    /// <summary>c at i·strideFew + j·strideMany = beta·c + alpha·(few row i · many row j), for i &lt; m and j &lt; n.</summary>
    public static void Multiply(int m, int n, int k, float alpha, in Operand<float> few, in Operand<float> many, float beta, float* c, long strideFew, long strideMany)
    {
        if (Simd.Path == SimdPath.Vector512 && Avx512F.IsSupported)
        {
            Run<FewRows512>(m, n, k, alpha, few, many, beta, c, strideFew, strideMany);
        }
        else
        {
            Run<FewRows256>(m, n, k, alpha, few, many, beta, c, strideFew, strideMany);
        }
    }

    static void Run<TKernel>(int m, int n, int k, float alpha, in Operand<float> few, in Operand<float> many, float beta, float* c, long strideFew, long strideMany)
        where TKernel : struct, IFewRowsKernel
    {
        var job = new Job<TKernel>
        {
            Many = many, Nf4 = many.Weight is not null && Nf4MatVec.Supports(many.Weight), C = c, StrideFew = strideFew, StrideMany = strideMany,
            M = m, N = n, K = k, PaddedK = Ceiling(k, Quad) * Quad, BlockDepth = BlockDepthOf(k), Alpha = alpha, Beta = beta,
            OutputsPerTask = TKernel.Outputs * Math.Max(1, WeightsPerTask / TKernel.Outputs / Math.Max(1, k)),
        };
        job.Panels = Scratch.Get<float>(ScratchSlot.PackedA, (long)job.PaddedRows * job.PaddedK);
        job.Pack(few);
        Workers.Run(Ceiling(n, job.OutputsPerTask), job);
    }

    /// <summary>Depth blocks of nearly equal size.</summary>
    static int BlockDepthOf(int k)
    {
        int blocks = Math.Max(1, Ceiling(k, MaxDepth));
        return Math.Max(1, Ceiling(k, blocks * DepthUnit)) * DepthUnit;
    }

    static int Ceiling(int x, int unit) => (x + unit - 1) / unit;

    struct Job<TKernel> : IJob where TKernel : struct, IFewRowsKernel
    {
        public Operand<float> Many;
        public bool Nf4;
        public float* Panels, C;
        public long StrideFew, StrideMany;
        public int M, N, K, PaddedK, BlockDepth, OutputsPerTask;
        public float Alpha, Beta;

        /// <summary>Rows of all panels: whole ones, and a last one that is whole or half.</summary>
        public readonly int PaddedRows => M / TKernel.Rows * TKernel.Rows + PanelRows(M / TKernel.Rows * TKernel.Rows);

        /// <summary>Rows of the panel that begins with row <paramref name="first"/>; 0 past the last.</summary>
        readonly int PanelRows(int first) => first >= M ? 0 : M - first <= TKernel.Rows / 2 ? TKernel.Rows / 2 : TKernel.Rows;

        /// <summary>x in panels, one depth block after the other; what is missing is zero.</summary>
        public readonly void Pack(in Operand<float> few)
        {
            for (int first = 0; first < M; first += TKernel.Rows)
            {
                int width = PanelRows(first);
                for (int r = 0; r < width; r++)
                {
                    for (int k0 = 0; k0 < PaddedK; k0 += BlockDepth)
                    {
                        int depth = Math.Min(BlockDepth, PaddedK - k0);
                        float* x = few.At(first + r, k0), to = Panel(first, k0) + r * Quad;
                        if (first + r < M && Nf4)
                        {
                            TKernel.PermuteNf4(x, to, depth, width * Quad);
                        }
                        else
                        {
                            PackRow(x, first + r < M ? Math.Min(depth, K - k0) : 0, depth, to, width * Quad);
                        }
                    }
                }
            }
        }

        static void PackRow(float* x, int valid, int depth, float* to, nint next)
        {
            int k = 0;
            for (; k <= valid - Quad; k += Quad, to += next)
            {
                Vector128.Load(x + k).Store(to);
            }

            for (; k < depth; k += Quad, to += next)
            {
                for (int i = 0; i < Quad; i++)
                {
                    to[i] = k + i < valid ? x[k + i] : 0;
                }
            }
        }

        /// <summary>The part of a panel that belongs to the depth block at <paramref name="k0"/>.</summary>
        readonly float* Panel(int first, int k0) => Panels + (long)k0 * PaddedRows + first * Math.Min(BlockDepth, PaddedK - k0);

        public readonly void Run(int index)
        {
            int first = index * OutputsPerTask, last = Math.Min(first + OutputsPerTask, N);
            long size = TKernel.Outputs * PaddedRows * Quad;
            float* sums = Scratch.Get<float>(ScratchSlot.RowSums, size);
            float* converted = Scratch.Get<float>(ScratchSlot.DecodedRows, TKernel.Outputs * BlockDepth);
            for (int j = first; j < last; j += TKernel.Outputs)
            {
                int outputs = Math.Min(TKernel.Outputs, last - j);
                float* scales = Nf4 ? Nf4MatVec.Scales(Many.Weight!, j * (long)K, outputs * K) : null;
                new Span<float>(sums, (int)size).Clear();
                for (int k0 = 0; k0 < PaddedK; k0 += BlockDepth)
                {
                    int depth = Math.Min(BlockDepth, PaddedK - k0);
                    float* w = Rows(j, outputs, k0, depth, scales, converted, out nint stride);
                    for (int row = 0; row < M; row += TKernel.Rows)
                    {
                        TKernel.Multiply(depth / Quad, w, stride, Panel(row, k0), PanelRows(row), sums + row * TKernel.Outputs * Quad);
                    }
                }

                for (int row = 0; row < M; row += TKernel.Rows)
                {
                    Finish(row, j, outputs, sums + row * TKernel.Outputs * Quad);
                }
            }
        }

        /// <summary>A depth block of some rows of w in f32: their own memory, or converted. A block that is not full has any values in the rest.</summary>
        readonly float* Rows(int j, int outputs, int k0, int depth, float* scales, float* converted, out nint stride)
        {
            if (Many.Weight is null && outputs == TKernel.Outputs && PaddedK == K && Many.Stride * sizeof(float) % PageSize != 0)
            {
                stride = (nint)Many.Stride;
                return Many.At(j, k0);
            }

            stride = depth;
            int valid = Math.Min(depth, K - k0);
            for (int r = 0; r < outputs; r++)
            {
                float* to = converted + r * depth;
                if (Nf4)
                {
                    TKernel.DecodeNf4(Many.Weight!, (j + r) * (long)K + k0, valid, scales + (r * K + k0) / Nf4MatVec.Unit, to);
                }
                else if (Many.Weight is not null)
                {
                    WeightReader.Read(Many.Weight, (j + r) * (long)K + k0, valid, to);
                }
                else
                {
                    new ReadOnlySpan<float>(Many.At(j + r, k0), valid).CopyTo(new Span<float>(to, valid));
                }

                new Span<float>(to + valid, depth - valid).Clear();
            }

            return converted;
        }

        /// <summary>Joins the partial sums of a panel's rows, four outputs at a time, and writes them.</summary>
        readonly void Finish(int first, int j, int outputs, float* sums)
        {
            int width = PanelRows(first), rows = Math.Min(width, M - first);
            nint next = width * Quad;
            for (int r = 0; r < rows; r++)
            {
                float* c = C + (first + r) * StrideFew + j * StrideMany, sum = sums + r * Quad;
                for (int o = 0; o < outputs; o += Quad, sum += Quad * next, c += Quad * StrideMany)
                {
                    // With fewer than four left, the rest of the block has no meaning and is not written.
                    var dots = Join(Vector128.Load(sum), Load(sum, next, 1, outputs - o), Load(sum, next, 2, outputs - o), Load(sum, next, 3, outputs - o));
                    Put(dots, Math.Min(Quad, outputs - o), c);
                }
            }
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector128<float> Load(float* sum, nint next, int output, int left) => output < left ? Vector128.Load(sum + output * next) : default;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        static Vector128<float> Join(Vector128<float> first, Vector128<float> second, Vector128<float> third, Vector128<float> fourth) =>
            Sse3.HorizontalAdd(Sse3.HorizontalAdd(first, second), Sse3.HorizontalAdd(third, fourth));

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        readonly void Put(Vector128<float> dots, int count, float* c)
        {
            if (StrideMany == 1 && count == Quad)
            {
                var result = dots * Alpha;
                (Beta == 0 ? result : Simd.Fma(Vector128.Create(Beta), Vector128.Load(c), result)).Store(c);
                return;
            }

            for (int o = 0; o < count; o++, c += StrideMany)
            {
                *c = Beta == 0 ? Alpha * dots[o] : float.FusedMultiplyAdd(Beta, *c, Alpha * dots[o]);
            }
        }
    }
}
