// MatVec: the product for one row, as in decoding a token: one dot product per output, no packing. Where FewRows does not run, also for up to 16 rows.
//
// Maths      c[i,j] = beta·c[i,j] + alpha·Σ_k x[i,k]·w[j,k]; eight partial sums per output (four for f64), joined at the end
// Shapes     x [m ≤ 16, K] dense, w [n, K] dense or stored; c by two strides, so that it serves x·Wᵀ and the mirrored W·xᵀ
// Layout     w row-major, read once and in order. Rows that are not dense in T are converted in registers for one row of x (Nf4MatVec, Bf16MatVec), else four at
//            a time into scratch
// Floor      the bytes of w: bound by memory for m = 1, by FMA above about 4 rows
// Numerics   as Gemm; an output does not depend on the neighbours that share its register block
// Source     none beyond Gemm's

using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

static unsafe class MatVec
{
    const int MaxRows = 16;
    const int WeightsPerTask = 1 << 16; // some 10 µs
    const int RowsTogether = 4;

    /// <summary>Whether a product with <paramref name="rows"/> rows of <paramref name="few"/> is faster here than packed.</summary>
    public static bool Suits<T>(int rows, in Operand<T> few, in Operand<T> many) where T : unmanaged =>
        rows <= MaxRows && few.Weight is null && few.DepthAlongRows && many.DepthAlongRows;

    /// <summary>c at i·strideFew + j·strideMany = beta·c + alpha·(few row i · many row j), for i &lt; m and j &lt; n.</summary>
    public static void Multiply<T>(int m, int n, int k, T alpha, in Operand<T> few, in Operand<T> many, T beta, T* c, long strideFew, long strideMany)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        bool inRegisters = m == 1 && typeof(T) == typeof(float) && many.Weight is not null;
        bool nf4 = inRegisters && Nf4MatVec.Supports(many.Weight!), bf16 = inRegisters && Bf16MatVec.Supports(many.Weight!);
        var input = few;
        if (nf4 || bf16)
        {
            T* permuted = Scratch.Get<T>(ScratchSlot.PermutedInput, k);
            if (nf4)
            {
                Nf4MatVec.Permute((float*)few.At(0, 0), (float*)permuted, k);
            }
            else
            {
                Bf16MatVec.Permute((float*)few.At(0, 0), (float*)permuted, k);
            }

            input = new Operand<T>((nint)permuted, k, true);
        }

