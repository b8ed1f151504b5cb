using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Native memory of one benchmark, freed together.</summary>
sealed unsafe class Buffers : IDisposable
{
    readonly List<nint> blocks = [];
    readonly Random random = new(1);

    public Slice Allocate(long count, DType type)
    {
        nint address = (nint)NativeMemory.AlignedAlloc((nuint)(count * type.Size()), 64);
        blocks.Add(address);
        new Slice(address, count, type).AsBytes().Clear();
        return new Slice(address, count, type);
    }

    /// <summary>F32, uniform in [-0.5, 0.5).</summary>
    public Slice Random(long count)
    {
        var slice = Allocate(count, DType.F32);
        foreach (ref float value in slice.AsFloats())
        {
            value = random.NextSingle() - 0.5f;
        }

        return slice;
    }

    /// <summary>A weight [rows, columns] of random bf16 values, or of random NF4 codes with scales near 0.5.</summary>
    public Weight RandomWeight(int rows, int columns, DType type)
    {
        long count = (long)rows * columns;
        if (type == DType.F32)
        {
            return new Weight(rows, columns, Random(count));
        }

        if (type == DType.U8)
        {
            var codes = Allocate((count + 1) / 2, DType.U8);
            random.NextBytes(codes.AsBytes());
            var scales = Random((count + 63) / 64);
            foreach (ref float scale in scales.AsFloats())
            {
                scale = 0.4f + 0.2f * random.NextSingle();
            }

            return new Weight(rows, columns, codes, new Nf4Scales(scales));
        }

        var values = Allocate(count, DType.BF16);
        foreach (ref ushort value in MemoryMarshal.Cast<byte, ushort>(values.AsBytes()))
        {
            value = (ushort)(BitConverter.SingleToUInt32Bits(random.NextSingle() - 0.5f) >> 16);
        }

        return new Weight(rows, columns, values);
    }

    public void Dispose()
    {
        foreach (nint block in blocks)
        {
            NativeMemory.AlignedFree((void*)block);
        }
    }
}

/// <summary>Spans over host slices.</summary>
static unsafe class SliceSpans
{
    public static Span<byte> AsBytes(this Slice slice) => new((void*)slice.Address, checked((int)slice.Bytes));

    public static Span<float> AsFloats(this Slice slice) => new((void*)slice.Address, checked((int)slice.Length));
}
