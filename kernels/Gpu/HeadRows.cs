using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>Where four rows begin in a tensor.</summary>
struct RowStarts
{
    public long A, B, C, D;
}

/// <summary>How kernels read and write the rows of heads, four elements at a time.</summary>
readonly struct HeadRows
{
    /// <summary>Elements of a row.</summary>
    public readonly int Width;

    readonly int aligned; // 1 or 0: kernels take no bool

    /// <param name="width">Elements of a row.</param>
    /// <param name="slices">The tensors; if all their rows consist of whole quads, each quad is one access.</param>
    public HeadRows(int width, params ReadOnlySpan<Slice> slices)
    {
        (Width, aligned) = (width, 1);
        foreach (var slice in slices)
        {
            aligned &= Quads.Fit(slice, width) ? 1 : 0;
        }
    }

    /// <summary>Elements <paramref name="column"/> to + 3 of a row that begins at <paramref name="start"/>; zeros past its end.</summary>
    public Float4 Read<T>(ArrayView<T> x, long start, int column) where T : unmanaged, IElement<T>
    {
        if (aligned != 0)
        {
            return column < Width ? Quads.Load(x, (start + column) >> 2) : default;
        }

        Float4 quad = default;
        quad.X = Element(x, start, column);
        quad.Y = Element(x, start, column + 1);
        quad.Z = Element(x, start, column + 2);
        quad.W = Element(x, start, column + 3);
        return quad;
    }

    /// <summary>Writes elements <paramref name="column"/> to + 3 of a row that begins at <paramref name="start"/>; nothing past its end.</summary>
    public void Write<T>(ArrayView<T> x, long start, int column, Float4 value) where T : unmanaged, IElement<T>
    {
        if (aligned == 0)
        {
            Element(x, start, column, value.X);
            Element(x, start, column + 1, value.Y);
            Element(x, start, column + 2, value.Z);
            Element(x, start, column + 3, value.W);
        }
        else if (column < Width)
        {
            Quads.Store(x, (start + column) >> 2, value);
        }
    }

    /// <summary>The same quad of four rows: the loads go out together, before any of their values is waited for.</summary>
    public (Float4 A, Float4 B, Float4 C, Float4 D) Read<T>(ArrayView<T> x, RowStarts starts, int column) where T : unmanaged, IElement<T>
    {
        if (aligned == 0)
        {
            return (Read(x, starts.A, column), Read(x, starts.B, column), Read(x, starts.C, column), Read(x, starts.D, column));
        }

        if (column >= Width)
        {
            return default;
        }

        return (Quads.Load(x, (starts.A + column) >> 2), Quads.Load(x, (starts.B + column) >> 2), Quads.Load(x, (starts.C + column) >> 2), Quads.Load(x, (starts.D + column) >> 2));
    }

    /// <summary>Writes one number all over <paramref name="rows"/> rows of <paramref name="width"/> elements, <paramref name="stride"/> apart: the work of a whole group.</summary>
    public static void Fill<T>(ArrayView<T> x, long start, long stride, int rows, int width, float value) where T : unmanaged, IElement<T>
    {
        for (long i = Group.IdxX; i < (long)rows * width; i += Group.DimX)
        {
            x[start + i / width * stride + i % width] = T.Narrow(value);
        }
    }

    float Element<T>(ArrayView<T> x, long start, int column) where T : unmanaged, IElement<T> => column < Width ? T.Widen(x[start + column]) : 0;

    void Element<T>(ArrayView<T> x, long start, int column, float value) where T : unmanaged, IElement<T>
    {
        if (column < Width)
        {
            x[start + column] = T.Narrow(value);
        }
    }
}
