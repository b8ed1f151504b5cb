namespace IlgpuPeft.Kernels;

/// <summary>Four by four sums of one thread, a field for each row: a block of a product.</summary>
struct Block4x4
{
    public Float4 R0, R1, R2, R3;

    /// <summary>Each row times its factor.</summary>
    public readonly Block4x4 Scaled(Float4 factors) => new() { R0 = factors.X * R0, R1 = factors.Y * R1, R2 = factors.Z * R2, R3 = factors.W * R3 };

    /// <summary>These sums and the outer product of a column and a row.</summary>
    public readonly Block4x4 AddOuter(Float4 column, Float4 row) => new()
    {
        R0 = Float4.AddScaled(R0, column.X, row),
        R1 = Float4.AddScaled(R1, column.Y, row),
        R2 = Float4.AddScaled(R2, column.Z, row),
        R3 = Float4.AddScaled(R3, column.W, row),
    };

    /// <summary>A row of a·bᵀ: the sums and four terms of each.</summary>
    public static Float4 AddDots(Float4 sums, Float4 a, Float4 b0, Float4 b1, Float4 b2, Float4 b3) => new()
    {
        X = Float4.AddDot(sums.X, a, b0),
        Y = Float4.AddDot(sums.Y, a, b1),
        Z = Float4.AddDot(sums.Z, a, b2),
        W = Float4.AddDot(sums.W, a, b3),
    };

    /// <summary>A row of a·b: the sums and four terms of each.</summary>
    public static Float4 AddRows(Float4 sums, Float4 a, Float4 b0, Float4 b1, Float4 b2, Float4 b3) =>
        Float4.AddScaled(Float4.AddScaled(Float4.AddScaled(Float4.AddScaled(sums, a.X, b0), a.Y, b1), a.Z, b2), a.W, b3);
}

/// <summary>A thread's share of a tile's outputs: of each 64 columns a block. Kernels for narrow heads use the first blocks only.</summary>
struct Sums
{
    public Block4x4 B0, B1, B2, B3;

    /// <summary>Each row times its factor.</summary>
    /// <typeparam name="TBlocks">Blocks that are used: 1, 2 or 4.</typeparam>
    public readonly Sums Scaled<TBlocks>(Float4 factors) where TBlocks : unmanaged, IConstant
    {
        var sums = this;
        sums.B0 = B0.Scaled(factors);
        if (TBlocks.Value > 1)
        {
            sums.B1 = B1.Scaled(factors);
        }

        if (TBlocks.Value > 2)
        {
            sums.B2 = B2.Scaled(factors);
            sums.B3 = B3.Scaled(factors);
        }

        return sums;
    }
}
