using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>The weights of a product with few rows: four outputs at a time, each read in runs of neighbouring inputs.</summary>
interface IMatVecWeights
{
    /// <summary>Quads of inputs in a run.</summary>
    int RunQuads { get; }

    /// <summary>Fills the group's table of 4-bit codes, for weights that need one; a barrier follows.</summary>
    void Prepare(ArrayView<float> codes);

    /// <summary>Adds the terms of one run: quads <paramref name="quad"/> ... of the rows of <paramref name="outputs"/>, and quads <paramref name="panel"/> ... of x in shared memory.</summary>
    TSums Add<TSums>(TSums sums, ArrayView<float> codes, FourRows outputs, int quad, ArrayView<Float4> x, int panel, int stride) where TSums : unmanaged, IMatVecSums<TSums>;
}

/// <summary>Four neighbouring outputs; past the last, the last again, whose sums are then not stored.</summary>
readonly struct FourRows(int first, int count)
{
    public readonly long First = IntrinsicMath.Min(first, count - 1), Second = IntrinsicMath.Min(first + 1, count - 1);
    public readonly long Third = IntrinsicMath.Min(first + 2, count - 1), Fourth = IntrinsicMath.Min(first + 3, count - 1);
}

/// <summary>Weights of any kind, four inputs at a time.</summary>
/// <param name="matrix">[outputs, inputs].</param>
/// <param name="inputs">K.</param>
/// <param name="quads">Whether rows can be read in quads.</param>
readonly struct MatVecQuads<T>(T matrix, int inputs, bool quads) : IMatVecWeights where T : struct, IProductOperand
{
    readonly T matrix = matrix;
    readonly int inputs = inputs, quads = quads ? 1 : 0;

    public int RunQuads => 1;

    public void Prepare(ArrayView<float> codes) => matrix.Prepare(codes);

    public TSums Add<TSums>(TSums sums, ArrayView<float> codes, FourRows outputs, int quad, ArrayView<Float4> x, int panel, int stride) where TSums : unmanaged, IMatVecSums<TSums>
    {
        Float4 first = Load(codes, outputs.First, quad), second = Load(codes, outputs.Second, quad);
        Float4 third = Load(codes, outputs.Third, quad), fourth = Load(codes, outputs.Fourth, quad);
        return sums.Add(first, second, third, fourth, x, MatVecKernels.Place(panel), stride);
    }

    Float4 Load(ArrayView<float> codes, long output, int quad) => ProductTile.Load(matrix, codes, output * inputs, 4 * quad, inputs, quads);
}

/// <summary>NF4 weights whose rows are whole runs of 32: one 16-byte load and one scale for each output.</summary>
/// <param name="weight">[outputs, inputs].</param>
/// <param name="inputs">K.</param>
readonly struct MatVecRuns(Nf4View weight, int inputs) : IMatVecWeights
{
    readonly Nf4View weight = weight;
    readonly int inputs = inputs;

    public int RunQuads => Nf4View.Run / 4;

    public void Prepare(ArrayView<float> codes) => Nf4View.Prepare(codes);

    public TSums Add<TSums>(TSums sums, ArrayView<float> codes, FourRows outputs, int quad, ArrayView<Float4> x, int panel, int stride) where TSums : unmanaged, IMatVecSums<TSums>
    {
        long first = outputs.First * inputs + 4 * quad, second = outputs.Second * inputs + 4 * quad;
        long third = outputs.Third * inputs + 4 * quad, fourth = outputs.Fourth * inputs + 4 * quad;
        Word4 a = weight.Packed(first / Nf4View.Run), b = weight.Packed(second / Nf4View.Run), c = weight.Packed(third / Nf4View.Run), d = weight.Packed(fourth / Nf4View.Run);
        var scales = new Float4 { X = weight.Scale(first), Y = weight.Scale(second), Z = weight.Scale(third), W = weight.Scale(fourth) };
        var run = Add<TSums>(default, codes, a.X, b.X, c.X, d.X, x, panel, stride);
        run = Add(run, codes, a.Y, b.Y, c.Y, d.Y, x, panel + 2, stride);
        run = Add(run, codes, a.Z, b.Z, c.Z, d.Z, x, panel + 4, stride);
        run = Add(run, codes, a.W, b.W, c.W, d.W, x, panel + 6, stride);
        return sums.Add(run, scales); // a scale for 32 terms
    }

    static TSums Add<TSums>(TSums sums, ArrayView<float> codes, uint a, uint b, uint c, uint d, ArrayView<Float4> x, int panel, int stride) where TSums : unmanaged, IMatVecSums<TSums>
    {
        sums = sums.Add(Nf4View.Decode(codes, a), Nf4View.Decode(codes, b), Nf4View.Decode(codes, c), Nf4View.Decode(codes, d), x, MatVecKernels.Place(panel), stride);
        return sums.Add(Nf4View.Decode(codes, a >> 16), Nf4View.Decode(codes, b >> 16), Nf4View.Decode(codes, c >> 16), Nf4View.Decode(codes, d >> 16), x,
            MatVecKernels.Place(panel + 1), stride);
    }
}
