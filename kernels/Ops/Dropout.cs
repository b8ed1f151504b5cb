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

namespace IlgpuPeft.Kernels;

static unsafe class Dropout
{
    public static void Apply<T>(Slice x, double p, RandomKey key, Slice y, bool accumulate) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "Dropout";
        Expect.That(p is >= 0 and < 1, Operation, $"p is {p}, expected 0 <= p < 1.");
        Expect.Element<T>(Operation, nameof(x), x);
        Expect.Element<T>(Operation, nameof(y), y);
        Expect.Length(Operation, nameof(y), y, x.Length);
        ApplyRange(x.Pointer<T>(), p, key, y.Pointer<T>(), accumulate, 0, x.Length);
    }

    static void ApplyRange<T>(T* x, double p, RandomKey key, T* y, bool accumulate, long start, long end) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        T scale = T.One / T.CreateTruncating(1 - p);
        for (long i = start; i < end; i++)
        {
            T value = key.Uniform((ulong)i) >= p ? x[i] * scale : T.Zero;
            y[i] = accumulate ? y[i] + value : value;
        }
    }
}
