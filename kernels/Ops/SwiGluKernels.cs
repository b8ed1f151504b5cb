// SwiGLU on devices: the gated activation of a decoder's MLP. The maths is in SwiGlu.cs.
//
// Maths      y = silu(g)·u, silu(g) = g·σ(g), σ(g) = 1/(1 + e^−g)     in f32
// Grad       du = dy·silu(g) · dg = dy·u·σ(g)·(1 + g·(1 − σ(g)))
// Shapes     gate, up, y, dy, dGate, dUp [n] T
// Layout     contiguous; dGate may be gate and dUp up
// Launch     groups of 256, 16 bytes of every array a thread
// Floor      bytes forward 3·n elements, backward 5·n; bound by memory
// Numerics   within 1e-6 of the f64 oracle in f32 (ex2.approx), rounded once to T; runs repeat bit for bit
// Source     Shazeer 2020, arXiv:2002.05202

using ILGPU;

namespace IlgpuPeft.Kernels;

static class SwiGluKernels
{
    /// <inheritdoc cref="Backend.SwiGluForward" />
    public static void Forward<T>(KernelDevice device, Slice gate, Slice up, Slice y) where T : unmanaged, IElement<T>
    {
        Expect.Elements("SwiGluForward", T.Type, gate.Length, (nameof(gate), gate), (nameof(up), up), (nameof(y), y));
        device.Launch(ForwardKernel, LaunchShape.Over(Packet.Count<T>(y.Length)), device.Buffers.View<T>(gate), device.Buffers.View<T>(up), device.Buffers.View<T>(y),
            Packet.Fits<T>(0, gate, up, y));
    }

    /// <inheritdoc cref="Backend.SwiGluBackward" />
    public static void Backward<T>(KernelDevice device, Slice dy, Slice gate, Slice up, Slice dGate, Slice dUp) where T : unmanaged, IElement<T>
    {
        Expect.Elements("SwiGluBackward", T.Type, dy.Length, (nameof(dy), dy), (nameof(gate), gate), (nameof(up), up), (nameof(dGate), dGate), (nameof(dUp), dUp));
        var buffers = device.Buffers;
        device.Launch(BackwardKernel, LaunchShape.Over(Packet.Count<T>(dy.Length)), buffers.View<T>(dy), buffers.View<T>(gate), buffers.View<T>(up), buffers.View<T>(dGate),
            buffers.View<T>(dUp), Packet.Fits<T>(0, dy, gate, up, dGate, dUp));
    }

    static void ForwardKernel<T>(ArrayView<T> gate, ArrayView<T> up, ArrayView<T> y, int aligned) where T : unmanaged, IElement<T>
    {
        long i = Grid.LongGlobalIndex.X * Packet.Size<T>();
        if (aligned != 0 && i + Packet.Size<T>() <= y.Length)
        {
            Forward(gate, up, y, i, whole: true);
        }
        else if (i < y.Length)
        {
            Forward(gate, up, y, i, whole: false);
        }
    }

    static void Forward<T>(ArrayView<T> gate, ArrayView<T> up, ArrayView<T> y, long i, bool whole) where T : unmanaged, IElement<T>
    {
        Packet g = Packet.Load(gate, i, y.Length, whole), u = Packet.Load(up, i, y.Length, whole);
        (g * Packet.Sigmoid(g) * u).Store(y, i, y.Length, whole);
    }

    static void BackwardKernel<T>(ArrayView<T> dy, ArrayView<T> gate, ArrayView<T> up, ArrayView<T> dGate, ArrayView<T> dUp, int aligned) where T : unmanaged, IElement<T>
    {
        long i = Grid.LongGlobalIndex.X * Packet.Size<T>();
        if (aligned != 0 && i + Packet.Size<T>() <= dy.Length)
        {
            Backward(dy, gate, up, dGate, dUp, i, whole: true);
        }
        else if (i < dy.Length)
        {
            Backward(dy, gate, up, dGate, dUp, i, whole: false);
        }
    }

    static void Backward<T>(ArrayView<T> dy, ArrayView<T> gate, ArrayView<T> up, ArrayView<T> dGate, ArrayView<T> dUp, long i, bool whole) where T : unmanaged, IElement<T>
    {
        Packet d = Packet.Load(dy, i, dy.Length, whole), g = Packet.Load(gate, i, dy.Length, whole), u = Packet.Load(up, i, dy.Length, whole);
        var sigmoid = Packet.Sigmoid(g);
        (d * u * sigmoid * (1 + g * (1 - sigmoid))).Store(dGate, i, dy.Length, whole);
        (d * g * sigmoid).Store(dUp, i, dy.Length, whole);
    }
}
