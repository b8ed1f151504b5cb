// Elementwise operations on devices: fill, copy with conversion, scaled addition. The maths is in Elementwise.cs.
//
// Maths      fill y = c · copy y = round(x), once, to nearest even · add y += s·x, in f32
// Shapes     x, y [n] · fill any type · copy equal types, or any of F32, BF16 and F16 · add T
// Layout     contiguous; a copy's source and destination do not overlap
// Launch     groups of 256; a thread fills or adds 16 bytes, or converts one element
// Floor      bytes fill n elements, copy 2·n, add 3·n; bound by memory
// Numerics   exact, or rounded once; runs repeat bit for bit

using ILGPU;
using ILGPU.Runtime;

namespace IlgpuPeft.Kernels;

static class ElementwiseKernels
{
    /// <inheritdoc cref="Backend.Fill" />
    public static void Fill(KernelDevice device, Slice destination, double value)
    {
        ulong word = destination.Type switch
        {
            DType.F64 => BitConverter.DoubleToUInt64Bits(value),
            DType.F32 => BitConverter.SingleToUInt32Bits((float)value) * 0x1_0000_0001UL,
            DType.F16 => BitConverter.HalfToUInt16Bits((System.Half)value) * 0x1_0001_0001_0001UL,
            DType.BF16 => Conversion.ToBFloat16(value) * 0x1_0001_0001_0001UL,
            DType.U8 => checked((byte)value) * 0x101_0101_0101_0101UL,
            DType.I32 => (uint)checked((int)value) * 0x1_0000_0001UL,
            _ => (ulong)checked((long)value),
        };
        int aligned = destination.Address % 16 == 0 ? 1 : 0;
        device.Launch(FillKernel, LaunchShape.Over((destination.Bytes + 15) / 16), device.Buffers.View<byte>(destination), word, aligned);
    }

    /// <inheritdoc cref="Backend.Copy" />
    public static void Copy(KernelDevice device, Slice source, Slice destination)
    {
        Expect.Length(nameof(Copy), nameof(destination), destination, source.Length);
        if (source.Type != destination.Type)
        {
            ConvertFrom(device, source, destination);
        }
        else if (source.Length > 0)
        {
            device.Buffers.View<byte>(source).CopyTo(device.Stream, device.Buffers.View<byte>(destination));
        }
    }

    /// <inheritdoc cref="Backend.Add" />
    public static void Add<T>(KernelDevice device, Slice x, double scale, Slice y) where T : unmanaged, IElement<T>
    {
        Expect.Elements(nameof(Add), T.Type, x.Length, (nameof(x), x), (nameof(y), y));
        device.Launch(AddKernel, LaunchShape.Over(Packet.Count<T>(y.Length)), device.Buffers.View<T>(x), (float)scale, device.Buffers.View<T>(y), Packet.Fits<T>(0, x, y));
    }

    static void ConvertFrom(KernelDevice device, Slice source, Slice destination)
    {
        switch (source.Type)
        {
            case DType.F32:
                ConvertTo<F32>(device, source, destination);
                break;
            case DType.BF16:
                ConvertTo<BF16>(device, source, destination);
                break;
            case DType.F16:
                ConvertTo<F16>(device, source, destination);
                break;
            default:
                throw Inconvertible(device, source, destination);
        }
    }

    static void ConvertTo<TFrom>(KernelDevice device, Slice source, Slice destination) where TFrom : unmanaged, IElement<TFrom>
    {
        switch (destination.Type)
        {
            case DType.F32:
                Convert<TFrom, F32>(device, source, destination);
                break;
            case DType.BF16:
                Convert<TFrom, BF16>(device, source, destination);
                break;
            case DType.F16:
                Convert<TFrom, F16>(device, source, destination);
                break;
            default:
                throw Inconvertible(device, source, destination);
        }
    }

    static void Convert<TFrom, TTo>(KernelDevice device, Slice source, Slice destination) where TFrom : unmanaged, IElement<TFrom> where TTo : unmanaged, IElement<TTo> =>
        device.Launch(ConvertKernel, LaunchShape.Over(source.Length), device.Buffers.View<TFrom>(source), device.Buffers.View<TTo>(destination));

    static ArgumentException Inconvertible(KernelDevice device, Slice source, Slice destination) =>
        new($"Copy: {source.Type} to {destination.Type} on {device.Name}, expected two of F32, BF16 and F16. Convert on the host.");

    static void FillKernel(ArrayView<byte> y, ulong word, int aligned)
    {
        long i = Grid.LongGlobalIndex.X * 16;
        if (aligned != 0 && i + 16 <= y.Length)
        {
            uint low = (uint)word, high = (uint)(word >> 32);
            y.Cast<Word4>()[i >> 4] = new Word4 { X = low, Y = high, Z = low, W = high };
            return;
        }

        for (long end = Math.Min(i + 16, y.Length); i < end; i++)
        {
            y[i] = (byte)(word >> (8 * (int)(i & 7)));
        }
    }

    static void AddKernel<T>(ArrayView<T> x, float scale, ArrayView<T> y, int aligned) where T : unmanaged, IElement<T>
    {
        long i = Grid.LongGlobalIndex.X * Packet.Size<T>();
        if (aligned != 0 && i + Packet.Size<T>() <= y.Length)
        {
            Add(x, scale, y, i, whole: true);
        }
        else if (i < y.Length)
        {
            Add(x, scale, y, i, whole: false);
        }
    }

    static void Add<T>(ArrayView<T> x, float scale, ArrayView<T> y, long i, bool whole) where T : unmanaged, IElement<T> =>
        (Packet.Load(y, i, y.Length, whole) + scale * Packet.Load(x, i, y.Length, whole)).Store(y, i, y.Length, whole);

    static void ConvertKernel<TFrom, TTo>(ArrayView<TFrom> x, ArrayView<TTo> y) where TFrom : unmanaged, IElement<TFrom> where TTo : unmanaged, IElement<TTo>
    {
        long i = Grid.LongGlobalIndex.X;
        if (i < y.Length)
        {
            y[i] = TTo.Narrow(TFrom.Widen(x[i]));
        }
    }
}
