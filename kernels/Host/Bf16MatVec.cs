// Bf16MatVec: bfloat16 rows as MatVec reads them, widened in registers.
//
// Maths      Σ_k w[k]·x[k]; a bfloat16 is the upper half of an f32, so widening is a shift or a mask. Sums in f32
// Shapes     rows of a multiple of 32 weights, or Supports says no and the general reader is used
// Layout     a vector of 16 weights widens to its even and its odd elements; x is permuted to that order once, so no weight has to move
// Floor      2 bytes read per weight: bound by memory
// Numerics   four partial vectors per row, joined at the end

using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

static unsafe class Bf16MatVec
{
    const int Step = 16;

    public static bool Supports(Weight weight) => Simd.Path >= SimdPath.Vector256 && weight.Values.Type == DType.BF16 && weight.Columns % (2 * Step) == 0;

    /// <summary>The eight even elements of every 16, then the odd ones.</summary>
    public static void Permute(float* x, float* permuted, int count)
    {
        for (int i = 0; i < count; i++)
        {
            permuted[i / Step * Step + i % 2 * (Step / 2) + i % Step / 2] = x[i];
        }
    }

    /// <summary>A row times a permuted x.</summary>
    public static float Dot(ushort* row, int count, float* x)
    {
        Vector256<float> even0 = default, odd0 = default, even1 = default, odd1 = default;
        for (int k = 0; k < count; k += 2 * Step)
        {
            var pairs = Vector256.Load((uint*)(row + k));
            even0 = Simd.Fma((pairs << 16).AsSingle(), Vector256.Load(x + k), even0);
            odd0 = Simd.Fma((pairs & Vector256.Create(0xFFFF_0000u)).AsSingle(), Vector256.Load(x + k + 8), odd0);
            pairs = Vector256.Load((uint*)(row + k + Step));
            even1 = Simd.Fma((pairs << 16).AsSingle(), Vector256.Load(x + k + 16), even1);
            odd1 = Simd.Fma((pairs & Vector256.Create(0xFFFF_0000u)).AsSingle(), Vector256.Load(x + k + 24), odd1);
        }

        return Vector256.Sum(even0 + odd0 + (even1 + odd1));
    }
}
