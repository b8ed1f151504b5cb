// RmsNorm: scales every row to unit root mean square, then by a learned weight.
//
// Maths      x += residual where one is given · y = x · r · w, r = 1/√(Σ x²/D + eps)
// Grad       with g = dy·w: dx = r·g − x · r³·(Σ g·x)/D · dw[j] += Σ_i dy[i,j]·x[i,j]·r[i]
// Shapes     x, residual, dy, y, dx [n, D] · w, dw [D] · r [n]
// Layout     row-major; y may be x, and dx may be dy
// Floor      bytes 2·n·D elements forward, 3·n·D backward (+ n·D with dw): the second read of a row finds it in cache
// Numerics   sums over D in T, in vector lanes; dw adds rows in order, columns shared out to threads: the same for any number of them
// Source     Zhang and Sennrich 2019, arXiv:1910.07467, equation 4

using System.Numerics;
using System.Numerics.Tensors;

namespace IlgpuPeft.Kernels;

static unsafe class RmsNorm
{
    public static void Forward<T>(Slice x, Slice weight, double eps, Slice y, Slice rstd, Slice residual) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        long rows = Check<T>("RmsNormForward", x, weight, rstd);
        Expect.Element<T>("RmsNormForward", nameof(y), y);
        Expect.Length("RmsNormForward", nameof(y), y, x.Length);
        Expect.Optional<T>("RmsNormForward", nameof(residual), residual, x.Length);
        if (!residual.IsEmpty)
        {
            Elementwise.Add<T>(residual, 1, x);
        }

        int width = (int)weight.Length;
        Partition parts = Partition.Rows(rows, width);
        Workers.Run(parts.Count, new ForwardJob<T>(x.Pointer<T>(), weight.Pointer<T>(), T.CreateTruncating(eps), y.Pointer<T>(), rstd.Pointer<T>(), width, parts));
    }

    public static void Backward<T>(Slice dy, Slice x, Slice weight, Slice rstd, Slice dx, bool accumulate, Slice dWeight) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "RmsNormBackward";
        long rows = Check<T>(Operation, x, weight, rstd);
        Expect.That(!rstd.IsEmpty, Operation, "rstd is left out, expected what the forward pass kept.");
        Expect.Element<T>(Operation, nameof(dy), dy);
        Expect.Length(Operation, nameof(dy), dy, x.Length);
        int width = (int)weight.Length;
        if (!dWeight.IsEmpty)
        {
            Expect.Element<T>(Operation, nameof(dWeight), dWeight);
            Expect.Length(Operation, nameof(dWeight), dWeight, width);
            Partition columns = Partition.Columns(width);
            Workers.Run(columns.Count, new WeightJob<T>(dy.Pointer<T>(), x.Pointer<T>(), rstd.Pointer<T>(), dWeight.Pointer<T>(), rows, width, columns));
        }

        if (!dx.IsEmpty)
        {
            Expect.Element<T>(Operation, nameof(dx), dx);
            Expect.Length(Operation, nameof(dx), dx, x.Length);
            Partition parts = Partition.Rows(rows, width);
            Workers.Run(parts.Count, new BackwardJob<T>(dy.Pointer<T>(), x.Pointer<T>(), weight.Pointer<T>(), rstd.Pointer<T>(), dx.Pointer<T>(), accumulate, width, parts));
        }
    }

    static long Check<T>(string operation, Slice x, Slice weight, Slice rstd)
    {
        Expect.Element<T>(operation, nameof(x), x);
        Expect.Element<T>(operation, nameof(weight), weight);
        Expect.That(weight.Length > 0 && x.Length % weight.Length == 0, operation, $"x has {x.Length} elements, expected rows of {weight.Length} as the weight has.");
        long rows = x.Length / weight.Length;
        if (!rstd.IsEmpty)
        {
            Expect.Element<T>(operation, nameof(rstd), rstd);
            Expect.Length(operation, nameof(rstd), rstd, rows);
        }

        return rows;
    }

    readonly struct ForwardJob<T>(T* x, T* weight, T eps, T* y, T* rstd, int width, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            for (long row = start; row < end; row++)
            {
                T* from = x + row * width, to = y + row * width;
                T mean = TensorPrimitives.SumOfSquares(new ReadOnlySpan<T>(from, width)) / T.CreateTruncating(width);
                T r = T.One / T.Sqrt(mean + eps);
                if (rstd != null)
                {
                    rstd[row] = r;
                }

                Vector<T> factor = new(r);
                int j = 0;
                for (; j <= width - Vector<T>.Count; j += Vector<T>.Count)
                {
                    (Vector.Load(from + j) * factor * Vector.Load(weight + j)).Store(to + j);
                }

                for (; j < width; j++)
                {
                    to[j] = from[j] * r * weight[j];
                }
            }
        }
    }

    readonly struct BackwardJob<T>(T* dy, T* x, T* weight, T* rstd, T* dx, bool accumulate, int width, Partition parts) : IJob
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            for (long row = start; row < end; row++)
            {
                T* d = dy + row * width, v = x + row * width, to = dx + row * width;
                T r = rstd[row];
                T slope = r * r * r * WeightedDot(d, weight, v, width) / T.CreateTruncating(width);
                Vector<T> rs = new(r), slopes = new(slope);
                int j = 0;
                for (; j <= width - Vector<T>.Count; j += Vector<T>.Count)
                {
                    Vector<T> gradient = Vector.Load(d + j) * Vector.Load(weight + j) * rs - Vector.Load(v + j) * slopes;
                    (accumulate ? Vector.Load(to + j) + gradient : gradient).Store(to + j);
                }

                for (; j < width; j++)
                {
                    T gradient = d[j] * weight[j] * r - v[j] * slope;
                    to[j] = accumulate ? to[j] + gradient : gradient;
                }
            }
        }
    }

    /// <summary>Σ a·b·c, in two vector accumulators: one alone would wait for its own last addition.</summary>
    static T WeightedDot<T>(T* a, T* b, T* c, int length) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Vector<T> even = Vector<T>.Zero, odd = Vector<T>.Zero;
        int i = 0, step = Vector<T>.Count;
        for (; i <= length - 2 * step; i += 2 * step)
        {
            even += Vector.Load(a + i) * Vector.Load(b + i) * Vector.Load(c + i);
            odd += Vector.Load(a + i + step) * Vector.Load(b + i + step) * Vector.Load(c + i + step);
        }

        T sum = Vector.Sum(even + odd);
        for (; i < length; i++)
        {
            sum += a[i] * b[i] * c[i];
        }

        return sum;
    }

    readonly struct WeightJob<T>(T* dy, T* x, T* rstd, T* dWeight, long rows, int width, Partition columns) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = columns[index];
            for (long row = 0; row < rows; row++)
            {
                T* d = dy + row * width, v = x + row * width;
                Vector<T> r = new(rstd[row]);
                long j = start;
                for (; j <= end - Vector<T>.Count; j += Vector<T>.Count)
                {
                    (Vector.Load(dWeight + j) + Vector.Load(d + j) * Vector.Load(v + j) * r).Store(dWeight + j);
                }

                for (; j < end; j++)
                {
                    dWeight[j] += d[j] * v[j] * rstd[row];
                }
            }
        }
    }
}
