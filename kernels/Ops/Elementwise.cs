// Elementwise: copy with conversion, fill, scaled addition, and the sums over all elements: the Euclidean norm and the plain sum.
//
// Maths      copy y = round(x), once, to nearest even · fill y = c · add y += s·x · norm r = √Σ x² · sum r (+)= s·Σ x, both in f64
// Shapes     x [n] → y [n]; norm, sum → r [1]
// Layout     contiguous; a copy's source and destination do not overlap
// Floor      bytes read + written: every operation is one pass and bound by memory
// Numerics   norm and sum add up in at most 64 parts whose bounds follow from n alone, so that it does not depend on the number of threads

using System.Numerics;
using System.Numerics.Tensors;

namespace IlgpuPeft.Kernels;

static unsafe class Elementwise
{
    const int Tile = 1024;
    const int SumParts = 64;

    public static void Copy(Slice source, Slice destination)
    {
        Expect.Length(nameof(Copy), nameof(destination), destination, source.Length);
        Partition parts = Partition.Elements(source.Length);
        if (source.Type == destination.Type)
        {
            Workers.Run(parts.Count, new CopyJob(source, destination, parts));
        }
        else if (source.Type == DType.F64 || destination.Type == DType.F64)
        {
            Workers.Run(parts.Count, new ConvertJob<double>(source, destination, parts));
        }
        else
        {
            Workers.Run(parts.Count, new ConvertJob<float>(source, destination, parts));
        }
    }

    public static void Fill(Slice destination, double value)
    {
        switch (destination.Type)
        {
            case DType.F32:
                Fill(destination, (float)value);
                break;
            case DType.F64:
                Fill<double>(destination, value);
                break;
            case DType.F16:
                Fill(destination, (Half)value);
                break;
            case DType.BF16:
                Fill(destination, Conversion.ToBFloat16(value));
                break;
            case DType.U8:
                Fill(destination, checked((byte)value));
                break;
            case DType.I32:
                Fill(destination, checked((int)value));
                break;
            default:
                Fill(destination, checked((long)value));
                break;
        }
    }

    public static void Add<T>(Slice x, double scale, Slice y) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Expect.Element<T>(nameof(Add), nameof(x), x);
        Expect.Element<T>(nameof(Add), nameof(y), y);
        Expect.Length(nameof(Add), nameof(y), y, x.Length);
        Partition parts = Partition.Elements(x.Length);
        Workers.Run(parts.Count, new AddJob<T>(x.Pointer<T>(), T.CreateTruncating(scale), y.Pointer<T>(), parts));
    }

    public static void Norm<T>(Slice x, Slice result) where T : unmanaged, IBinaryFloatingPointIeee754<T> =>
        *Result<T>(nameof(Norm), x, result) = T.CreateTruncating(Math.Sqrt(Total<T>(x, squares: true)));

    public static void Sum<T>(Slice x, double scale, Slice result, bool accumulate) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        T* to = Result<T>(nameof(Sum), x, result);
        double sum = scale * Total<T>(x, squares: false);
        *to = T.CreateTruncating(accumulate ? double.CreateTruncating(*to) + sum : sum);
    }

    static T* Result<T>(string operation, Slice x, Slice result) where T : unmanaged
    {
        Expect.Element<T>(operation, nameof(x), x);
        Expect.Element<T>(operation, nameof(result), result);
        Expect.Length(operation, nameof(result), result, 1);
        return result.Pointer<T>();
    }

    static double Total<T>(Slice x, bool squares) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Partition parts = Partition.Elements(x.Length, SumParts);
        double* sums = stackalloc double[SumParts];
        Workers.Run(parts.Count, new SumJob<T>(x.Pointer<T>(), squares, sums, parts));
        double sum = 0;
        for (int i = 0; i < parts.Count; i++)
        {
            sum += sums[i];
        }

        return sum;
    }

    static void Fill<TElement>(Slice destination, TElement value) where TElement : unmanaged
    {
        Partition parts = Partition.Elements(destination.Length);
        Workers.Run(parts.Count, new FillJob<TElement>(destination.Pointer<TElement>(), value, parts));
    }

    readonly struct CopyJob(Slice source, Slice destination, Partition parts) : IJob
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            Slice from = source.Range(start, end - start), to = destination.Range(start, end - start);
            Buffer.MemoryCopy((void*)from.Address, (void*)to.Address, to.Bytes, from.Bytes);
        }
    }

    readonly struct ConvertJob<T>(Slice source, Slice destination, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            Span<T> tile = stackalloc T[Tile];
            for (long i = start; i < end; i += Tile)
            {
                Span<T> values = tile[..(int)Math.Min(Tile, end - i)];
                Conversion.Read(source, i, values);
                Conversion.Write<T>(values, destination, i);
            }
        }
    }

    readonly struct FillJob<TElement>(TElement* destination, TElement value, Partition parts) : IJob where TElement : unmanaged
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            new Span<TElement>(destination + start, (int)(end - start)).Fill(value);
        }
    }

    readonly struct AddJob<T>(T* x, T scale, T* y, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (i, end) = parts[index];
            Vector<T> scales = new(scale);
            for (; i <= end - Vector<T>.Count; i += Vector<T>.Count)
            {
                (Vector.Load(x + i) * scales + Vector.Load(y + i)).Store(y + i);
            }

            for (; i < end; i++)
            {
                y[i] += scale * x[i];
            }
        }
    }

    readonly struct SumJob<T>(T* x, bool squares, double* sums, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            Span<double> tile = stackalloc double[Tile];
            double sum = 0;
            for (long i = start; i < end; i += Tile)
            {
                Span<double> values = tile[..(int)Math.Min(Tile, end - i)];
                TensorPrimitives.ConvertTruncating(new ReadOnlySpan<T>(x + i, values.Length), values);
                sum += squares ? TensorPrimitives.SumOfSquares<double>(values) : TensorPrimitives.Sum<double>(values);
            }

            sums[index] = sum;
        }
    }
}
