// AdamW8Bit: AdamW whose moments are stored in 8 bits, blockwise.
//
// Maths      m, v decoded from their codes and scales; g, m, v as in AdamW.cs; p ← (p − η·m̂/(√v̂ + ε))·(1 − η·λ); then of each block of 256
//            scale = max |m| and max v, code = that of the map value nearest to m/scale and v/scale. A negative m never rounds to zero: it takes the largest negative value instead
// Shapes     p, g [n] · codes [n] u8 · scales [⌈n/256⌉] f32 · maps [512] f32 · norm [1]
// Layout     blocks run over the flat parameters. bitsandbytes cuts each tensor into blocks of its own and keeps tensors of less than 4,096 elements in 32 bits; here a block may hold the
//            end of one parameter and the start of the next, and short ones are quantised too. The map's seven decades keep the relative error of the smaller of two such neighbours
//            within that of its own decade, and there is one launch for all parameters
// Floor      bytes 16.06·n (read p, g, codes, scales, write p, codes, scales); bound by memory
// Numerics   p is computed from the new moments before they are quantised; sums in T, scales and look-up in f32; ties take the lower code; a norm that is not finite makes p so
// Source     Dettmers et al. 2022, arXiv:2110.02861; the order of step and decay, and the sign rule, as bitsandbytes has them

using System.Numerics;

namespace IlgpuPeft.Kernels;

static unsafe class AdamW8Bit
{
    const int BlockSize = Moments8Bit.BlockSize;

    public static void Step<T>(Slice p, Slice g, Moments8Bit moments, AdamWStep step, Slice norm) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "AdamW8Bit";
        Expect.Element<T>(Operation, nameof(p), p);
        Expect.Elements(Operation, p.Type, p.Length, (nameof(g), g));
        moments.Check(Operation, p.Length);
        AdamW.Check(Operation, p, step, norm);
        var constants = AdamW.Constants<T>.Of(step);
        constants.Clip = AdamW.Clip<T>(step, norm);
        var parts = Partition.Rows(Moments8Bit.Blocks(p.Length), BlockSize);
        Workers.Run(parts.Count, new Job<T>(p.Pointer<T>(), g.Pointer<T>(), p.Length, step.Decaying, moments, constants, parts));
    }

    readonly struct Job<T>(T* p, T* g, long length, long decaying, Moments8Bit moments, AdamW.Constants<T> c, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            T* m = stackalloc T[BlockSize], v = stackalloc T[BlockSize];
            var (block, end) = parts[index];
            for (; block < end; block++)
            {
                long start = block * BlockSize;
                int count = (int)Math.Min(BlockSize, length - start);
                Update(block, start, count, m, v);
                Quantize(block, start, count, m, v);
            }
        }

        void Update(long block, long start, int count, T* m, T* v)
        {
            float* maps = moments.Maps.Pointer<float>();
            T scale1 = T.CreateTruncating(moments.FirstScales.Pointer<float>()[block]), scale2 = T.CreateTruncating(moments.SecondScales.Pointer<float>()[block]);
            byte* first = moments.First.Pointer<byte>() + start, second = moments.Second.Pointer<byte>() + start;
            for (int i = 0; i < count; i++)
            {
                T gradient = g[start + i] * c.Clip;
                m[i] = c.Beta1 * (T.CreateTruncating(maps[first[i]]) * scale1) + c.Rest1 * gradient;
                v[i] = c.Beta2 * (T.CreateTruncating(maps[256 + second[i]]) * scale2) + c.Rest2 * gradient * gradient;
                T moved = p[start + i] - c.Rate * m[i] / (T.Sqrt(v[i]) * c.Root + c.Epsilon);
                p[start + i] = start + i < decaying ? moved * c.Keep : moved;
            }
        }

        void Quantize(long block, long start, int count, T* m, T* v)
        {
            float scale1 = 0, scale2 = 0;
            for (int i = 0; i < count; i++)
            {
                scale1 = MathF.Max(scale1, float.CreateTruncating(T.Abs(m[i])));
                scale2 = MathF.Max(scale2, float.CreateTruncating(v[i]));
            }

            float inverse1 = DynamicMap.Inverse(scale1), inverse2 = DynamicMap.Inverse(scale2);
            for (int i = 0; i < count; i++)
            {
                byte code = DynamicMap.NearestSigned(float.CreateTruncating(m[i]) * inverse1);
                moments.First.Pointer<byte>()[start + i] = code == DynamicMap.SignedZero && m[i] < T.Zero ? (byte)(code - 1) : code;
                moments.Second.Pointer<byte>()[start + i] = DynamicMap.NearestUnsigned(float.CreateTruncating(v[i]) * inverse2);
            }

            moments.FirstScales.Pointer<float>()[block] = scale1;
            moments.SecondScales.Pointer<float>()[block] = scale2;
        }
    }
}
