// Rope: rotary position embedding, in place.
//
// Maths      (a, b) → (a·cos − b·sin, b·cos + a·sin) for a = x[n, h, i], b = x[n, h, i + C/2], angles of row positions[n]
// Grad       the rotation by the negative angle: sin changes its sign
// Shapes     x [N, H, C], C even · cos, sin [positions, C/2] f32 · positions [N] i32
// Layout     half-split pairs, as Hugging Face checkpoints have them (the paper pairs neighbours)
// Floor      bytes 2·N·H·C elements; bound by memory
// Numerics   four products and two sums per pair in T; the tables are f32 also where T is f64
// Source     Su et al. 2021, arXiv:2104.09864, equation 34

using System.Numerics;
using System.Numerics.Tensors;

namespace IlgpuPeft.Kernels;

static unsafe class Rope
{
    /// <summary>Pairs whose angles are held in T at a time, to be used for all heads of a token.</summary>
    const int Tile = 128;

    public static void Rotate<T>(Slice x, Slice cos, Slice sin, Slice positions, int heads, int headWidth, bool inverse)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "Rope";
        Expect.That(heads > 0 && headWidth > 0 && headWidth % 2 == 0, Operation, $"{heads} heads of {headWidth}, expected at least one head of even width.");
        Expect.Element<T>(Operation, nameof(x), x);
        Expect.Type(Operation, nameof(cos), cos, DType.F32);
        Expect.Type(Operation, nameof(sin), sin, DType.F32);
        Expect.Type(Operation, nameof(positions), positions, DType.I32);
        Expect.Length(Operation, nameof(x), x, positions.Length * heads * headWidth);
        Expect.Length(Operation, nameof(sin), sin, cos.Length);
        Expect.That(cos.Length % (headWidth / 2) == 0, Operation, $"cos has {cos.Length} elements, expected rows of {headWidth / 2}.");
        long table = cos.Length / (headWidth / 2);
        int* at = positions.Pointer<int>();
        for (long i = 0; i < positions.Length; i++)
        {
            if ((uint)at[i] >= table)
            {
                throw new ArgumentOutOfRangeException(nameof(positions), $"Rope: token {i} is at position {at[i]}, expected 0 to {table - 1}. " +
                    "Lower sequence_len, or make the tables longer.");
            }
        }

        Partition parts = Partition.Rows(positions.Length, (long)heads * headWidth);
        Workers.Run(parts.Count, new Job<T>(x.Pointer<T>(), cos.Pointer<float>(), sin.Pointer<float>(), at, heads, headWidth / 2, inverse, parts));
    }

    readonly struct Job<T>(T* x, float* cos, float* sin, int* positions, int heads, int half, bool inverse, Partition parts) : IJob
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            T* c = stackalloc T[Tile], s = stackalloc T[Tile];
            for (long row = start; row < end; row++)
            {
                for (int first = 0; first < half; first += Tile)
                {
                    int length = Math.Min(Tile, half - first);
                    long angle = (long)positions[row] * half + first;
                    Span<T> sines = new(s, length);
                    TensorPrimitives.ConvertTruncating(new ReadOnlySpan<float>(cos + angle, length), new Span<T>(c, length));
                    TensorPrimitives.ConvertTruncating(new ReadOnlySpan<float>(sin + angle, length), sines);
                    if (inverse)
                    {
                        TensorPrimitives.Negate(sines, sines);
                    }

                    T* a = x + row * heads * 2 * half + first;
                    for (int head = 0; head < heads; head++, a += 2 * half)
                    {
                        RotatePairs(a, a + half, c, s, length);
                    }
                }
            }
        }
    }

    static void RotatePairs<T>(T* a, T* b, T* cos, T* sin, int length) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int i = 0;
        for (; i <= length - Vector<T>.Count; i += Vector<T>.Count)
        {
            Vector<T> x = Vector.Load(a + i), y = Vector.Load(b + i), c = Vector.Load(cos + i), s = Vector.Load(sin + i);
            (x * c - y * s).Store(a + i);
            (y * c + x * s).Store(b + i);
        }

        for (; i < length; i++)
        {
            (a[i], b[i]) = (a[i] * cos[i] - b[i] * sin[i], b[i] * cos[i] + a[i] * sin[i]);
        }
    }
}
