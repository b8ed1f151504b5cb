// SwiGlu: the gated activation of the feed-forward block.
//
// Maths      y = g·σ(g)·u, σ(g) = 1/(1 + e^−g)
// Grad       du = dy·g·σ · dg = dy·u·σ·(1 + g·(1 − σ))
// Shapes     g, u, y, dy, dg, du [n]
// Layout     contiguous; an output may be the very memory of any input
// Floor      bytes 3·n elements forward, 5·n backward; one exponential per element, vectorised
// Numerics   σ is recomputed in the backward pass, so that only g and u are kept; e^−g overflows to ∞ and σ to 0 as it should
// Source     Shazeer 2020, arXiv:2002.05202, equation 6

using System.Numerics;
using System.Numerics.Tensors;

namespace IlgpuPeft.Kernels;

static unsafe class SwiGlu
{
    /// <summary>Elements whose σ is held at a time: it stays in the first-level cache.</summary>
    const int Tile = 512;

    public static void Forward<T>(Slice gate, Slice up, Slice y) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Check<T>("SwiGluForward", nameof(gate), gate, gate.Length);
        Check<T>("SwiGluForward", nameof(up), up, gate.Length);
        Check<T>("SwiGluForward", nameof(y), y, gate.Length);
        Partition parts = Partition.Elements(gate.Length);
        Workers.Run(parts.Count, new ForwardJob<T>(gate.Pointer<T>(), up.Pointer<T>(), y.Pointer<T>(), parts));
    }

    public static void Backward<T>(Slice dy, Slice gate, Slice up, Slice dGate, Slice dUp) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Check<T>("SwiGluBackward", nameof(dy), dy, gate.Length);
        Check<T>("SwiGluBackward", nameof(gate), gate, gate.Length);
        Check<T>("SwiGluBackward", nameof(up), up, gate.Length);
        Check<T>("SwiGluBackward", nameof(dGate), dGate, gate.Length);
        Check<T>("SwiGluBackward", nameof(dUp), dUp, gate.Length);
        Partition parts = Partition.Elements(gate.Length);
        Workers.Run(parts.Count, new BackwardJob<T>(dy.Pointer<T>(), gate.Pointer<T>(), up.Pointer<T>(), dGate.Pointer<T>(), dUp.Pointer<T>(), parts));
    }

    static void Check<T>(string operation, string name, Slice slice, long length)
    {
        Expect.Element<T>(operation, name, slice);
        Expect.Length(operation, name, slice, length);
    }

    readonly struct ForwardJob<T>(T* gate, T* up, T* y, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            T* sigmoid = stackalloc T[Tile];
            for (long first = start; first < end; first += Tile)
            {
                int length = (int)Math.Min(Tile, end - first), i = 0;
                T* g = gate + first, u = up + first, to = y + first;
                TensorPrimitives.Sigmoid(new ReadOnlySpan<T>(g, length), new Span<T>(sigmoid, length));
                for (; i <= length - Vector<T>.Count; i += Vector<T>.Count)
                {
                    (Vector.Load(g + i) * Vector.Load(sigmoid + i) * Vector.Load(u + i)).Store(to + i);
                }

                for (; i < length; i++)
                {
                    to[i] = g[i] * sigmoid[i] * u[i];
                }
            }
        }
    }

    readonly struct BackwardJob<T>(T* dy, T* gate, T* up, T* dGate, T* dUp, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            T* sigmoid = stackalloc T[Tile];
            for (long first = start; first < end; first += Tile)
            {
                int length = (int)Math.Min(Tile, end - first), i = 0;
                T* d = dy + first, g = gate + first, u = up + first, dg = dGate + first, du = dUp + first;
                TensorPrimitives.Sigmoid(new ReadOnlySpan<T>(g, length), new Span<T>(sigmoid, length));
                for (; i <= length - Vector<T>.Count; i += Vector<T>.Count)
                {
                    Vector<T> s = Vector.Load(sigmoid + i), x = Vector.Load(g + i), ds = Vector.Load(d + i) * s;
                    Vector<T> gradient = ds * Vector.Load(u + i) * (Vector<T>.One + x * (Vector<T>.One - s));
                    (ds * x).Store(du + i);
                    gradient.Store(dg + i);
                }

                for (; i < length; i++)
                {
                    T s = sigmoid[i], x = g[i], ds = d[i] * s;
                    T gradient = ds * u[i] * (T.One + x * (T.One - s));
                    du[i] = ds * x;
                    dg[i] = gradient;
                }
            }
        }
    }
}
