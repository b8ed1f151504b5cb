// Packing: copies a block of an operand into the order in which a micro-kernel reads it.
//
// Shapes     lanes [first, first + lanes) × depth [k0, k0 + depth) of the operand → ⌈lanes/width⌉ panels [depth, width]
// Layout     a panel holds `width` rows of op(A) (or columns of op(B)): element (k, lane) at k·width + lane; missing lanes are zero
// Floor      every element read once and written once, to a buffer that stays in cache; 1/M (or 1/N) of the product's work

using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

/// <summary>One factor of a product: a dense matrix in the computing type, or a stored weight that is converted while it is packed.</summary>
/// <param name="Values">Dense row-major values; null for a stored weight.</param>
/// <param name="Stride">Elements from one stored row to the next.</param>
/// <param name="DepthAlongRows">Whether the summed index runs along stored rows (A plain, B transposed) or across them (A transposed, B plain).</param>
/// <param name="Weight">Read when <paramref name="Values"/> is null.</param>
readonly unsafe record struct Operand<T>(nint Values, long Stride, bool DepthAlongRows, Weight? Weight = null) where T : unmanaged
{
    public T* At(long row, long column) => (T*)Values + row * Stride + column;

    /// <summary>The same factor, where T is known to be <typeparamref name="TOther"/>.</summary>
    public Operand<TOther> As<TOther>() where TOther : unmanaged => new(Values, Stride, DepthAlongRows, Weight);

    /// <summary>The factor that a weight makes: its own memory if it is dense in T.</summary>
    public static Operand<T> From(Weight weight, bool depthAlongRows)
    {
        bool direct = weight.Scales is null && weight.Values.Type == (typeof(T) == typeof(float) ? DType.F32 : DType.F64);
        return new(direct ? weight.Values.Address : 0, weight.Columns, depthAlongRows, direct ? null : weight);
    }
}

static unsafe class Packing
{
    const int Chunk = 384;     // elements of a stored row copied or converted at a time: runs long enough for the hardware to read ahead
    const int PageSize = 4096; // bytes: addresses that far apart compete for the same lines of a first-level cache

    public static void Pack<T>(in Operand<T> source, long first, int lanes, int k0, int depth, int width, T* panels)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        if (!source.DepthAlongRows)
        {
            PackAcross(source, first, lanes, k0, depth, width, panels);
            return;
        }

