// Rows: copies rows out by index, and writes or adds them back.
//
// Maths      gather y[i] = x[rows[i]] · scatter y[rows[i]] (+)= x[i]
// Shapes     gather x [M, width] · rows [n] i32 → y [n, width]; scatter x [n, width] · rows [n] i32 → y [M, width]
// Layout     row-major
// Floor      bytes 2·n·width elements (gather), 3·n·width (scatter); bound by memory
// Numerics   gather exact; scatter goes in the order of i, so that of repeated rows the last stays, or all add up in that order: threads share out
//            columns, not rows, and every element has one writer

using System.Numerics;

namespace IlgpuPeft.Kernels;

static unsafe class Rows
{
    public static void Gather<T>(Slice x, Slice rows, int width, Slice y) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Check<T>("GatherRows", x, rows, width, y, x, y);
        Partition parts = Partition.Rows(rows.Length, width);
        Workers.Run(parts.Count, new GatherJob<T>(x.Pointer<T>(), rows.Pointer<int>(), width, y.Pointer<T>(), parts));
    }

    public static void Scatter<T>(Slice x, Slice rows, int width, Slice y, bool accumulate) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Check<T>("ScatterRows", x, rows, width, y, y, x);
        ScatterInOrder(x.Pointer<T>(), rows.Pointer<int>(), rows.Length, width, y.Pointer<T>(), accumulate);
    }

    /// <summary>y[rows[i]] (+)= x[i] for rows that are known to lie in y.</summary>
    public static void ScatterInOrder<T>(T* x, int* rows, long count, int width, T* y, bool accumulate) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Partition parts = Partition.Columns(width);
        Workers.Run(parts.Count, new ScatterJob<T>(x, rows, count, width, y, accumulate, parts));
    }

    /// <param name="operation">Whom to name.</param>
    /// <param name="x">Source.</param>
    /// <param name="rows">Indices.</param>
    /// <param name="width">Elements per row.</param>
    /// <param name="y">Destination.</param>
    /// <param name="indexed">Whichever of x and y the indices point into.</param>
    /// <param name="dense">The other one, with a row for each index.</param>
    static void Check<T>(string operation, Slice x, Slice rows, int width, Slice y, Slice indexed, Slice dense)
    {
        Expect.Element<T>(operation, nameof(x), x);
        Expect.Element<T>(operation, nameof(y), y);
        Expect.Type(operation, nameof(rows), rows, DType.I32);
        Expect.That(width > 0 && indexed.Length % width == 0, operation, $"{indexed.Length} elements are not rows of {width}.");
        Expect.Length(operation, dense == x ? nameof(x) : nameof(y), dense, rows.Length * width);
        int* indices = rows.Pointer<int>();
        for (long i = 0; i < rows.Length; i++)
        {
            if ((uint)indices[i] >= indexed.Length / width)
            {
                throw new ArgumentOutOfRangeException(nameof(rows), $"{operation}: row index {indices[i]} at {i}, expected 0 to {indexed.Length / width - 1}.");
            }
        }
    }

    readonly struct GatherJob<T>(T* x, int* rows, int width, T* y, Partition parts) : IJob where T : unmanaged
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            for (long i = start; i < end; i++)
            {
                new ReadOnlySpan<T>(x + (long)rows[i] * width, width).CopyTo(new Span<T>(y + i * width, width));
            }
        }
    }

    readonly struct ScatterJob<T>(T* x, int* rows, long count, int width, T* y, bool accumulate, Partition columns) : IJob
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = columns[index];
            for (long i = 0; i < count; i++)
            {
                T* from = x + i * width, to = y + (long)rows[i] * width;
                long j = start;
                for (; j <= end - Vector<T>.Count; j += Vector<T>.Count)
                {
                    Vector<T> value = Vector.Load(from + j);
                    (accumulate ? Vector.Load(to + j) + value : value).Store(to + j);
                }

                for (; j < end; j++)
                {
                    to[j] = accumulate ? to[j] + from[j] : from[j];
                }
            }
        }
    }
}
