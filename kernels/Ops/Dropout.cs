// Dropout: zeroes a share p of the elements and scales up the others.
//
// Maths      y[i] = x[i]·mask[i]/(1 − p), or y[i] += that; mask[i] = uniform(key, i) ≥ p
// Grad       the same operation with the same key on dy
// Shapes     x, y [n]
// Layout     contiguous; y may be x
// Floor      bytes 2·n elements; a quarter of a Philox call per element, which is what binds
// Numerics   the mask depends on the key and the index alone: the same on every device, for any number of threads
// Source     Srivastava et al. 2014, JMLR 15

using System.Numerics;
using System.Numerics.Tensors;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

static unsafe class Dropout
{
    /// <summary>Elements whose mask is held at a time; a multiple of the 16 that four Philox calls give.</summary>
    const int Tile = 512;

    public static void Apply<T>(Slice x, double p, RandomKey key, Slice y, bool accumulate) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "Dropout";
        Expect.That(p is >= 0 and < 1, Operation, $"p is {p}, expected 0 <= p < 1.");
        Expect.Element<T>(Operation, nameof(x), x);
        Expect.Element<T>(Operation, nameof(y), y);
        Expect.Length(Operation, nameof(y), y, x.Length);
        Partition parts = Partition.Elements(x.Length);
        Workers.Run(parts.Count, new Job<T>(x.Pointer<T>(), p, key, y.Pointer<T>(), accumulate, parts));
    }

    readonly struct Job<T>(T* x, double p, RandomKey key, T* y, bool accumulate, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            Vector<T> scale = new(T.One / T.CreateTruncating(1 - p));
            uint* drawn = stackalloc uint[Tile];
            Span<T> kept = stackalloc T[Tile];
            for (long first = start; first < end; first += Tile)
            {
                int length = (int)Math.Min(Tile, end - first), i = 0;
                Draw(key, (ulong)first, drawn);
                TensorPrimitives.ConvertTruncating(Mask(drawn, p), kept);
                T* from = x + first, to = y + first;
                for (; i <= length - Vector<T>.Count; i += Vector<T>.Count)
                {
                    Vector<T> value = Vector.Load(from + i) * scale * new Vector<T>(kept[i..]);
                    (accumulate ? Vector.Load(to + i) + value : value).Store(to + i);
                }

                for (; i < length; i++)
                {
                    T value = from[i] * scale[0] * kept[i];
                    to[i] = accumulate ? to[i] + value : value;
                }
            }
        }
    }

    /// <summary>The words behind <see cref="RandomKey.Uniform"/> of <see cref="Tile"/> elements, four Philox counters side by side in 64-bit lanes.</summary>
    static void Draw(RandomKey key, ulong first, uint* words)
    {
        Vector256<ulong> low = Vector256.Create((ulong)uint.MaxValue);
        for (uint i = 0; i < Tile; i += 16)
        {
            // Only the lower half of a lane counts; what the upper half holds on the way is never read.
            Vector256<ulong> counter = Vector256.Create((first + i) / 4) + Vector256.Create(0UL, 1, 2, 3);
            Vector256<ulong> x = counter, y = counter >> 32, z = Vector256.Create((ulong)key.Step), w = Vector256.Create((ulong)key.Operation);
            uint k0 = (uint)key.Seed, k1 = (uint)(key.Seed >> 32);
            for (int round = 0; round < 10; round++)
            {
                Vector256<ulong> p0 = Product(x, 0xD2511F53), p1 = Product(z, 0xCD9E8D57);
                (x, y, z, w) = ((p1 >> 32) ^ y ^ Vector256.Create((ulong)k0), p1, (p0 >> 32) ^ w ^ Vector256.Create((ulong)k1), p0);
                k0 += 0x9E3779B9;
                k1 += 0xBB67AE85;
            }

            Vector256<ulong> xy = (x & low) | (y << 32), zw = (z & low) | (w << 32);
            ulong* pairs = (ulong*)(words + i);
            Vector128.Create(xy[0], zw[0]).Store(pairs);
            Vector128.Create(xy[1], zw[1]).Store(pairs + 2);
            Vector128.Create(xy[2], zw[2]).Store(pairs + 4);
            Vector128.Create(xy[3], zw[3]).Store(pairs + 6);
        }
    }

    /// <summary>The full products of the lower halves.</summary>
    static Vector256<ulong> Product(Vector256<ulong> a, uint b) => Avx2.IsSupported
        ? Avx2.Multiply(a.AsUInt32(), Vector256.Create((ulong)b).AsUInt32())
        : (a & Vector256.Create((ulong)uint.MaxValue)) * Vector256.Create((ulong)b);

    /// <summary>
    /// Turns words into their mask, in their own memory: 1 where the uniform number, the upper 24 bits of a word, is at least p, else 0. In integers the comparison is exact.
    /// </summary>
    static ReadOnlySpan<float> Mask(uint* words, double p)
    {
        float* mask = (float*)words;
        Vector256<int> threshold = Vector256.Create((int)Math.Ceiling(p * (1 << 24)));
        for (int i = 0; i < Tile; i += Vector256<uint>.Count)
        {
            Vector256<int> keep = Vector256.GreaterThanOrEqual((Vector256.Load(words + i) >> 8).AsInt32(), threshold);
            (keep.AsSingle() & Vector256<float>.One).Store(mask + i);
        }

        return new ReadOnlySpan<float>(mask, Tile);
    }
}
