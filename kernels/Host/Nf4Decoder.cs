// Nf4Decoder: 4-bit NormalFloat to f32, any run of the flattened matrix.
//
// Maths      w[i] = code[nibble(i)] · absmax[i / block], product in f32; absmax = map[q]·nested[block / 256] + offset with double quantisation
// Shapes     codes ⌈n/2⌉ u8 → n f32; runs may start and end anywhere, also between the two nibbles of a byte
// Layout     the even element is the high nibble; blocks run over the flattened matrix and ignore row ends
// Floor      0.5 byte read and 4 written per weight. AVX2 spends 12 shuffles on 32 weights: the four bytes of a code come from four
//            16-byte tables by byte shuffle, then two interleaving steps join them
// Numerics   exact: the same f32 product on every path
// Source     Dettmers et al. 2023, arXiv:2305.14314 §3; table and nibble order as in bitsandbytes' checkpoints

using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

static unsafe class Nf4Decoder
{
    const int NestedBlock = 256; // block scales per nested scale: fixed by the format
    const int Step = 32;         // weights per vector step

    /// <summary>The scale of one block.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static float Scale(Nf4Scales scales, long block)
    {
        if (!scales.IsDouble)
        {
            return ((float*)scales.AbsMax.Address)[block];
        }

        byte code = ((byte*)scales.AbsMax.Address)[block];
        return ((float*)scales.NestedMap.Address)[code] * ((float*)scales.NestedAbsMax.Address)[block / NestedBlock] + scales.NestedOffset;
    }

    /// <summary>The scales of consecutive blocks, with double quantisation: the same bits as <see cref="Scale"/>, eight at a time.</summary>
    public static void NestedScales(Nf4Scales scales, long block, int count, float* destination)
    {
        byte* codes = (byte*)scales.AbsMax.Address + block;
        float* map = (float*)scales.NestedMap.Address, nested = (float*)scales.NestedAbsMax.Address;
        float offset = scales.NestedOffset;
        for (int i = 0; i < count;)
        {
            // Blocks up to here share one nested scale.
            int end = (int)Math.Min(count, i + NestedBlock - (block + i) % NestedBlock);
            float factor = nested[(block + i) / NestedBlock];
            for (; Avx2.IsSupported && i + 8 <= end; i += 8)
            {
                var values = Avx2.GatherVector256(map, Avx2.ConvertToVector256Int32(codes + i), sizeof(float));
                (values * factor + Vector256.Create(offset)).Store(destination + i);
            }

            for (; i < end; i++)
            {
                destination[i] = map[codes[i]] * factor + offset;
            }
        }
    }

    /// <summary>Elements <paramref name="start"/> to <paramref name="start"/> + <paramref name="count"/> - 1 of the flattened matrix.</summary>
    public static void Decode(Weight weight, long start, int count, float* destination)
    {
        var scales = weight.Scales!;
        byte* codes = (byte*)weight.Values.Address;
        long block = start / scales.BlockSize;
        int left = scales.BlockSize - (int)(start % scales.BlockSize);
        for (; count > 0; block++, left = scales.BlockSize)
        {
            int run = Math.Min(count, left);
            DecodeRun(codes, start, run, Scale(scales, block), destination);
            start += run;
            destination += run;
            count -= run;
        }
    }

    /// <summary>A run within one block.</summary>
    static void DecodeRun(byte* codes, long start, int count, float scale, float* destination)
    {
        int i = 0;
        if ((start & 1) != 0)
        {
            destination[i++] = Nf4.Codes[codes[start / 2] & 15] * scale;
        }

        if (Avx2.IsSupported && count - i >= Step)
        {
            var planes = new Nf4Planes();
            var factor = Vector256.Create(scale);
            for (; count - i >= Step; i += Step)
            {
                var bytes = Vector128.Load(codes + (start + i) / 2);
                var high = (bytes.AsUInt16() >>> 4).AsByte() & Vector128.Create((byte)15);
                var low = bytes & Vector128.Create((byte)15);
                planes.Decode(Vector256.Create(Sse2.UnpackLow(high, low), Sse2.UnpackHigh(high, low)), out var a, out var b, out var c, out var d);
                Store(a * factor, destination + i);
                Store(b * factor, destination + i + 4);
                Store(c * factor, destination + i + 8);
                Store(d * factor, destination + i + 12);
            }
        }

        for (; i + 1 < count; i += 2)
        {
            int two = codes[(start + i) / 2];
            destination[i] = Nf4.Codes[two >> 4] * scale;
            destination[i + 1] = Nf4.Codes[two & 15] * scale;
        }

        if (i < count)
        {
            destination[i] = Nf4.Codes[codes[(start + i) / 2] >> 4] * scale;
        }
    }

    /// <summary>The lower lane holds weights of the first half of a step, the upper lane the same of the second half.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static void Store(Vector256<float> weights, float* destination)
    {
        weights.GetLower().Store(destination);
        weights.GetUpper().Store(destination + Step / 2);
    }

    /// <summary>Byte p of every code, for p = 0 to 3: what turns 32 nibbles into 32 floats. Needs AVX2.</summary>
    public readonly struct Nf4Planes
    {
        static readonly Vector256<byte> Byte0 = Plane(0), Byte1 = Plane(1), Byte2 = Plane(2), Byte3 = Plane(3);

        // Fields of a local, so that a loop keeps them in registers.
        readonly Vector256<byte> plane0 = Byte0, plane1 = Byte1, plane2 = Byte2, plane3 = Byte3;

        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public Nf4Planes()
        {
        }

        /// <summary>Vector v of the four (first to fourth) gets nibbles 4v to 4v+3 of each 16-byte lane.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public void Decode(Vector256<byte> nibbles, out Vector256<float> first, out Vector256<float> second, out Vector256<float> third, out Vector256<float> fourth)
        {
            var byte0 = Avx2.Shuffle(plane0, nibbles);
            var byte1 = Avx2.Shuffle(plane1, nibbles);
            var byte2 = Avx2.Shuffle(plane2, nibbles);
            var byte3 = Avx2.Shuffle(plane3, nibbles);
            var lowerHalves = Avx2.UnpackLow(byte0, byte1).AsUInt16();
            var upperHalves = Avx2.UnpackLow(byte2, byte3).AsUInt16();
            first = Avx2.UnpackLow(lowerHalves, upperHalves).AsSingle();
            second = Avx2.UnpackHigh(lowerHalves, upperHalves).AsSingle();
            lowerHalves = Avx2.UnpackHigh(byte0, byte1).AsUInt16();
            upperHalves = Avx2.UnpackHigh(byte2, byte3).AsUInt16();
            third = Avx2.UnpackLow(lowerHalves, upperHalves).AsSingle();
            fourth = Avx2.UnpackHigh(lowerHalves, upperHalves).AsSingle();
        }

        static Vector256<byte> Plane(int index)
        {
            Span<byte> plane = stackalloc byte[16];
            for (int code = 0; code < 16; code++)
            {
                plane[code] = (byte)(BitConverter.SingleToUInt32Bits(Nf4.Codes[code]) >> (8 * index));
            }

            var lane = Vector128.Create<byte>(plane);
            return Vector256.Create(lane, lane);
        }
    }
}
