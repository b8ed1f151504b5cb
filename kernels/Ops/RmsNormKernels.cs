// RmsNorm on devices: scales every row to unit root mean square, then by a learned weight. The maths is in RmsNorm.cs.
//
// Maths      x += residual where one is given · y = x · r · w, r = 1/√(Σ x²/D + eps)     in f32
// Grad       with g = dy·w: dx = r·g − x · r³·(Σ g·x)/D · dw[j] += Σ_i dy[i,j]·x[i,j]·r[i]
// Shapes     x, residual, dy, y, dx [n, D] T · w, dw [D] f32 · r [n] f32
// Layout     row-major; y may be x where there is no residual, and dx may be dy
// Launch     a row belongs to as many threads as it has 16-byte packets: up to a warp in powers of two, several rows to a group of 256; else to a group of whole warps, at most 512
//            threads. Groups stay and walk over rows, so that the weight is read once and dw is summed in registers. A packet a thread: rows of up to 4,096 BF16 or 2,048 F32
//            are read once; what is wider is read again, from cache
// Floor      bytes 2·n·D elements forward (4·n·D with a residual), 3·n·D backward (4·n·D if added), and the weight for each group, from cache; bound by memory
// Numerics   r from the stored x; rounded once to T; the order of all sums follows from the shape and the largest group of the device, so runs repeat bit for bit
// Source     Zhang and Sennrich 2019, arXiv:1910.07467, equation 4

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static partial class RmsNormKernels
{
    /// <summary>Two groups of this many share a multiprocessor: one loads while the other waits for its sum.</summary>
    const int MaxRowThreads = 512;

    /// <summary>Threads of a launch: 1,024 for each multiprocessor of a large GPU. Each row's owner among them has its own part of dw.</summary>
    const int ResidentThreads = 132 * 1024;

    /// <inheritdoc cref="Backend.RmsNormForward" />
    public static void Forward<T>(KernelDevice device, Slice x, Slice weight, double eps, Slice y, Slice rstd, Slice residual) where T : unmanaged, IElement<T>
    {
        const string Operation = "RmsNormForward";
        long rows = Check<T>(Operation, x, weight, rstd);
        Expect.Elements(Operation, T.Type, x.Length, (nameof(y), y));
        Expect.Optional(Operation, nameof(residual), residual, T.Type, x.Length);
        var (shape, layout) = Plan<T>(device, rows, weight, x, y, residual);
        var buffers = device.Buffers;
        device.Launch(ForwardKernel, shape, buffers.View<T>(x), buffers.View<T>(residual), buffers.View<F32>(weight), (float)eps, buffers.View<T>(y), buffers.View<float>(rstd), layout);
    }

    static long Check<T>(string operation, Slice x, Slice weight, Slice rstd) where T : unmanaged, IElement<T>
    {
        Expect.Type(operation, nameof(x), x, T.Type);
        Expect.Type(operation, nameof(weight), weight, DType.F32);
        Expect.That(weight.Length > 0 && x.Length % weight.Length == 0, operation, $"x has {x.Length} elements, expected rows of {weight.Length} as the weight has.");
        long rows = x.Length / weight.Length;
        Expect.Optional(operation, nameof(rstd), rstd, DType.F32, rows);
        return rows;
    }

    static (LaunchShape Shape, Layout Layout) Plan<T>(KernelDevice device, long rows, Slice weight, params ReadOnlySpan<Slice> slices) where T : unmanaged, IElement<T>
    {
        long packets = Packet.Count<T>(weight.Length);
        int most = Math.Min(MaxRowThreads, device.Accelerator.MaxNumThreadsPerGroup);
        int lanes = packets <= 32 ? (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)packets) : (int)Math.Min(most, (packets + 31) / 32 * 32);
        int group = Math.Max(lanes, Math.Min(lanes <= 32 ? LaunchShape.Threads : 0, most)), rowsPerGroup = group / lanes;
        var shape = LaunchShape.Groups(Math.Min((rows + rowsPerGroup - 1) / rowsPerGroup, ResidentThreads / group), group);
        int aligned = Packet.Fits<T>(weight.Length, weight) & Packet.Fits<T>(weight.Length, slices);
        return (shape, new Layout { Rows = rows, Width = (int)weight.Length, Lanes = lanes, Aligned = aligned });
    }

    /// <summary>How rows lie in memory and belong to threads.</summary>
    internal struct Layout
    {
        /// <summary>n.</summary>
        public long Rows;

        /// <summary>D.</summary>
        public int Width;

        /// <summary>Threads of a row.</summary>
        public int Lanes;

        /// <summary>Not 0 if rows consist of whole packets.</summary>
        public int Aligned;
    }

    static void ForwardKernel<T>(ArrayView<T> x, ArrayView<T> residual, ArrayView<F32> weight, float eps, ArrayView<T> y, ArrayView<float> rstd, Layout layout)
        where T : unmanaged, IElement<T>
    {
        var shared = SharedMemory.Allocate<float>(Reductions.SharedFloats);
        if (layout.Aligned != 0)
        {
            Forward(x, residual, weight, eps, y, rstd, layout, shared, whole: true);
        }
        else
        {
            Forward(x, residual, weight, eps, y, rstd, layout, shared, whole: false);
        }
    }

    static void Forward<T>(ArrayView<T> x, ArrayView<T> residual, ArrayView<F32> weight, float eps, ArrayView<T> y, ArrayView<float> rstd, Layout layout, ArrayView<float> shared, bool whole)
        where T : unmanaged, IElement<T>
    {
        int width = layout.Width, lanes = layout.Lanes, owner = Group.IdxX / lanes, owners = Group.DimX / lanes;
        int column = (Group.IdxX - owner * lanes) * Packet.Size<T>(), step = lanes * Packet.Size<T>(), turn = 0;
        var w = column < width ? Packet.Load<F32, T>(weight, column, width, whole) : default;

        // A group goes on until its last row is done, since its threads sum together: those beyond the rows or columns add zeros.
        for (long first = (long)Grid.IdxX * owners; first < layout.Rows; first += (long)Grid.DimX * owners)
        {
            long row = first + owner, start = row * width, end = start + width;
            bool busy = row < layout.Rows && column < width;
            var a = busy ? Summand(x, residual, start + column, end, whole) : default;
            float squares = Packet.Sum<T>(a * a);
            for (int j = column + step; j < width; j += step)
            {
                var more = Summand(x, residual, start + j, end, whole);
                squares += Packet.Sum<T>(more * more);
            }

            squares = Reductions.Sum(squares, lanes, shared, turn);
            turn ^= 1;
            float r = 1 / XMath.Sqrt(squares / width + eps);
            if (busy)
            {
                (r * a * w).Store(y, start + column, end, whole);
                if (column == 0 && rstd.Length > 0)
                {
                    rstd[row] = r;
                }
            }

            for (int j = column + step; j < width; j += step)
            {
                (r * Packet.Load(x, start + j, end, whole) * Packet.Load<F32, T>(weight, j, width, whole)).Store(y, start + j, end, whole);
            }
        }
    }

    /// <summary>x, to which the residual is added first where there is one.</summary>
    static Packet Summand<T>(ArrayView<T> x, ArrayView<T> residual, long first, long end, bool whole) where T : unmanaged, IElement<T>
    {
        if (residual.Length == 0)
        {
            return Packet.Load(x, first, end, whole);
        }

        var a = (Packet.Load(x, first, end, whole) + Packet.Load(residual, first, end, whole)).Rounded<T>();
        a.Store(x, first, end, whole);
        return a;
    }
}
