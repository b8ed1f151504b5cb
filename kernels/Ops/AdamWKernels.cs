// AdamW on devices: one step over flat parameters in one launch. The maths is in AdamW.cs.
//
// Maths      as AdamW.cs
// Shapes     p, g, m, v [n] f32 · norm [1] f32, read on the device: nothing waits for it
// Layout     contiguous; four elements a thread in 16-byte accesses where all four slices start at multiples of 16 bytes, else one by one
// Launch     groups of 256, four elements a thread
// Floor      bytes 7·n elements (read p, g, m, v, write p, m, v); bound by memory
// Numerics   constants in f64 on the host, elements and clipping in f32: within 1e-6 of the f64 oracle; runs repeat bit for bit; a norm that is not finite makes p so, as in PyTorch
// Source     Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class AdamWKernels
{
    /// <inheritdoc cref="Backend.AdamW" />
    public static void Step(KernelDevice device, Slice p, Slice g, Slice m, Slice v, AdamWStep step, Slice norm)
    {
        const string Operation = "AdamW";
        Expect.Elements(Operation, DType.F32, p.Length, (nameof(p), p), (nameof(g), g), (nameof(m), m), (nameof(v), v));
        AdamW.Check(Operation, p, step, norm);
        var buffers = device.Buffers;
        bool quads = Quads.Fit(p, 4) && Quads.Fit(g, 4) && Quads.Fit(m, 4) && Quads.Fit(v, 4);
        device.Launch(Kernel, LaunchShape.Over(p.Length, 4), buffers.View<F32>(p), buffers.View<F32>(g), buffers.View<F32>(m), buffers.View<F32>(v), quads ? 1 : 0,
            AdamW.Constants<float>.Of(step), step.Decaying, buffers.View<F32>(norm), (float)step.MaxNorm);
    }

    /// <summary>The factor on gradients, min(1, maxNorm/(norm + 1e-6)); NaN for a norm that is NaN.</summary>
    public static float Clip(ArrayView<F32> norm, float maxNorm)
    {
        if (maxNorm <= 0)
        {
            return 1;
        }

        float ratio = maxNorm / (F32.Widen(norm[0]) + 1e-6f);
        return ratio >= 1 ? 1 : ratio; // not Min, which takes the number of a number and a NaN
    }

    static void Kernel(ArrayView<F32> p, ArrayView<F32> g, ArrayView<F32> m, ArrayView<F32> v, int quads, AdamW.Constants<float> c, long decaying, ArrayView<F32> norm, float maxNorm)
    {
        long quad = Grid.LongGlobalIndex.X, i = 4 * quad;
        c.Clip = Clip(norm, maxNorm);
        if (quads != 0 && i + 3 < p.Length)
        {
            Float4 values = Quads.Load(p, quad), gradients = Quads.Load(g, quad), first = Quads.Load(m, quad), second = Quads.Load(v, quad);
            Update(ref values.X, gradients.X, ref first.X, ref second.X, c, i < decaying);
            Update(ref values.Y, gradients.Y, ref first.Y, ref second.Y, c, i + 1 < decaying);
            Update(ref values.Z, gradients.Z, ref first.Z, ref second.Z, c, i + 2 < decaying);
            Update(ref values.W, gradients.W, ref first.W, ref second.W, c, i + 3 < decaying);
            Quads.Store(p, quad, values);
            Quads.Store(m, quad, first);
            Quads.Store(v, quad, second);
            return;
        }

        for (long end = IntrinsicMath.Min(i + 4, p.Length); i < end; i++)
        {
            float value = F32.Widen(p[i]), first = F32.Widen(m[i]), second = F32.Widen(v[i]);
            Update(ref value, F32.Widen(g[i]), ref first, ref second, c, i < decaying);
            p[i] = F32.Narrow(value);
            m[i] = F32.Narrow(first);
            v[i] = F32.Narrow(second);
        }
    }

    static void Update(ref float p, float g, ref float m, ref float v, AdamW.Constants<float> c, bool decays)
    {
        float gradient = g * c.Clip;
        m = c.Beta1 * m + c.Rest1 * gradient;
        v = c.Beta2 * v + c.Rest2 * gradient * gradient;
        p = p * (decays ? c.Keep : 1) - c.Rate * m / (XMath.Sqrt(v) * c.Root + c.Epsilon);
    }
}