        for (int lane = 0; lane < lanes; lane += width, panels += (long)width * depth)
        {
            int valid = Math.Min(width, lanes - lane);
            if (source.Weight is null && source.Stride * sizeof(T) % PageSize != 0)
            {
                Transpose(source.At(first + lane, k0), source.Stride, valid, depth, width, panels);
            }
            else
            {
                PackByChunks(source, first + lane, valid, k0, depth, width, panels);
            }
        }
    }

    /// <summary>Rows go through scratch if they must be converted, or if they all fall into the same few lines of the first-level cache.</summary>
    static void PackByChunks<T>(in Operand<T> source, long first, int valid, int k0, int depth, int width, T* panel)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        T* rows = Scratch.Get<T>(ScratchSlot.DecodedRows, (long)width * Chunk);
        for (int k = 0; k < depth; k += Chunk)
        {
            int count = Math.Min(Chunk, depth - k);
            for (int lane = 0; lane < valid; lane++)
            {
                if (source.Weight is { } weight)
                {
                    WeightReader.Read(weight, (first + lane) * weight.Columns + k0 + k, count, rows + lane * Chunk);
                }
                else
                {
                    Copy(source.At(first + lane, k0 + k), rows + lane * Chunk, count);
                }
            }

            Transpose(rows, Chunk, valid, count, width, panel + (long)k * width);
        }
    }

    /// <summary>Stored rows run along the lanes: they are cut into pieces of `width`.</summary>
    static void PackAcross<T>(in Operand<T> source, long first, int lanes, int k0, int depth, int width, T* panels)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        T* converted = source.Weight is null ? null : Scratch.Get<T>(ScratchSlot.DecodedRows, lanes);
        for (int k = 0; k < depth; k++)
        {
            T* row = converted;
            if (source.Weight is null)
            {
                row = source.At(k0 + k, first);
            }
            else
            {
                WeightReader.Read(source.Weight, (k0 + k) * (long)source.Weight.Columns + first, lanes, converted);
            }

            T* panel = panels + (long)k * width;
            int lane = 0;
            for (; lane + width <= lanes; lane += width, panel += (long)width * depth)
            {
                Copy(row + lane, panel, width);
            }

            for (int i = 0; lane < lanes && i < width; i++)
            {
                panel[i] = lane + i < lanes ? row[lane + i] : T.Zero;
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Copy<T>(T* source, T* destination, int count) where T : unmanaged
    {
        int i = 0;
        for (; i <= count - Vector256<T>.Count; i += Vector256<T>.Count)
        {
            Vector256.Load(source + i).Store(destination + i);
        }

        for (; i < count; i++)
        {
            destination[i] = source[i];
        }
    }

    /// <summary>`valid` rows of `depth` elements → [depth, width].</summary>
    static void Transpose<T>(T* source, long stride, int valid, int depth, int width, T* panel) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int k = 0;
        if (typeof(T) == typeof(float) && valid == width)
        {
            k = depth & ~3;
            TransposeSingle((float*)source, stride, k, width, (float*)panel);
        }

        for (; k < depth; k++)
        {
            for (int lane = 0; lane < width; lane++)
            {
                panel[(long)k * width + lane] = lane < valid ? source[lane * stride + k] : T.Zero;
            }
        }
    }

    /// <summary>Groups of 8 (or 4) rows, four columns at a time in registers. The last group starts early enough to end at `width`.</summary>
    static void TransposeSingle(float* source, long stride, int depth, int width, float* panel)
    {
        if (width >= 8 && Avx.IsSupported)
        {
            for (int lane = 0; lane < width; lane = lane + 8 < width ? Math.Min(lane + 8, width - 8) : width)
            {
                float* row = source + lane * stride, to = panel + lane;
                for (int k = 0; k < depth; k += 4, row += 4, to += 4 * width)
                {
                    var r0 = Vector256.Create(Vector128.Load(row), Vector128.Load(row + 4 * stride));
                    var r1 = Vector256.Create(Vector128.Load(row + stride), Vector128.Load(row + 5 * stride));
                    var r2 = Vector256.Create(Vector128.Load(row + 2 * stride), Vector128.Load(row + 6 * stride));
                    var r3 = Vector256.Create(Vector128.Load(row + 3 * stride), Vector128.Load(row + 7 * stride));
                    var t0 = Avx.UnpackLow(r0, r2);
                    var t1 = Avx.UnpackLow(r1, r3);
                    var t2 = Avx.UnpackHigh(r0, r2);
                    var t3 = Avx.UnpackHigh(r1, r3);
                    Avx.UnpackLow(t0, t1).Store(to);
                    Avx.UnpackHigh(t0, t1).Store(to + width);
                    Avx.UnpackLow(t2, t3).Store(to + 2 * width);
                    Avx.UnpackHigh(t2, t3).Store(to + 3 * width);
                }
            }

            return;
        }

        for (int lane = 0; lane < width; lane = lane + 4 < width ? Math.Min(lane + 4, width - 4) : width)
        {
            float* row = source + lane * stride, to = panel + lane;
            for (int k = 0; k < depth; k += 4, row += 4, to += 4 * width)
            {
                var r0 = Vector128.Load(row);
                var r1 = Vector128.Load(row + stride);
                var r2 = Vector128.Load(row + 2 * stride);
                var r3 = Vector128.Load(row + 3 * stride);
                var t0 = InterleaveLow(r0, r2);
                var t1 = InterleaveLow(r1, r3);
                var t2 = InterleaveHigh(r0, r2);
                var t3 = InterleaveHigh(r1, r3);
                InterleaveLow(t0, t1).Store(to);
                InterleaveHigh(t0, t1).Store(to + width);
                InterleaveLow(t2, t3).Store(to + 2 * width);
                InterleaveHigh(t2, t3).Store(to + 3 * width);
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static Vector128<float> InterleaveLow(Vector128<float> x, Vector128<float> y) =>
        Sse.IsSupported ? Sse.UnpackLow(x, y)
        : AdvSimd.Arm64.IsSupported ? AdvSimd.Arm64.ZipLow(x, y)
        : Vector128.Create(x[0], y[0], x[1], y[1]);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static Vector128<float> InterleaveHigh(Vector128<float> x, Vector128<float> y) =>
        Sse.IsSupported ? Sse.UnpackHigh(x, y)
        : AdvSimd.Arm64.IsSupported ? AdvSimd.Arm64.ZipHigh(x, y)
        : Vector128.Create(x[2], y[2], x[3], y[3]);
}