        int rowsPerTask = RowsTogether * Math.Max(1, WeightsPerTask / RowsTogether / Math.Max(1, k));
        Workers.Run((n + rowsPerTask - 1) / rowsPerTask, new Job<T>
        {
            Few = input, Many = many, Nf4 = nf4, Bf16 = bf16, C = c, StrideFew = strideFew, StrideMany = strideMany,
            M = m, N = n, K = k, RowsPerTask = rowsPerTask, Alpha = alpha, Beta = beta,
        });
    }

    struct Job<T> : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public Operand<T> Few, Many;
        public bool Nf4, Bf16;
        public T* C;
        public long StrideFew, StrideMany;
        public int M, N, K, RowsPerTask;
        public T Alpha, Beta;

        public readonly void Run(int index)
        {
            int first = index * RowsPerTask, last = Math.Min(first + RowsPerTask, N);
            if (Nf4)
            {
                float* scales = Nf4MatVec.Scales(Many.Weight!, first * (long)K, (last - first) * K);
                int j = first, units = K / Nf4MatVec.Unit;
                for (; j + 3 < last; j += 4, scales += 4 * units)
                {
                    var dots = Nf4MatVec.Dot4(Many.Weight!, j * (long)K, K, scales, (float*)Few.Values);
                    for (int r = 0; r < 4; r++)
                    {
                        Put(0, j + r, T.CreateTruncating(dots[r]));
                    }
                }

                for (; j < last; j++, scales += units)
                {
                    Put(0, j, T.CreateTruncating(Nf4MatVec.Dot(Many.Weight!, j * (long)K, K, scales, (float*)Few.Values)));
                }

                return;
            }

            if (Bf16)
            {
                for (int j = first; j < last; j++)
                {
                    Put(0, j, T.CreateTruncating(Bf16MatVec.Dot((ushort*)Many.Weight!.Values.Address + j * (long)K, K, (float*)Few.Values)));
                }

                return;
            }

            for (int j = first; j < last; j += RowsTogether)
            {
                int rows = Math.Min(RowsTogether, last - j);
                T* w = Rows(j, rows);
                long stride = Many.Weight is null ? Many.Stride : K;
                if (rows == RowsTogether)
                {
                    int i = 0;
                    for (; i + 1 < M; i += 2)
                    {
                        Dots4x2(w, stride, i, j);
                    }

                    if (i < M)
                    {
                        Dots4x1(w, stride, i, j);
                    }

                    continue;
                }

                for (int r = 0; r < rows; r++)
                {
                    for (int i = 0; i < M; i++)
                    {
                        Dot(w + r * stride, i, j + r);
                    }
                }
            }
        }

        /// <summary>Rows of the weight in T: its own memory, or converted into this thread's scratch.</summary>
        readonly T* Rows(int first, int count)
        {
            if (Many.Weight is null)
            {
                return Many.At(first, 0);
            }

            T* rows = Scratch.Get<T>(ScratchSlot.DecodedRows, (long)RowsTogether * K);
            WeightReader.Read(Many.Weight, first * (long)K, count * K, rows);
            return rows;
        }

        readonly void Dots4x2(T* w, long stride, int i, int j)
        {
            T* x = Few.At(i, 0), y = Few.At(i + 1, 0);
            Vector256<T> x0 = default, x1 = default, x2 = default, x3 = default, y0 = default, y1 = default, y2 = default, y3 = default;
            int k = 0;
            for (; k <= K - Vector256<T>.Count; k += Vector256<T>.Count)
            {
                var xk = Vector256.Load(x + k);
                var yk = Vector256.Load(y + k);
                var row = Vector256.Load(w + k);
                x0 = Simd.Fma(row, xk, x0);
                y0 = Simd.Fma(row, yk, y0);
                row = Vector256.Load(w + stride + k);
                x1 = Simd.Fma(row, xk, x1);
                y1 = Simd.Fma(row, yk, y1);
                row = Vector256.Load(w + 2 * stride + k);
                x2 = Simd.Fma(row, xk, x2);
                y2 = Simd.Fma(row, yk, y2);
                row = Vector256.Load(w + 3 * stride + k);
                x3 = Simd.Fma(row, xk, x3);
                y3 = Simd.Fma(row, yk, y3);
            }

            Put(i, j, Finish(x0, w, x, k));
            Put(i, j + 1, Finish(x1, w + stride, x, k));
            Put(i, j + 2, Finish(x2, w + 2 * stride, x, k));
            Put(i, j + 3, Finish(x3, w + 3 * stride, x, k));
            Put(i + 1, j, Finish(y0, w, y, k));
            Put(i + 1, j + 1, Finish(y1, w + stride, y, k));
            Put(i + 1, j + 2, Finish(y2, w + 2 * stride, y, k));
            Put(i + 1, j + 3, Finish(y3, w + 3 * stride, y, k));
        }

        readonly void Dots4x1(T* w, long stride, int i, int j)
        {
            T* x = Few.At(i, 0);
            Vector256<T> x0 = default, x1 = default, x2 = default, x3 = default;
            int k = 0;
            for (; k <= K - Vector256<T>.Count; k += Vector256<T>.Count)
            {
                var xk = Vector256.Load(x + k);
                x0 = Simd.Fma(Vector256.Load(w + k), xk, x0);
                x1 = Simd.Fma(Vector256.Load(w + stride + k), xk, x1);
                x2 = Simd.Fma(Vector256.Load(w + 2 * stride + k), xk, x2);
                x3 = Simd.Fma(Vector256.Load(w + 3 * stride + k), xk, x3);
            }

            Put(i, j, Finish(x0, w, x, k));
            Put(i, j + 1, Finish(x1, w + stride, x, k));
            Put(i, j + 2, Finish(x2, w + 2 * stride, x, k));
            Put(i, j + 3, Finish(x3, w + 3 * stride, x, k));
        }

        readonly void Dot(T* w, int i, int j)
        {
            T* x = Few.At(i, 0);
            Vector256<T> sum = default;
            int k = 0;
            for (; k <= K - Vector256<T>.Count; k += Vector256<T>.Count)
            {
                sum = Simd.Fma(Vector256.Load(w + k), Vector256.Load(x + k), sum);
            }

            Put(i, j, Finish(sum, w, x, k));
        }

        /// <summary>Joins the partial sums and adds the elements past the last whole vector.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        readonly T Finish(Vector256<T> sums, T* w, T* x, int k)
        {
            T sum = Vector256.Sum(sums);
            for (; k < K; k++)
            {
                sum = T.FusedMultiplyAdd(w[k], x[k], sum);
            }

            return sum;
        }

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        readonly void Put(int i, int j, T dot)
        {
            T* at = C + i * StrideFew + j * StrideMany;
            *at = Beta == T.Zero ? Alpha * dot : T.FusedMultiplyAdd(Beta, *at, Alpha * dot);
        }
    }
}
