// Elementwise: copy with conversion, fill, scaled addition, and the Euclidean norm.
//
// Maths      copy y = round(x), once, to nearest even · fill y = c · add y += s·x · norm r = √Σ x², the sum in f64
// Shapes     x [n] → y [n]; norm → r [1]
// Layout     contiguous; source and destination of a copy may overlap only where their types are equal
// Floor      bytes read + written: every operation is one pass and bound by memory
// Numerics   the norm adds up in at most 64 parts whose bounds follow from n alone, so that it does not depend on the number of threads

using System.Numerics;
using System.Numerics.Tensors;

namespace IlgpuPeft.Kernels;

static unsafe class Elementwise
{
    const int Tile = 1024;
    const int NormParts = 64;

    public static void Copy(Slice source, Slice destination)
    {
        Expect.Length(nameof(Copy), nameof(destination), destination, source.Length);
        if (source.Type == destination.Type)
        {
            Buffer.MemoryCopy((void*)source.Address, (void*)destination.Address, destination.Bytes, source.Bytes);
        }
        else if (source.Type == DType.F64 || destination.Type == DType.F64)
        {
            Convert<double>(source, destination);
        }
        else
        {
            Convert<float>(source, destination);
        }
    }

    public static void Fill(Slice destination, double value)
    {
        int size = destination.Type.Size();
        byte* first = (byte*)destination.Address;
        for (long start = 0; start < destination.Length; start += int.MaxValue / 8)
        {
            int length = (int)Math.Min(int.MaxValue / 8, destination.Length - start);
            void* part = first + start * size;
            switch (destination.Type)
            {
                case DType.F32:
                    new Span<float>(part, length).Fill((float)value);
                    break;
                case DType.F64:
                    new Span<double>(part, length).Fill(value);
                    break;
                case DType.F16:
                    new Span<Half>(part, length).Fill((Half)value);
                    break;
                case DType.BF16:
                    new Span<ushort>(part, length).Fill(Conversion.ToBFloat16(value));
                    break;
                case DType.U8:
                    new Span<byte>(part, length).Fill(checked((byte)value));
                    break;
                case DType.I32:
                    new Span<int>(part, length).Fill(checked((int)value));
                    break;
                case DType.I64:
                    new Span<long>(part, length).Fill(checked((long)value));
                    break;
                default:
                    throw new ArgumentException($"Fill: unknown element type {destination.Type}.", nameof(destination));
            }
        }
    }

    public static void Add<T>(Slice x, double scale, Slice y) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Expect.Element<T>(nameof(Add), nameof(x), x);
        Expect.Element<T>(nameof(Add), nameof(y), y);
        Expect.Length(nameof(Add), nameof(y), y, x.Length);
        AddRange(x.Pointer<T>(), T.CreateTruncating(scale), y.Pointer<T>(), 0, x.Length);
    }

    public static void Norm<T>(Slice x, Slice result) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Expect.Element<T>(nameof(Norm), nameof(x), x);
        Expect.Element<T>(nameof(Norm), nameof(result), result);
        Expect.Length(nameof(Norm), nameof(result), result, 1);
        double* parts = stackalloc double[NormParts];
        NormRange(x.Pointer<T>(), x.Length, parts, 0, NormParts);
        double sum = 0;
        for (int i = 0; i < NormParts; i++)
        {
            sum += parts[i];
        }

        *result.Pointer<T>() = T.CreateTruncating(Math.Sqrt(sum));
    }

    static void AddRange<T>(T* x, T scale, T* y, long start, long end) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Vector<T> scales = new(scale);
        long i = start;
        for (; i <= end - Vector<T>.Count; i += Vector<T>.Count)
        {
            (Vector.Load(x + i) * scales + Vector.Load(y + i)).Store(y + i);
        }

        for (; i < end; i++)
        {
            y[i] += scale * x[i];
        }
    }

    static void NormRange<T>(T* x, long length, double* sums, int firstPart, int endPart) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        long size = (length + NormParts - 1) / NormParts;
        Span<double> tile = stackalloc double[Tile];
        for (int part = firstPart; part < endPart; part++)
        {
            double sum = 0;
            long end = Math.Min(length, (part + 1) * size);
            for (long i = part * size; i < end; i += Tile)
            {
                Span<double> values = tile[..(int)Math.Min(Tile, end - i)];
                TensorPrimitives.ConvertTruncating(new ReadOnlySpan<T>(x + i, values.Length), values);
                sum += TensorPrimitives.SumOfSquares<double>(values);
            }

            sums[part] = sum;
        }
    }

    static void Convert<T>(Slice source, Slice destination) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Span<T> tile = stackalloc T[Tile];
        for (long i = 0; i < source.Length; i += Tile)
        {
            Span<T> values = tile[..(int)Math.Min(Tile, source.Length - i)];
            Conversion.Read(source, i, values);
            Conversion.Write<T>(values, destination, i);
        }
    }
}
