// AdamW8Bit on devices: AdamW with 8-bit moments over flat parameters in one launch. The maths is in AdamW8Bit.cs.
//
// Maths      as AdamW8Bit.cs; a code is first guessed from the logarithm of its value, then corrected with the midpoints beside it: two look-ups instead of a bisection's eight
// Shapes     p, g [n] f32 · codes [n] u8 · scales [⌈n/256⌉] f32 · maps [512] f32 · norm [1] f32, read on the device
// Layout     a warp takes a block of 256: a lane has elements 4·lane and 128 + 4·lane and the three after each, in 16-byte accesses (4-byte ones of codes) where all slices start at
//            multiples of 16 bytes, else one by one
// Launch     at most 1,024 groups of 8 warps, which go over the blocks; maps and midpoints in 4 KB of shared memory of each
// Floor      bytes 16.06·n (read p, g, codes, scales, write p, codes, scales); bound by memory
// Numerics   all in f32: p within 1e-6 of the f64 oracle, codes nearest within rounding; a block's maximum does not depend on order: runs repeat bit for bit
// Source     Dettmers et al. 2022, arXiv:2110.02861

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class AdamW8BitKernels
{
    const int BlockSize = Moments8Bit.BlockSize, Warps = 8, Threads = 32 * Warps, BlocksPerWarp = 4, MostGroups = 1024, Codes = 256;

    /// <inheritdoc cref="Backend.AdamW8Bit" />
    public static void Step(KernelDevice device, Slice p, Slice g, Moments8Bit moments, AdamWStep step, Slice norm)
    {
        const string Operation = "AdamW8Bit";
        Expect.Elements(Operation, DType.F32, p.Length, (nameof(p), p), (nameof(g), g));
        moments.Check(Operation, p.Length);
        AdamW.Check(Operation, p, step, norm);
        var buffers = device.Buffers;
        bool quads = Quads.Fit(p, 4) && Quads.Fit(g, 4) && moments.First.Address % 4 == 0 && moments.Second.Address % 4 == 0;
        long groups = Math.Min(MostGroups, (Moments8Bit.Blocks(p.Length) + Warps * BlocksPerWarp - 1) / (Warps * BlocksPerWarp));
        device.Launch(Kernel, LaunchShape.Groups(groups, Threads), buffers.View<F32>(p), buffers.View<F32>(g), buffers.View<byte>(moments.First), buffers.View<float>(moments.FirstScales),
            buffers.View<byte>(moments.Second), buffers.View<float>(moments.SecondScales), buffers.View<float>(moments.Maps), quads ? 1 : 0, AdamW.Constants<float>.Of(step),
            step.Decaying, buffers.View<F32>(norm), (float)step.MaxNorm);
    }

    static void Kernel(ArrayView<F32> p, ArrayView<F32> g, ArrayView<byte> first, ArrayView<float> firstScales, ArrayView<byte> second, ArrayView<float> secondScales,
        ArrayView<float> maps, int quads, AdamW.Constants<float> c, long decaying, ArrayView<F32> norm, float maxNorm)
    {
        var values = SharedMemory.Allocate<float>(2 * Codes);
        var midpoints = SharedMemory.Allocate<float>(2 * Codes); // after each value; the last of a map has none
        for (int i = Group.IdxX; i < 2 * Codes; i += Threads)
        {
            values[i] = maps[i];
            midpoints[i] = i % Codes == Codes - 1 ? float.PositiveInfinity : (maps[i] + maps[i + 1]) / 2;
        }

        Group.Barrier(); // both tables are complete
        c.Clip = AdamWKernels.Clip(norm, maxNorm);
        long blocks = firstScales.Length;
        for (long block = Grid.IdxX * (long)Warps + Group.IdxX / 32; block < blocks; block += Grid.DimX * (long)Warps)
        {
            float scale1 = firstScales[block], scale2 = secondScales[block];
            long low = block * BlockSize + 4 * Warp.LaneIdx, high = low + BlockSize / 2;
            bool whole = quads != 0 && (block + 1) * BlockSize <= p.Length;
            Float4 m0 = Decode(first, low, whole, values, 0, scale1), m1 = Decode(first, high, whole, values, 0, scale1);
            Float4 v0 = Decode(second, low, whole, values, Codes, scale2), v1 = Decode(second, high, whole, values, Codes, scale2);
            Update(p, g, low, whole, ref m0, ref v0, c, decaying);
            Update(p, g, high, whole, ref m1, ref v1, c, decaying);

            scale1 = WarpMax(XMath.Max(Largest(m0), Largest(m1)));
            scale2 = WarpMax(XMath.Max(Largest(v0), Largest(v1)));
            float inverse1 = 1 / XMath.Max(scale1, 1e-38f), inverse2 = 1 / XMath.Max(scale2, 1e-38f);
            Store(first, low, whole, Encode(m0, inverse1, midpoints, 1));
            Store(first, high, whole, Encode(m1, inverse1, midpoints, 1));
            Store(second, low, whole, Encode(v0, inverse2, midpoints, 0));
            Store(second, high, whole, Encode(v1, inverse2, midpoints, 0));
            if (Warp.LaneIdx == 0)
            {
                firstScales[block] = scale1;
                secondScales[block] = scale2;
            }
        }
    }

    /// <summary>Four codes from <paramref name="i"/> as values; 0 beyond the end.</summary>
    static Float4 Decode(ArrayView<byte> codes, long i, bool whole, ArrayView<float> values, int map, float scale)
    {
        if (whole)
        {
            uint four = codes.Cast<uint>()[i / 4];
            return new Float4
            {
                X = values[map + (int)(four & 255)] * scale,
                Y = values[map + (int)((four >> 8) & 255)] * scale,
                Z = values[map + (int)((four >> 16) & 255)] * scale,
                W = values[map + (int)(four >> 24)] * scale,
            };
        }

        return new Float4
        {
            X = i < codes.Length ? values[map + codes[i]] * scale : 0,
            Y = i + 1 < codes.Length ? values[map + codes[i + 1]] * scale : 0,
            Z = i + 2 < codes.Length ? values[map + codes[i + 2]] * scale : 0,
            W = i + 3 < codes.Length ? values[map + codes[i + 3]] * scale : 0,
        };
    }

    static void Store(ArrayView<byte> codes, long i, bool whole, uint four)
    {
        if (whole)
        {
            codes.Cast<uint>()[i / 4] = four;
            return;
        }

        for (int j = 0; j < 4 && i + j < codes.Length; j++)
        {
            codes[i + j] = (byte)(four >> (8 * j));
        }
    }

    static void Update(ArrayView<F32> p, ArrayView<F32> g, long i, bool whole, ref Float4 m, ref Float4 v, AdamW.Constants<float> c, long decaying)
    {
        Float4 value = Load(p, i, whole), gradient = Load(g, i, whole);
        value.X = Update(value.X, gradient.X, ref m.X, ref v.X, c, i < decaying);
        value.Y = Update(value.Y, gradient.Y, ref m.Y, ref v.Y, c, i + 1 < decaying);
        value.Z = Update(value.Z, gradient.Z, ref m.Z, ref v.Z, c, i + 2 < decaying);
        value.W = Update(value.W, gradient.W, ref m.W, ref v.W, c, i + 3 < decaying);
        if (whole)
        {
            Quads.Store(p, i / 4, value);
            return;
        }

        Store(p, i, value.X);
        Store(p, i + 1, value.Y);
        Store(p, i + 2, value.Z);
        Store(p, i + 3, value.W);
    }

    static float Update(float p, float g, ref float m, ref float v, AdamW.Constants<float> c, bool decays)
    {
        float gradient = g * c.Clip;
        m = c.Beta1 * m + c.Rest1 * gradient;
        v = c.Beta2 * v + c.Rest2 * gradient * gradient;
        return (p - c.Rate * m / (XMath.Sqrt(v) * c.Root + c.Epsilon)) * (decays ? c.Keep : 1);
    }

    static Float4 Load(ArrayView<F32> x, long i, bool whole) => whole
        ? Quads.Load(x, i / 4)
        : new Float4
        {
            X = i < x.Length ? F32.Widen(x[i]) : 0,
            Y = i + 1 < x.Length ? F32.Widen(x[i + 1]) : 0,
            Z = i + 2 < x.Length ? F32.Widen(x[i + 2]) : 0,
            W = i + 3 < x.Length ? F32.Widen(x[i + 3]) : 0,
        };

    static void Store(ArrayView<F32> x, long i, float value)
    {
        if (i < x.Length)
        {
            x[i] = F32.Narrow(value);
        }
    }

    static float Largest(Float4 x) => XMath.Max(XMath.Max(XMath.Abs(x.X), XMath.Abs(x.Y)), XMath.Max(XMath.Abs(x.Z), XMath.Abs(x.W)));

    static float WarpMax(float x)
    {
        for (int distance = 16; distance > 0; distance /= 2)
        {
            x = XMath.Max(x, Warp.ShuffleXor(x, distance));
        }

        return x;
    }

    static uint Encode(Float4 x, float inverse, ArrayView<float> midpoints, int signed) =>
        Nearest(x.X * inverse, midpoints, signed) | (Nearest(x.Y * inverse, midpoints, signed) << 8) | (Nearest(x.Z * inverse, midpoints, signed) << 16)
        | (Nearest(x.W * inverse, midpoints, signed) << 24);

    /// <summary>
    /// The code nearest to <paramref name="x"/> in [-1, 1]. Decade d holds n values, 2^d in the signed map and 2^(d+1) in the other, in the middle of n even parts of its range: the part
    /// that holds x is its code, or beside it where decades meet.
    /// </summary>
    static uint Nearest(float x, ArrayView<float> midpoints, int signed)
    {
        float size = XMath.Abs(x);
        int decade = IntrinsicMath.Clamp((int)(XMath.Log2(size) * 0.30103f + 7), 0, 6);
        int count = (signed != 0 ? 1 : 2) << decade;
        float place = (size * Intrinsics.Exp2((6 - decade) * 3.3219281f) - 0.1f) / 0.9f * count;
        int rank = count - (signed != 0 ? 0 : 1) + IntrinsicMath.Clamp((int)place, 0, count - 1); // of this size among all sizes, from 1
        int code = signed == 0 ? rank : x < 0 ? DynamicMap.SignedZero - rank : DynamicMap.SignedZero + rank;
        int map = signed != 0 ? 0 : Codes;
        if (x > midpoints[map + code])
        {
            code++;
        }
        else if (code > 0 && !(x > midpoints[map + code - 1]))
        {
            code--;
        }

        return (uint)(signed != 0 && code == DynamicMap.SignedZero && x < 0 ? code - 1 : code);
    }
}
