using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// An operand of a portable matrix product, as its kernel sees it: <i>outer</i> runs along the rows of the left operand or the columns of the right one, <i>depth</i> along the
/// terms of the sums.
/// </summary>
interface IProductOperand
{
    /// <summary>
    /// Copies outer <paramref name="outer"/> ... + 63 and depth <paramref name="depth"/> ... + 31 into a tile, by all 64 threads of a group; what lies outside the matrix becomes zero.
    /// </summary>
    void Fill(ArrayView<Float4> tile, int outer, int depth);
}

/// <summary>
/// A tile of an operand in shared memory, f32: 32 depths of 64 outers, so that a thread reads the outers it multiplies four at a time. Outer o of depth d is at d·64 + (o xor (d and 28)).
/// That keeps four neighbouring outers together, and makes both ways to fill a tile free of bank conflicts: 8 lanes that hold quads along depth for each of 4 outers, and 16 lanes that
/// hold quads along outer for each of 2 depths.
/// </summary>
static class ProductTile
{
    public const int Outers = 64, Depths = 32, Threads = 64;

    /// <summary>Shared memory for one tile.</summary>
    public const int Quads = Outers * Depths / 4;

    const int QuadsPerOuter = Depths / 4, QuadsPerDepth = Outers / 4;

    /// <summary>Index of the quad that holds outers 4·<paramref name="outerQuad"/> ... + 3 of a depth.</summary>
    public static int Quad(int depth, int outerQuad) => depth * QuadsPerDepth + (outerQuad ^ (depth >> 2));

    /// <summary>Index of the element of one outer and depth.</summary>
    public static int Element(int depth, int outer) => depth * Outers + (outer ^ (depth & 28));

    /// <summary>Fills a tile from a matrix stored [outers, depths].</summary>
    public static void FillAlongDepth<T>(ArrayView<T> values, ArrayView<Float4> tile, int outer, int depth, int outers, int depths, int quads, float factor)
        where T : unmanaged, IElement<T>
    {
        var elements = tile.Cast<float>();
        for (int i = Group.IdxX; i < Quads; i += Threads)
        {
            int d = i % QuadsPerOuter * 4, o = i / QuadsPerOuter;
            var quad = Load(values, (long)(outer + o) * depths, depth + d, outer + o < outers ? depths : 0, quads);
            elements[Element(d, o)] = factor * quad.X;
            elements[Element(d + 1, o)] = factor * quad.Y;
            elements[Element(d + 2, o)] = factor * quad.Z;
            elements[Element(d + 3, o)] = factor * quad.W;
        }
    }

    /// <summary>Fills a tile from a matrix stored [depths, outers].</summary>
    public static void FillAlongOuter<T>(ArrayView<T> values, ArrayView<Float4> tile, int outer, int depth, int outers, int depths, int quads, float factor)
        where T : unmanaged, IElement<T>
    {
        for (int i = Group.IdxX; i < Quads; i += Threads)
        {
            int o = i % QuadsPerDepth, d = i / QuadsPerDepth;
            var quad = Load(values, (long)(depth + d) * outers, outer + 4 * o, depth + d < depths ? outers : 0, quads);
            tile[Quad(d, o)] = new Float4 { X = factor * quad.X, Y = factor * quad.Y, Z = factor * quad.Z, W = factor * quad.W };
        }
    }

    /// <summary>Elements <paramref name="column"/> ... + 3 of the row that starts at <paramref name="row"/>, those from <paramref name="width"/> on as zeros.</summary>
    static Float4 Load<T>(ArrayView<T> values, long row, int column, int width, int quads) where T : unmanaged, IElement<T>
    {
        if (quads != 0)
        {
            return column < width ? Kernels.Quads.Load(values, (row + column) >> 2) : default;
        }

        Float4 result = default;
        if (column < width)
        {
            result.X = T.Widen(values[row + column]);
        }

        if (column + 1 < width)
        {
            result.Y = T.Widen(values[row + column + 1]);
        }

        if (column + 2 < width)
        {
            result.Z = T.Widen(values[row + column + 2]);
        }

        if (column + 3 < width)
        {
            result.W = T.Widen(values[row + column + 3]);
        }

        return result;
    }
}

/// <summary>A dense operand, multiplied by a factor on its way into the tile.</summary>
/// <param name="values">Stored [outers, depths], or [depths, outers] where not <paramref name="alongDepth"/>.</param>
/// <param name="outers">Rows of the left operand, or columns of the right one.</param>
/// <param name="depths">Terms of each sum.</param>
/// <param name="alongDepth">Whether terms of one sum are neighbours in memory.</param>
/// <param name="quads">Whether <see cref="Quads.Fit"/> holds.</param>
/// <param name="factor">Multiplies every element.</param>
struct DenseOperand<T>(ArrayView<T> values, int outers, int depths, bool alongDepth, bool quads, float factor = 1) : IProductOperand where T : unmanaged, IElement<T>
{
    readonly ArrayView<T> values = values;
    readonly int outers = outers, depths = depths, alongDepth = alongDepth ? 1 : 0, quads = quads ? 1 : 0;
    readonly float factor = factor;

    /// <summary>The operand that a slice holds; nothing for a slice that was left out.</summary>
    public static DenseOperand<T> Of(KernelDevice device, Slice slice, int outers, int depths, bool alongDepth, float factor = 1) =>
        new(device.Buffers.View<T>(slice), outers, depths, alongDepth, Kernels.Quads.Fit(slice, alongDepth ? depths : outers), factor);

    public readonly void Fill(ArrayView<Float4> tile, int outer, int depth)
    {
        if (alongDepth != 0)
        {
            ProductTile.FillAlongDepth(values, tile, outer, depth, outers, depths, quads, factor);
        }
        else
        {
            ProductTile.FillAlongOuter(values, tile, outer, depth, outers, depths, quads, factor);
        }
    }
}
