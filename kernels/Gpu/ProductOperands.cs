using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// An operand of a portable matrix product, as its kernel sees it: <i>outer</i> runs along the rows of the left operand or the columns of the right one, <i>depth</i> along the
/// terms of the sums.
/// </summary>
interface IProductOperand
{
    /// <summary>Fills the group's table of 4-bit codes, for operands that need one; a barrier follows.</summary>
    void Prepare(ArrayView<float> codes);

    /// <summary>
    /// Copies outer <paramref name="outer"/> ... + 63 and depth <paramref name="depth"/> ... + 31 into a tile, by all 64 threads of a group; what lies outside the matrix becomes zero.
    /// </summary>
    void Fill(ArrayView<Float4> tile, ArrayView<float> codes, int outer, int depth);

    /// <summary>One element of the flattened matrix.</summary>
    float At(ArrayView<float> codes, long index);

    /// <summary>Elements 4·<paramref name="quad"/> to 4·<paramref name="quad"/> + 3.</summary>
    Float4 Quad(ArrayView<float> codes, long quad);
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
    public static void FillAlongDepth<T>(T matrix, ArrayView<Float4> tile, ArrayView<float> codes, int outer, int depth, OperandShape shape) where T : struct, IProductOperand
    {
        var elements = tile.Cast<float>();
        for (int i = Group.IdxX; i < Quads; i += Threads)
        {
            int d = i % QuadsPerOuter * 4, o = i / QuadsPerOuter;
            var quad = Load(matrix, codes, (long)(outer + o) * shape.Depths, depth + d, outer + o < shape.Outers ? shape.Depths : 0, shape.Quads);
            elements[Element(d, o)] = quad.X;
            elements[Element(d + 1, o)] = quad.Y;
            elements[Element(d + 2, o)] = quad.Z;
            elements[Element(d + 3, o)] = quad.W;
        }
    }

    /// <summary>Fills a tile from a matrix stored [depths, outers].</summary>
    public static void FillAlongOuter<T>(T matrix, ArrayView<Float4> tile, ArrayView<float> codes, int outer, int depth, OperandShape shape) where T : struct, IProductOperand
    {
        for (int i = Group.IdxX; i < Quads; i += Threads)
        {
            int o = i % QuadsPerDepth, d = i / QuadsPerDepth;
            tile[Quad(d, o)] = Load(matrix, codes, (long)(depth + d) * shape.Outers, outer + 4 * o, depth + d < shape.Depths ? shape.Outers : 0, shape.Quads);
        }
    }

    /// <summary>Elements <paramref name="column"/> ... + 3 of the row that starts at <paramref name="row"/>, those from <paramref name="width"/> on as zeros.</summary>
    public static Float4 Load<T>(T matrix, ArrayView<float> codes, long row, int column, int width, int quads) where T : struct, IProductOperand
    {
        if (quads != 0)
        {
            return column < width ? matrix.Quad(codes, (row + column) >> 2) : default;
        }

        Float4 result = default;
        if (column < width)
        {
            result.X = matrix.At(codes, row + column);
        }

        if (column + 1 < width)
        {
            result.Y = matrix.At(codes, row + column + 1);
        }

        if (column + 2 < width)
        {
            result.Z = matrix.At(codes, row + column + 2);
        }

        if (column + 3 < width)
        {
            result.W = matrix.At(codes, row + column + 3);
        }

        return result;
    }
}

/// <summary>How an operand lies in memory; kernels take flags as integers.</summary>
/// <param name="outers">Rows of the left operand, or columns of the right one.</param>
/// <param name="depths">Terms of each sum.</param>
/// <param name="alongDepth">Whether terms of one sum are neighbours in memory.</param>
/// <param name="quads">Whether rows can be read in quads.</param>
readonly struct OperandShape(int outers, int depths, bool alongDepth, bool quads)
{
    public readonly int Outers = outers, Depths = depths, AlongDepth = alongDepth ? 1 : 0, Quads = quads ? 1 : 0;
}

/// <summary>A dense operand, multiplied by a factor on its way into the tile.</summary>
readonly struct DenseOperand<T>(ArrayView<T> values, OperandShape shape, float factor) : IProductOperand where T : unmanaged, IElement<T>
{
    readonly ArrayView<T> values = values;
    readonly OperandShape shape = shape;
    readonly float factor = factor;

    /// <summary>The operand that a slice holds; nothing for a slice that was left out.</summary>
    public static DenseOperand<T> Of(KernelDevice device, Slice slice, int outers, int depths, bool alongDepth, float factor = 1) =>
        new(device.Buffers.View<T>(slice), new OperandShape(outers, depths, alongDepth, Quads.Fit(slice, alongDepth ? depths : outers)), factor);

    public void Prepare(ArrayView<float> codes)
    {
    }

    public void Fill(ArrayView<Float4> tile, ArrayView<float> codes, int outer, int depth)
    {
        if (shape.AlongDepth != 0)
        {
            ProductTile.FillAlongDepth(this, tile, codes, outer, depth, shape);
        }
        else
        {
            ProductTile.FillAlongOuter(this, tile, codes, outer, depth, shape);
        }
    }

    /// <summary>Elements <paramref name="depth"/> ... + 3 of a row of a left operand stored [rows, depths]; zeros outside.</summary>
    public Float4 Row(ArrayView<float> codes, int row, int depth) =>
        ProductTile.Load(this, codes, (long)row * shape.Depths, depth, row < shape.Outers ? shape.Depths : 0, shape.Quads);

    public float At(ArrayView<float> codes, long index) => factor * T.Widen(values[index]);

    public Float4 Quad(ArrayView<float> codes, long quad) => factor * Quads.Load(values, quad);
}
