using System.Numerics;

namespace IlgpuPeft.Kernels;

/// <summary>
/// Products of cache-sized matrices: the inner loop of <see cref="Attention"/>. The right operand is packed in panels of <see cref="Columns"/>
/// columns, panel[k][column], as <see cref="Packing"/> does for large products; the left one is read in place through two strides, so a transpose costs nothing.
/// </summary>
static unsafe class Tile<T> where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    /// <summary>Rows of the register block: 6 × 2 accumulators, two columns of b and a broadcast of a fill 16 vector registers.</summary>
    public const int Rows = 6;

    /// <summary>Columns of the register block and of a packed panel.</summary>
    public static int Columns => 2 * Vector<T>.Count;

    /// <summary><paramref name="n"/> rounded up to whole panels.</summary>
    public static int Pad(int n) => (n + Columns - 1) / Columns * Columns;

    /// <summary>Packs b [depth, n], whose rows are <paramref name="stride"/> elements apart.</summary>
    public static void Pack(T* b, long stride, int depth, int n, T* panels) =>
        Packing.Pack(new Operand<T>((nint)b, stride, DepthAlongRows: false), 0, n, 0, depth, Columns, panels);

    /// <summary>Packs the transpose of b [n, depth], whose rows are <paramref name="stride"/> elements apart.</summary>
    public static void PackTransposed(T* b, long stride, int n, int depth, T* panels) =>
        Packing.Pack(new Operand<T>((nint)b, stride, DepthAlongRows: true), 0, n, 0, depth, Columns, panels);

    /// <summary>
    /// c[i, j] (+)= Σ_k a[i·rowStride + k·depthStride] · b[k, j], k in ascending order, fused. Writes whole register blocks: c has room for m rounded up to
    /// <see cref="Rows"/> rows of n rounded up to <see cref="Columns"/> columns, and what is written outside [m, n] has no meaning.
    /// </summary>
    public static void Multiply(int m, int n, int depth, T* a, nint rowStride, nint depthStride, T* panels, int panelDepth, T* c, nint cStride, bool accumulate)
    {
        int vector = Vector<T>.Count;
        for (int j = 0; j < n; j += 2 * vector, panels += panelDepth * 2 * vector)
        {
            for (int i = 0; i < m; i += Rows)
            {
                // Rows past the end read the last row again, so that a needs no padding.
                int last = m - 1;
                T* a0 = a + i * rowStride;
                T* a1 = a + Math.Min(i + 1, last) * rowStride;
                T* a2 = a + Math.Min(i + 2, last) * rowStride;
                T* a3 = a + Math.Min(i + 3, last) * rowStride;
                T* a4 = a + Math.Min(i + 4, last) * rowStride;
                T* a5 = a + Math.Min(i + 5, last) * rowStride;
                T* target = c + i * cStride + j;

                Vector<T> c00 = default, c01 = default, c10 = default, c11 = default, c20 = default, c21 = default;
                Vector<T> c30 = default, c31 = default, c40 = default, c41 = default, c50 = default, c51 = default;
                if (accumulate)
                {
                    c00 = Vector.Load(target);
                    c01 = Vector.Load(target + vector);
                    c10 = Vector.Load(target + cStride);
                    c11 = Vector.Load(target + cStride + vector);
                    c20 = Vector.Load(target + 2 * cStride);
                    c21 = Vector.Load(target + 2 * cStride + vector);
                    c30 = Vector.Load(target + 3 * cStride);
                    c31 = Vector.Load(target + 3 * cStride + vector);
                    c40 = Vector.Load(target + 4 * cStride);
                    c41 = Vector.Load(target + 4 * cStride + vector);
                    c50 = Vector.Load(target + 5 * cStride);
                    c51 = Vector.Load(target + 5 * cStride + vector);
                }

                T* b = panels;
                nint at = 0;
                for (int k = 0; k < depth; k++, at += depthStride, b += 2 * vector)
                {
                    Vector<T> b0 = Vector.Load(b), b1 = Vector.Load(b + vector);
                    var x = Vector.Create(a0[at]);
                    c00 = Lanes<T>.Fused(x, b0, c00);
                    c01 = Lanes<T>.Fused(x, b1, c01);
                    x = Vector.Create(a1[at]);
                    c10 = Lanes<T>.Fused(x, b0, c10);
                    c11 = Lanes<T>.Fused(x, b1, c11);
                    x = Vector.Create(a2[at]);
                    c20 = Lanes<T>.Fused(x, b0, c20);
                    c21 = Lanes<T>.Fused(x, b1, c21);
                    x = Vector.Create(a3[at]);
                    c30 = Lanes<T>.Fused(x, b0, c30);
                    c31 = Lanes<T>.Fused(x, b1, c31);
                    x = Vector.Create(a4[at]);
                    c40 = Lanes<T>.Fused(x, b0, c40);
                    c41 = Lanes<T>.Fused(x, b1, c41);
                    x = Vector.Create(a5[at]);
                    c50 = Lanes<T>.Fused(x, b0, c50);
                    c51 = Lanes<T>.Fused(x, b1, c51);
                }

                c00.Store(target);
                c01.Store(target + vector);
                c10.Store(target + cStride);
                c11.Store(target + cStride + vector);
                c20.Store(target + 2 * cStride);
                c21.Store(target + 2 * cStride + vector);
                c30.Store(target + 3 * cStride);
                c31.Store(target + 3 * cStride + vector);
                c40.Store(target + 4 * cStride);
                c41.Store(target + 4 * cStride + vector);
                c50.Store(target + 5 * cStride);
                c51.Store(target + 5 * cStride + vector);
            }
        }
    }
}
