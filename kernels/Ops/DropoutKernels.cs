// Dropout on devices: zeroes a share p of the elements and scales up the others.
//
// Maths      y[i] = x[i]·mask[i]/(1 − p), or y[i] += that; mask[i] = uniform(key, i) ≥ p     in f32
// Grad       the same operation with the same key on dy
// Shapes     x, y [n] T
// Layout     contiguous; y may be x
// Launch     groups of 256; a thread draws the masks of the 16 bytes it moves, four elements a Philox call
// Floor      bytes 2·n elements, 3·n where added; ten rounds of two 64-bit products for four elements, about as long
// Numerics   the mask is the host's bit for bit: the draw is RandomKey's own, the comparison is one of integers; rounded once to T
// Source     Srivastava et al. 2014, JMLR 15

using ILGPU;

namespace IlgpuPeft.Kernels;

static class DropoutKernels
{
    /// <inheritdoc cref="Backend.Dropout" />
    public static void Apply<T>(KernelDevice device, Slice x, double p, RandomKey key, Slice y, bool accumulate) where T : unmanaged, IElement<T>
    {
        const string Operation = "Dropout";
        Expect.That(p is >= 0 and < 1, Operation, $"p is {p}, expected 0 <= p < 1.");
        Expect.Elements(Operation, T.Type, x.Length, (nameof(x), x), (nameof(y), y));
        uint threshold = (uint)Math.Ceiling(p * (1 << 24)); // of the 24 bits that RandomKey.Uniform uses
        device.Launch(Kernel, LaunchShape.Over(Packet.Count<T>(y.Length)), device.Buffers.View<T>(x), key, threshold, (float)(1 / (1 - p)), device.Buffers.View<T>(y),
            accumulate ? 1 : 0, Packet.Fits<T>(0, x, y));
    }

    static void Kernel<T>(ArrayView<T> x, RandomKey key, uint threshold, float scale, ArrayView<T> y, int accumulate, int aligned) where T : unmanaged, IElement<T>
    {
        long i = Grid.LongGlobalIndex.X * Packet.Size<T>();
        if (i >= y.Length)
        {
            return;
        }

        Packet factor = default;
        var (a, b, c, d) = key.Philox((ulong)i / 4);
        (factor.A, factor.B, factor.C, factor.D) = (Factor(a, threshold, scale), Factor(b, threshold, scale), Factor(c, threshold, scale), Factor(d, threshold, scale));
        if (Packet.Size<T>() == 8)
        {
            var (e, f, g, h) = key.Philox((ulong)i / 4 + 1);
            (factor.E, factor.F, factor.G, factor.H) = (Factor(e, threshold, scale), Factor(f, threshold, scale), Factor(g, threshold, scale), Factor(h, threshold, scale));
        }

        if (aligned != 0 && i + Packet.Size<T>() <= y.Length)
        {
            Apply(x, factor, y, i, accumulate, whole: true);
        }
        else
        {
            Apply(x, factor, y, i, accumulate, whole: false);
        }
    }

    static void Apply<T>(ArrayView<T> x, Packet factor, ArrayView<T> y, long i, int accumulate, bool whole) where T : unmanaged, IElement<T>
    {
        var value = Packet.Load(x, i, y.Length, whole) * factor;
        if (accumulate != 0)
        {
            value = Packet.Load(y, i, y.Length, whole) + value;
        }

        value.Store(y, i, y.Length, whole);
    }

    static float Factor(uint word, uint threshold, float scale) => word >> 8 >= threshold ? scale : 0;
}
