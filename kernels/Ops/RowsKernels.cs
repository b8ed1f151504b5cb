// Rows on devices: copies rows out by index, and writes or adds them back. The maths is in Rows.cs.
//
// Maths      gather y[i] = x[rows[i]] · scatter y[rows[i]] (+)= x[i]     added up in f32
// Shapes     gather x [M, width] F32, BF16 or F16 · rows [n] i32 → y [n, width] T; scatter x [n, width] T · rows [n] i32 → y [M, width]
// Layout     row-major
// Launch     a group of 32 to 256 threads for each i, 16 bytes a thread at a time; adding, for each i and 256 times 16 bytes of a row
// Floor      bytes 2·n·width elements (gather, scatter), n·width + 2·(different rows)·width (adding), + 4·n for the indices; bound by memory
// Numerics   gather exact, or rounded once to T. Of repeated rows the last stays, or all are added in the order of i and rounded once. An index outside the matrix, which the host
//            refuses, reads zeros here and writes nothing
//
// Repeated rows need an owner: to write a row, a group first looks for its index among those after i; to add, one launch notes for every i whether it is the first of its index and
// which is the next, and the first ones then follow their chain. Both read n indices for each i, 4·n² bytes from cache: at n = 16,384 about as long as moving rows of 4,096.

using ILGPU;

namespace IlgpuPeft.Kernels;

static class RowsKernels
{
    const int LinkThreads = 128;

    /// <inheritdoc cref="Backend.GatherRows" />
    public static void Gather<T>(KernelDevice device, Slice x, Slice rows, int width, Slice y) where T : unmanaged, IElement<T>
    {
        const string Operation = "GatherRows";
        Check(Operation, T.Type, nameof(x), x, nameof(y), y, rows, width);
        Gather<T, T>(device, x, rows, width, y);
    }

    /// <summary>y[i] = x[rows[i]], converted.</summary>
    public static void Gather<TFrom, T>(KernelDevice device, Slice x, Slice rows, int width, Slice y) where TFrom : unmanaged, IElement<TFrom> where T : unmanaged, IElement<T>
    {
        int words = TFrom.Type == T.Type ? WordsPerRow(width, x, y) : 0;
        device.Launch(GatherKernel, Shape(rows.Length, words > 0 ? words : width), device.Buffers.View<TFrom>(x), device.Buffers.View<int>(rows), device.Buffers.View<T>(y), width, words);
    }

    /// <inheritdoc cref="Backend.ScatterRows" />
    public static void Scatter<T>(KernelDevice device, ScratchBuffers scratch, Slice x, Slice rows, int width, Slice y, bool accumulate) where T : unmanaged, IElement<T>
    {
        Check("ScatterRows", T.Type, nameof(y), y, nameof(x), x, rows, width);
        if (accumulate)
        {
            ScatterAdd<T, T>(device, scratch, x, rows, width, y);
            return;
        }

        int words = WordsPerRow(width, x, y);
        device.Launch(ScatterKernel, Shape(rows.Length, words > 0 ? words : width), device.Buffers.View<T>(x), device.Buffers.View<int>(rows), device.Buffers.View<T>(y), width, words);
    }

    /// <summary>y[rows[i]] += x[i], in the order of i.</summary>
    public static void ScatterAdd<TFrom, TTo>(KernelDevice device, ScratchBuffers scratch, Slice x, Slice rows, int width, Slice y)
        where TFrom : unmanaged, IElement<TFrom> where TTo : unmanaged, IElement<TTo>
    {
        if (rows.Length == 0)
        {
            return;
        }

        var buffers = device.Buffers;
        var links = buffers.View<Link>(scratch.Get("row links", DType.I64, rows.Length)).SubView(0, rows.Length);
        device.Launch(LinkKernel, LaunchShape.Groups(rows.Length, LinkThreads), buffers.View<int>(rows), links);
        long packets = Packet.Count<TFrom>(width);
        int threads = Threads(packets);
        var shape = new LaunchShape(new Index3D(checked((int)rows.Length), (int)((packets + threads - 1) / threads), 1), threads);
        device.Launch(AddKernel, shape, buffers.View<TFrom>(x), buffers.View<int>(rows), links, buffers.View<TTo>(y), width, Packet.Fits<TFrom>(width, x, y));
    }

    static void Check(string operation, DType type, string indexedName, Slice indexed, string denseName, Slice dense, Slice rows, int width)
    {
        Expect.Type(operation, indexedName, indexed, type);
        Expect.Type(operation, denseName, dense, type);
        Expect.Type(operation, nameof(rows), rows, DType.I32);
        Expect.That(width > 0 && indexed.Length % width == 0, operation, $"{indexed.Length} elements are not rows of {width}.");
        Expect.Length(operation, denseName, dense, rows.Length * width);
    }

    /// <summary>16-byte words of a row, or 0 if rows do not consist of them.</summary>
    static int WordsPerRow(int width, Slice x, Slice y)
    {
        int bytes = width * x.Type.Size();
        return bytes % 16 == 0 && x.Address % 16 == 0 && y.Address % 16 == 0 ? bytes / 16 : 0;
    }

