// Sums on devices: the Euclidean norm of gradients, and the sum of what a loss has per token. The maths is in Elementwise.cs.
//
// Maths      norm r = √Σ x² · sum r (+)= s·Σ x     in f64
// Shapes     x [n] f32 → r [1] f32
// Layout     contiguous
// Launch     at most 1,024 groups of 256, which add up their share 16 bytes a thread at a time; then one group adds up the groups' sums
// Floor      bytes 4·n; bound by memory
// Numerics   rounded once, to f32; the order of summation follows from n alone

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class SumKernels
{
    /// <summary>Groups that fill a large GPU; more would only mean more partial sums.</summary>
    const int MaxParts = 1024;

    const int Warps = LaunchShape.Threads / 32;

    /// <inheritdoc cref="Backend.Norm" />
    public static void Norm(KernelDevice device, ScratchBuffers scratch, Slice x, Slice result)
    {
        Check(nameof(Norm), x, result);
        var parts = Parts<Square>(device, scratch, x);
        device.Launch(NormKernel, LaunchShape.Groups(1, LaunchShape.Threads), parts, device.Buffers.View<float>(result));
    }

    /// <inheritdoc cref="Backend.Sum" />
    public static void Sum(KernelDevice device, ScratchBuffers scratch, Slice x, double scale, Slice result, bool accumulate)
    {
        Check(nameof(Sum), x, result);
        var parts = Parts<Identity>(device, scratch, x);
        device.Launch(SumKernel, LaunchShape.Groups(1, LaunchShape.Threads), parts, scale, device.Buffers.View<float>(result), accumulate ? 1 : 0);
    }

    static void Check(string operation, Slice x, Slice result)
    {
        Expect.Type(operation, nameof(x), x, DType.F32);
        Expect.Elements(operation, DType.F32, 1, (nameof(result), result));
    }

    /// <summary>Queues the sums of every group's share; as many as there are groups.</summary>
    static ArrayView<double> Parts<TTerm>(KernelDevice device, ScratchBuffers scratch, Slice x) where TTerm : ITerm
    {
        var shape = LaunchShape.Over(Packet.Count<F32>(x.Length));
        shape = LaunchShape.Groups(Math.Min(shape.Grid.X, MaxParts), shape.Group);
        var parts = device.Buffers.View<double>(scratch.Get("sums", DType.F64, MaxParts)).SubView(0, shape.Grid.X);
        device.Launch(PartsKernel<TTerm>, shape, device.Buffers.View<F32>(x), parts, Packet.Fits<F32>(0, x));
        return parts;
    }

    static void PartsKernel<TTerm>(ArrayView<F32> x, ArrayView<double> parts, int aligned) where TTerm : ITerm
    {
        var shared = SharedMemory.Allocate<double>(Warps);
        int size = Packet.Size<F32>();
        double sum = 0;
        for (long i = Grid.LongGlobalIndex.X * size; i < x.Length; i += (long)Grid.DimX * Group.DimX * size)
        {
            sum += aligned != 0 && i + size <= x.Length ? Sum<TTerm>(Packet.Load(x, i, x.Length, whole: true)) : Sum<TTerm>(Packet.Load(x, i, x.Length, whole: false));
        }

        sum = Reductions.Sum(sum, shared);
        if (Group.IdxX == 0)
        {
            parts[Grid.IdxX] = sum;
        }
    }

    static double Sum<TTerm>(Packet values) where TTerm : ITerm => (TTerm.Of(values.A) + TTerm.Of(values.B)) + (TTerm.Of(values.C) + TTerm.Of(values.D));

    static void NormKernel(ArrayView<double> parts, ArrayView<float> result)
    {
        double sum = Total(parts, SharedMemory.Allocate<double>(Warps));
        if (Group.IdxX == 0)
        {
            result[0] = (float)XMath.Sqrt(sum);
        }
    }

    static void SumKernel(ArrayView<double> parts, double scale, ArrayView<float> result, int accumulate)
    {
        double sum = Total(parts, SharedMemory.Allocate<double>(Warps));
        if (Group.IdxX == 0)
        {
            result[0] = (float)(scale * sum + (accumulate != 0 ? result[0] : 0));
        }
    }

    static double Total(ArrayView<double> parts, ArrayView<double> shared)
    {
        double sum = 0;
        for (int i = Group.IdxX; i < parts.Length; i += Group.DimX)
        {
            sum += parts[i];
        }

        return Reductions.Sum(sum, shared);
    }

    interface ITerm
    {
        static abstract double Of(double x);
    }

    readonly struct Identity : ITerm
    {
        public static double Of(double x) => x;
    }

    readonly struct Square : ITerm
    {
        public static double Of(double x) => x * x;
    }
}
