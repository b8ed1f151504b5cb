// Rope on devices: rotary position embedding, in place. The maths is in Rope.cs.
//
// Maths      (a, b) → (a·cos − b·sin, b·cos + a·sin) for a = x[n, h, i], b = x[n, h, i + C/2], angles of row positions[n]     in f32
// Grad       the rotation by the negative angle: sin changes its sign
// Shapes     x [N, H, C] T, C even · cos, sin [positions, C/2] f32 · positions [N] i32
// Layout     half-split pairs, as Hugging Face checkpoints have them (the paper pairs neighbours)
// Launch     groups of 256; a thread holds the angles of 16 bytes of a half in registers and turns them in up to 8 heads of its token
// Floor      bytes 2·N·H·C elements + 4·N·C for the angles; bound by memory
// Numerics   rounded once to T; runs repeat bit for bit. A token at a position outside the tables, which the host refuses, stays as it is
// Source     Su et al. 2021, arXiv:2104.09864, equation 34

using ILGPU;

namespace IlgpuPeft.Kernels;

static class RopeKernels
{
    const int HeadsPerThread = 8;

    /// <inheritdoc cref="Backend.Rope" />
    public static void Rotate<T>(KernelDevice device, Slice x, Slice cos, Slice sin, Slice positions, int heads, int headWidth, bool inverse) where T : unmanaged, IElement<T>
    {
        const string Operation = "Rope";
        Expect.That(heads > 0 && headWidth > 0 && headWidth % 2 == 0, Operation, $"{heads} heads of {headWidth}, expected at least one head of even width.");
        int half = headWidth / 2;
        Expect.Type(Operation, nameof(positions), positions, DType.I32);
        Expect.Elements(Operation, T.Type, positions.Length * heads * headWidth, (nameof(x), x));
        Expect.Elements(Operation, DType.F32, cos.Length, (nameof(cos), cos), (nameof(sin), sin));
        Expect.That(cos.Length % half == 0, Operation, $"cos has {cos.Length} elements, expected rows of {half}.");
        int packets = (int)Packet.Count<T>(half), turns = (heads + HeadsPerThread - 1) / HeadsPerThread;
        var buffers = device.Buffers;
        device.Launch(Kernel, LaunchShape.Over(positions.Length * packets * turns), buffers.View<T>(x), buffers.View<F32>(cos), buffers.View<F32>(sin), buffers.View<int>(positions),
            heads, half, turns, inverse ? -1f : 1f, Packet.Fits<T>(half, x, cos, sin));
    }

    /// <param name="x">Turned in place.</param>
    /// <param name="cos">Of every position and pair.</param>
    /// <param name="sin">Likewise.</param>
    /// <param name="positions">Of every token.</param>
    /// <param name="heads">Heads of a token.</param>
    /// <param name="half">Pairs of a head.</param>
    /// <param name="turns">Threads that share the heads of a token: thread k turns heads k, k + turns ...</param>
    /// <param name="sign">-1 to turn back.</param>
    /// <param name="aligned">Not 0 if halves and rows of the tables consist of whole packets.</param>
    static void Kernel<T>(ArrayView<T> x, ArrayView<F32> cos, ArrayView<F32> sin, ArrayView<int> positions, int heads, int half, int turns, float sign, int aligned)
        where T : unmanaged, IElement<T>
    {
        int size = Packet.Size<T>(), packets = (half + size - 1) / size;
        long thread = Grid.LongGlobalIndex.X, token = thread / (packets * turns);
        int rest = (int)(thread - token * (packets * turns)), first = rest % packets * size;
        if (token >= positions.Length)
        {
            return;
        }

        long angles = (long)positions[token] * half;
        if (angles < 0 || angles >= cos.Length)
        {
            return;
        }

        if (aligned != 0)
        {
            Rotate(x, cos, sin, token * heads, angles, rest / packets, turns, heads, first, half, sign, whole: true);
        }
        else
        {
            Rotate(x, cos, sin, token * heads, angles, rest / packets, turns, heads, first, half, sign, whole: false);
        }
    }

    static void Rotate<T>(ArrayView<T> x, ArrayView<F32> cos, ArrayView<F32> sin, long firstHead, long angles, int head, int turns, int heads, int first, int half, float sign, bool whole)
        where T : unmanaged, IElement<T>
    {
        Packet c = Packet.Load<F32, T>(cos, angles + first, angles + half, whole), s = sign * Packet.Load<F32, T>(sin, angles + first, angles + half, whole);
        for (; head < heads; head += turns)
        {
            long start = (firstHead + head) * 2 * half, middle = start + half;
            Packet a = Packet.Load(x, start + first, middle, whole), b = Packet.Load(x, middle + first, middle + half, whole);
            (a * c - b * s).Store(x, start + first, middle, whole);
            (b * c + a * s).Store(x, middle + first, middle + half, whole);
        }
    }
}
