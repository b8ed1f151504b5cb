using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The weight of a portable product in NF4, decoded on its way into the tile. Where rows are whole runs, a thread decodes the 32 weights of a 16-byte load with one scale; else four
/// weights, or one.
/// </summary>
readonly struct Nf4Operand(Nf4View weight, OperandShape shape, bool runs) : IProductOperand
{
    readonly Nf4View weight = weight;
    readonly OperandShape shape = shape;
    readonly int runs = runs ? 1 : 0;

    /// <summary>The right operand W [depths, outers] of dy·W, or Wᵀ of x·Wᵀ where <paramref name="alongDepth"/>.</summary>
    public static Nf4Operand Of(KernelDevice device, Weight weight, bool alongDepth)
    {
        var (outers, depths) = alongDepth ? (weight.Rows, weight.Columns) : (weight.Columns, weight.Rows);
        var shape = new OperandShape(outers, depths, alongDepth, weight.Columns % 4 == 0);
        return new Nf4Operand(Nf4View.Of(device, weight), shape, Nf4View.HasRuns(weight, weight.Columns));
    }

    public void Prepare(ArrayView<float> codes) => Nf4View.Prepare(codes);

    public void Fill(ArrayView<Float4> tile, ArrayView<float> codes, int outer, int depth)
    {
        if (runs != 0)
        {
            if (shape.AlongDepth != 0)
            {
                FillRunAlongDepth(tile, codes, outer, depth);
            }
            else
            {
                FillRunAlongOuter(tile, codes, outer, depth);
            }
        }
        else if (shape.AlongDepth != 0)
        {
            ProductTile.FillAlongDepth(this, tile, codes, outer, depth, shape);
        }
        else
        {
            ProductTile.FillAlongOuter(this, tile, codes, outer, depth, shape);
        }
    }

    public float At(ArrayView<float> codes, long index) => weight.At(codes, index);

    public Float4 Quad(ArrayView<float> codes, long quad) => weight.Quad(codes, quad);

    /// <summary>A thread decodes the 32 depths of one outer; a warp then stores 32 neighbouring outers of one depth, which lie in different banks.</summary>
    void FillRunAlongDepth(ArrayView<Float4> tile, ArrayView<float> codes, int outer, int depth)
    {
        int o = Group.IdxX;
        Word4 packed = default;
        float scale = 0;
        if (outer + o < shape.Outers)
        {
            long index = (long)(outer + o) * shape.Depths + depth;
            packed = weight.Packed(index / Nf4View.Run);
            scale = weight.Scale(index);
        }

        var elements = tile.Cast<float>();
        StoreAlongDepth(elements, codes, packed.X, scale, 0, o);
        StoreAlongDepth(elements, codes, packed.Y, scale, 8, o);
        StoreAlongDepth(elements, codes, packed.Z, scale, 16, o);
        StoreAlongDepth(elements, codes, packed.W, scale, 24, o);
    }

    static void StoreAlongDepth(ArrayView<float> elements, ArrayView<float> codes, uint word, float scale, int d, int o)
    {
        Float4 first = Nf4View.Decode(codes, word), second = Nf4View.Decode(codes, word >> 16);
        elements[ProductTile.Element(d, o)] = first.X * scale;
        elements[ProductTile.Element(d + 1, o)] = first.Y * scale;
        elements[ProductTile.Element(d + 2, o)] = first.Z * scale;
        elements[ProductTile.Element(d + 3, o)] = first.W * scale;
        elements[ProductTile.Element(d + 4, o)] = second.X * scale;
        elements[ProductTile.Element(d + 5, o)] = second.Y * scale;
        elements[ProductTile.Element(d + 6, o)] = second.Z * scale;
        elements[ProductTile.Element(d + 7, o)] = second.W * scale;
    }

    /// <summary>
    /// A thread decodes 32 outers of one depth, two threads a depth. Eight neighbouring lanes, which store at a time, take every fourth depth, since only these have their quads in
    /// other banks.
    /// </summary>
    void FillRunAlongOuter(ArrayView<Float4> tile, ArrayView<float> codes, int outer, int depth)
    {
        int o = Group.IdxX / 8 % 2 * Nf4View.Run, d = Group.IdxX % 8 * 4 + Group.IdxX / 16;
        Word4 packed = default;
        float scale = 0;
        if (depth + d < shape.Depths && outer + o < shape.Outers)
        {
            long index = (long)(depth + d) * shape.Outers + outer + o;
            packed = weight.Packed(index / Nf4View.Run);
            scale = weight.Scale(index);
        }

        StoreAlongOuter(tile, codes, packed.X, scale, d, o / 4);
        StoreAlongOuter(tile, codes, packed.Y, scale, d, o / 4 + 2);
        StoreAlongOuter(tile, codes, packed.Z, scale, d, o / 4 + 4);
        StoreAlongOuter(tile, codes, packed.W, scale, d, o / 4 + 6);
    }

    static void StoreAlongOuter(ArrayView<Float4> tile, ArrayView<float> codes, uint word, float scale, int d, int quad)
    {
        tile[ProductTile.Quad(d, quad)] = scale * Nf4View.Decode(codes, word);
        tile[ProductTile.Quad(d, quad + 1)] = scale * Nf4View.Decode(codes, word >> 16);
    }
}
