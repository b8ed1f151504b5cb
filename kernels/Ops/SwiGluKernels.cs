// SwiGLU on devices: the gated activation of a decoder's MLP. The maths is in SwiGlu.cs.
//
// Maths      y = silu(g)·u, silu(g) = g·σ(g), σ(g) = 1/(1 + e^−g)     in f32
// Grad       du = dy·silu(g) · dg = dy·u·σ(g)·(1 + g·(1 − σ(g)))
// Shapes     gate, up, y, dy, dGate, dUp [n] T
// Layout     contiguous; dGate may be gate and dUp up
// Launch     groups of 256, one element a thread
// Floor      bytes forward 3·n elements, backward 5·n; bound by memory
// Numerics   within 1e-6 of the f64 oracle in f32 (ex2.approx), rounded once to T; runs repeat bit for bit
// Source     Shazeer 2020, arXiv:2002.05202

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class SwiGluKernels
{
    /// <inheritdoc cref="Backend.SwiGluForward" />
    public static void Forward<T>(KernelDevice device, Slice gate, Slice up, Slice y) where T : unmanaged, IElement<T>
    {
        Expect.Elements("SwiGlu.Forward", T.Type, gate.Length, (nameof(gate), gate), (nameof(up), up), (nameof(y), y));
        device.Launch(ForwardKernel, LaunchShape.Over(y.Length), device.Buffers.View<T>(gate), device.Buffers.View<T>(up), device.Buffers.View<T>(y));
    }

    /// <inheritdoc cref="Backend.SwiGluBackward" />
    public static void Backward<T>(KernelDevice device, Slice dy, Slice gate, Slice up, Slice dGate, Slice dUp) where T : unmanaged, IElement<T>
    {
        Expect.Elements("SwiGlu.Backward", T.Type, dy.Length, (nameof(dy), dy), (nameof(gate), gate), (nameof(up), up), (nameof(dGate), dGate), (nameof(dUp), dUp));
        var buffers = device.Buffers;
        device.Launch(BackwardKernel, LaunchShape.Over(dy.Length), buffers.View<T>(dy), buffers.View<T>(gate), buffers.View<T>(up), buffers.View<T>(dGate), buffers.View<T>(dUp));
    }

    static void ForwardKernel<T>(ArrayView<T> gate, ArrayView<T> up, ArrayView<T> y) where T : unmanaged, IElement<T>
    {
        long i = Grid.LongGlobalIndex.X;
        if (i < y.Length)
        {
            float g = T.Widen(gate[i]);
            y[i] = T.Narrow(g / (1 + XMath.Exp(-g)) * T.Widen(up[i]));
        }
    }

    static void BackwardKernel<T>(ArrayView<T> dy, ArrayView<T> gate, ArrayView<T> up, ArrayView<T> dGate, ArrayView<T> dUp) where T : unmanaged, IElement<T>
    {
        long i = Grid.LongGlobalIndex.X;
        if (i < dy.Length)
        {
            float g = T.Widen(gate[i]), gradient = T.Widen(dy[i]), sigmoid = 1 / (1 + XMath.Exp(-g));
            float slope = sigmoid * (1 + g * (1 - sigmoid)), value = gradient * g * sigmoid;
            dGate[i] = T.Narrow(gradient * T.Widen(up[i]) * slope);
            dUp[i] = T.Narrow(value); // last: it may overwrite up
        }
    }
}
