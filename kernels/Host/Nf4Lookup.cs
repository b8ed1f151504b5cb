// Nf4Lookup: NF4 rows by AVX-512, whose permutation looks up sixteen codes in a table of sixteen floats.
//
// Maths      w[k] = code[q[k]]·absmax[k / block]
// Shapes     as Nf4MatVec: row starts and block sizes are multiples of 64 weights
// Layout     eight bytes, 16 weights, go to all of a vector's eight lanes of 64 bits, and lane j is shifted by the place of nibble j: its lower half then
//            ends in weight j, its upper half in weight 8 + j. x is permuted to that order, 0 8 1 9 ... 7 15, so no weight has to move
// Floor      a shift, a permutation and a product for 16 weights: one and a half cycles
// Numerics   exact: the product in f32 of Nf4Decoder
// Source     none beyond Nf4Decoder's

using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace IlgpuPeft.Kernels;

static unsafe class Nf4Lookup
{
    const int Step = 16;

    /// <summary>x in the order of <see cref="Decode"/>, groups of four <paramref name="next"/> elements apart; <paramref name="count"/> is a multiple of 16.</summary>
    public static void Permute(float* x, float* permuted, int count, nint next)
    {
        for (int i = 0; i < count; i += Step, x += Step, permuted += 4 * next)
        {
            Vector128<float> first = Vector128.Load(x), second = Vector128.Load(x + 4), third = Vector128.Load(x + 8), fourth = Vector128.Load(x + 12);
            Sse.UnpackLow(first, third).Store(permuted);
            Sse.UnpackHigh(first, third).Store(permuted + next);
            Sse.UnpackLow(second, fourth).Store(permuted + 2 * next);
            Sse.UnpackHigh(second, fourth).Store(permuted + 3 * next);
        }
    }

    /// <summary>Weights in the permuted order; <paramref name="scales"/> has one for every unit of the run.</summary>
    public static void Decode(Weight weight, long start, int count, float* scales, float* destination)
    {
        byte* codes = (byte*)weight.Values.Address + start / 2;
        var table = Vector512.Create<float>(Nf4.Codes);
        var places = Vector512.Create(4UL, 0, 12, 8, 20, 16, 28, 24); // the even element is a byte's high nibble
        for (int done = 0; done < count; done += Nf4MatVec.Unit, codes += Nf4MatVec.Unit / 2, destination += Nf4MatVec.Unit, scales++)
        {
            var scale = Vector512.Create(*scales);
            (Sixteen(codes, places, table) * scale).Store(destination);
            (Sixteen(codes + 8, places, table) * scale).Store(destination + Step);
            (Sixteen(codes + 16, places, table) * scale).Store(destination + 2 * Step);
            (Sixteen(codes + 24, places, table) * scale).Store(destination + 3 * Step);
        }
    }

    // The permutation takes the lowest four bits of each index.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static Vector512<float> Sixteen(byte* codes, Vector512<ulong> places, Vector512<float> table) =>
        Avx512F.PermuteVar16x32(table, Avx512F.ShiftRightLogicalVariable(Vector512.Create(*(ulong*)codes), places).AsInt32());
}
