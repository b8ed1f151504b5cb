// Nf4MatVec: NF4 rows as MatVec reads them, decoded in registers without restoring the order of their elements.
//
// Maths      Σ_b absmax[b]·Σ_{k in b} code[q[k]]·x[k]; sums in f32
// Shapes     row starts and block sizes are multiples of 64 weights, or Supports says no and the general decoder is used
// Layout     a unit is 64 weights, 32 bytes. The high nibbles (even elements) and the low ones (odd elements) are decoded as two vectors of
//            32 nibbles, in the order of Nf4Planes. x is permuted to that order once, so no weight has to move
// Floor      24 byte shuffles per unit: 12 cycles where two run per cycle, which is 5 weights a cycle
// Numerics   Dot scales the sum of each unit, Decode each weight: both within f32 rounding of the exact sum
// Source     none beyond Nf4Decoder's

using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

static unsafe class Nf4MatVec
{
    public const int Unit = 64;

    public static bool Supports(Weight weight) =>
        Avx2.IsSupported && Simd.Path >= SimdPath.Vector256 && weight.Scales is { } scales && weight.Columns % Unit == 0 && scales.BlockSize % Unit == 0;

    /// <summary>
    /// Vector v of the even elements holds numbers 4v to 4v+3 and 16+4v to 16+4v+3 of them; the odd ones follow likewise. Groups of four are
    /// <paramref name="next"/> elements apart.
    /// </summary>
    public static void Permute(float* x, float* permuted, int count, nint next = 4)
    {
        for (int unit = 0; unit < count; unit += Unit, x += Unit, permuted += 16 * next)
        {
            for (int v = 0; v < 4; v++)
            {
                float* lower = x + 8 * v, upper = lower + Unit / 2, even = permuted + 2 * v * next, odd = even + 8 * next;
                var first = Vector256.Create(Vector128.Load(lower), Vector128.Load(upper));
                var second = Vector256.Create(Vector128.Load(lower + 4), Vector128.Load(upper + 4));
                var evens = Avx.Shuffle(first, second, 0b10_00_10_00);
                var odds = Avx.Shuffle(first, second, 0b11_01_11_01);
                evens.GetLower().Store(even);
                evens.GetUpper().Store(even + next);
                odds.GetLower().Store(odd);
                odds.GetUpper().Store(odd + next);
            }
        }
    }

    /// <summary>The scale of every unit of a run: the stored ones where they can be used as they are, else in this thread's scratch.</summary>
    public static float* Scales(Weight weight, long start, int count)
    {
        var scales = weight.Scales!;
        if (!scales.IsDouble && scales.BlockSize == Unit)
        {
            return (float*)scales.AbsMax.Address + start / Unit;
        }

        float* result = Scratch.Get<float>(ScratchSlot.BlockScales, count / Unit);
        if (scales.BlockSize == Unit)
        {
            Nf4Decoder.NestedScales(scales, start / Unit, count / Unit, result);
            return result;
        }

        for (int unit = 0; unit < count / Unit; unit++)
        {
            result[unit] = Nf4Decoder.Scale(scales, (start + unit * Unit) / scales.BlockSize);
        }

        return result;
    }

    /// <summary>Four consecutive rows times a permuted x. A row's sum does not depend on its place among the four.</summary>
    public static Vector128<float> Dot4(Weight weight, long start, int count, float* scales, float* x)
    {
        byte* codes = (byte*)weight.Values.Address + start / 2;
        int bytes = count / 2, units = count / Unit;
        var planes = new Nf4Decoder.Nf4Planes();
        var first = Total(planes, codes, count, scales, x);
        var second = Total(planes, codes + bytes, count, scales + units, x);
        var third = Total(planes, codes + 2 * bytes, count, scales + 2 * units, x);
        var fourth = Total(planes, codes + 3 * bytes, count, scales + 3 * units, x);
        var sums = Avx.HorizontalAdd(Avx.HorizontalAdd(first, second), Avx.HorizontalAdd(third, fourth));
        return sums.GetLower() + sums.GetUpper();
    }

    /// <summary>A row times a permuted x, summed in the order of <see cref="Dot4"/>.</summary>
    public static float Dot(Weight weight, long start, int count, float* scales, float* x)
    {
        var total = Total(new Nf4Decoder.Nf4Planes(), (byte*)weight.Values.Address + start / 2, count, scales, x);
        var sums = Avx.HorizontalAdd(Avx.HorizontalAdd(total, total), total);
        return (sums.GetLower() + sums.GetUpper()).ToScalar();
    }

    /// <summary>The partial sums of a row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static Vector256<float> Total(in Nf4Decoder.Nf4Planes planes, byte* codes, int count, float* scales, float* x)
    {
        Vector256<float> total = default;
        for (int done = 0; done < count; done += Unit, codes += Unit / 2, x += Unit, scales++)
        {
            var (even, odd) = Nibbles(codes);
            planes.Decode(even, out var a, out var b, out var c, out var d);
            var left = Simd.Fma(a, Vector256.Load(x), b * Vector256.Load(x + 8));
            var right = Simd.Fma(c, Vector256.Load(x + 16), d * Vector256.Load(x + 24));
            planes.Decode(odd, out a, out b, out c, out d);
            left = Simd.Fma(a, Vector256.Load(x + 32), left);
            right = Simd.Fma(b, Vector256.Load(x + 40), right);
            left = Simd.Fma(c, Vector256.Load(x + 48), left);
            right = Simd.Fma(d, Vector256.Load(x + 56), right);
            total = Simd.Fma(Vector256.Create(*scales), left + right, total);
        }

        return total;
    }

    /// <summary>Weights in the permuted order; <paramref name="scales"/> has one for every unit of the run.</summary>
    public static void Decode(Weight weight, long start, int count, float* scales, float* destination)
    {
        byte* codes = (byte*)weight.Values.Address + start / 2;
        var planes = new Nf4Decoder.Nf4Planes();
        for (int done = 0; done < count; done += Unit, codes += Unit / 2, destination += Unit, scales++)
        {
            var (even, odd) = Nibbles(codes);
            var scale = Vector256.Create(*scales);
            planes.Decode(even, out var a, out var b, out var c, out var d);
            (a * scale).Store(destination);
            (b * scale).Store(destination + 8);
            (c * scale).Store(destination + 16);
            (d * scale).Store(destination + 24);
            planes.Decode(odd, out a, out b, out c, out d);
            (a * scale).Store(destination + 32);
            (b * scale).Store(destination + 40);
            (c * scale).Store(destination + 48);
            (d * scale).Store(destination + 56);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static (Vector256<byte> Even, Vector256<byte> Odd) Nibbles(byte* codes)
    {
        var bytes = Vector256.Load(codes);
        var mask = Vector256.Create((byte)15);
        return ((bytes.AsUInt16() >>> 4).AsByte() & mask, bytes & mask);
    }
}