    static LaunchShape Shape(long rows, int units) => LaunchShape.Groups(rows, Threads(units));

    /// <summary>Threads for a row: no more than it keeps busy, in few different numbers, since each is compiled for itself.</summary>
    static int Threads(long units) => units <= 32 ? 32 : units <= 64 ? 64 : units <= 128 ? 128 : LaunchShape.Threads;

    static void GatherKernel<TFrom, T>(ArrayView<TFrom> x, ArrayView<int> rows, ArrayView<T> y, int width, int words) where TFrom : unmanaged, IElement<TFrom> where T : unmanaged, IElement<T>
    {
        long to = Grid.IdxX, from = rows[to];
        bool inside = from >= 0 && (from + 1) * width <= x.Length;
        if (words > 0)
        {
            var source = x.Cast<Word4>();
            var target = y.Cast<Word4>();
            for (int j = Group.IdxX; j < words; j += Group.DimX)
            {
                target[to * words + j] = inside ? source[from * words + j] : default;
            }
        }
        else
        {
            for (int j = Group.IdxX; j < width; j += Group.DimX)
            {
                y[to * width + j] = T.Narrow(inside ? TFrom.Widen(x[from * width + j]) : 0);
            }
        }
    }

    static void ScatterKernel<T>(ArrayView<T> x, ArrayView<int> rows, ArrayView<T> y, int width, int words) where T : unmanaged
    {
        long from = Grid.IdxX, to = rows[from];
        bool skipped = to < 0 || (to + 1) * width > y.Length;
        for (long i = from + 1 + Group.IdxX; i < rows.Length; i += Group.DimX)
        {
            skipped |= rows[i] == to; // a later row overwrites this one
        }

        if (Group.BarrierOr(skipped))
        {
            return;
        }

        if (words > 0)
        {
            var source = x.Cast<Word4>();
            var target = y.Cast<Word4>();
            for (int j = Group.IdxX; j < words; j += Group.DimX)
            {
                target[to * words + j] = source[from * words + j];
            }
        }
        else
        {
            for (int j = Group.IdxX; j < width; j += Group.DimX)
            {
                y[to * width + j] = x[from * width + j];
            }
        }
    }

    /// <summary>Where a row index occurs again.</summary>
    internal struct Link
    {
        /// <summary>1 where no earlier row has this index.</summary>
        public int IsFirst;

        /// <summary>The next row with this index; the number of rows where there is none.</summary>
        public int Next;
    }

    static void LinkKernel(ArrayView<int> rows, ArrayView<Link> links)
    {
        var least = SharedMemory.Allocate<int>(1);
        int i = Grid.IdxX, count = rows.IntLength, row = rows[i], next = count;
        bool earlier = false;
        for (int j = Group.IdxX; j < i; j += Group.DimX)
        {
            earlier |= rows[j] == row;
        }

        for (int j = i + 1 + Group.IdxX; j < count && next == count; j += Group.DimX)
        {
            next = rows[j] == row ? j : count;
        }

        if (Group.IdxX == 0)
        {
            least[0] = count;
        }

        bool isFirst = !Group.BarrierOr(earlier); // and least is written
        if (next < count)
        {
            Atomic.Min(ref least[0], next);
        }

        Group.Barrier(); // every thread's minimum is in
        if (Group.IdxX == 0)
        {
            links[i] = new Link { IsFirst = isFirst ? 1 : 0, Next = least[0] };
        }
    }

    static void AddKernel<TFrom, TTo>(ArrayView<TFrom> x, ArrayView<int> rows, ArrayView<Link> links, ArrayView<TTo> y, int width, int aligned)
        where TFrom : unmanaged, IElement<TFrom> where TTo : unmanaged, IElement<TTo>
    {
        long i = Grid.IdxX, row = rows[i];
        int column = (Grid.IdxY * Group.DimX + Group.IdxX) * Packet.Size<TFrom>();
        if (links[i].IsFirst == 0 || row < 0 || (row + 1) * width > y.Length || column >= width)
        {
            return;
        }

        if (aligned != 0)
        {
            AddChain(x, links, y, i, column, row * width, width, whole: true);
        }
        else
        {
            AddChain(x, links, y, i, column, row * width, width, whole: false);
        }
    }

    static void AddChain<TFrom, TTo>(ArrayView<TFrom> x, ArrayView<Link> links, ArrayView<TTo> y, long i, int column, long to, int width, bool whole)
        where TFrom : unmanaged, IElement<TFrom> where TTo : unmanaged, IElement<TTo>
    {
        var sum = Packet.Load<TTo, TFrom>(y, to + column, to + width, whole);
        while (i < links.Length)
        {
            long from = i * width;
            i = links[i].Next;
            sum += Packet.Load(x, from + column, from + width, whole);
        }

        sum.Store<TTo, TFrom>(y, to + column, to + width, whole);
    }
}
