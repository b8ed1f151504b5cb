// CascadeSum: a float32 sum whose rounding error grows with log n, in the order in which PyTorch adds on one CPU thread.
// Double quantisation stores a mean that was summed this way; any other order gives other bytes in the file.
//
// Maths      Σ x[i], sums in f32
// Shapes     x [n] f32 → f32
// Layout     lane l of accumulator k adds x[32·i + 8·k + l]. Each accumulator is a cascade of four levels: when a level has taken
//            2^p rows, p = max(4, ⌈log2 rows⌉ / 4), it empties into the next. Then accumulators, tail and lanes are added in that order.
// Numerics   relative error below 1e-6 for positive x (seen: 2e-7 at n = 1e6); fixed order, so runs repeat bit for bit
// Source     PyTorch 1.13, aten/src/ATen/native/cpu/SumKernel.cpp (the order of additions)

using System.Numerics;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.Kernels;

static class CascadeSum
{
    const int Lanes = 8, Accumulators = 4, Levels = 4;

    /// <summary>The sum of <paramref name="x"/>.</summary>
    public static float Sum(ReadOnlySpan<float> x)
    {
        var vectors = MemoryMarshal.Cast<float, Vector256<float>>(x);
        var lanes = SumVectors(vectors);
        float sum = 0;
        foreach (float tail in x[(vectors.Length * Lanes)..])
        {
            sum += tail;
        }

        for (int lane = 0; lane < Lanes; lane++)
        {
            sum += lanes[lane];
        }

        return sum;
    }

    static Vector256<float> SumVectors(ReadOnlySpan<Vector256<float>> x)
    {
        int rows = x.Length / Accumulators;
        int power = Math.Max(4, CeilLog2(rows) / Levels), step = 1 << power;
        Span<Vector256<float>> level = stackalloc Vector256<float>[Levels * Accumulators];
        level.Clear();
        int row = 0;
        while (row + step <= rows)
        {
            AddRows(x, row, row + step, level);
            row += step;
            for (int j = 1; j < Levels; j++)
            {
                Move(level, j - 1, j);
                if ((row & (step - 1) << (j * power)) != 0)
                {
                    break;
                }
            }
        }

        AddRows(x, row, rows, level);
        for (int j = 1; j < Levels; j++)
        {
            Move(level, j, 0);
        }

        for (int i = rows * Accumulators; i < x.Length; i++)
        {
            level[0] += x[i];
        }

        return level[0] + level[1] + level[2] + level[3];
    }

    static void AddRows(ReadOnlySpan<Vector256<float>> x, int from, int to, Span<Vector256<float>> level)
    {
        for (int row = from; row < to; row++)
        {
            for (int k = 0; k < Accumulators; k++)
            {
                level[k] += x[row * Accumulators + k];
            }
        }
    }

    static void Move(Span<Vector256<float>> level, int from, int to)
    {
        for (int k = 0; k < Accumulators; k++)
        {
            level[to * Accumulators + k] += level[from * Accumulators + k];
            level[from * Accumulators + k] = Vector256<float>.Zero;
        }
    }

    static int CeilLog2(int n) => n <= 1 ? 0 : BitOperations.Log2((uint)n - 1) + 1;
}
