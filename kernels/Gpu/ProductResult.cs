using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>4 x 4 sums in registers, one structure a row.</summary>
struct Block4
{
    public Float4 Row0, Row1, Row2, Row3;

    /// <summary>Adds the outer product of a column and a row.</summary>
    public readonly Block4 Add(Float4 column, Float4 row) =>
        new() { Row0 = Add(Row0, column.X, row), Row1 = Add(Row1, column.Y, row), Row2 = Add(Row2, column.Z, row), Row3 = Add(Row3, column.W, row) };

    static Float4 Add(Float4 sums, float left, Float4 right) => new()
    {
        X = Intrinsics.Fma(left, right.X, sums.X),
        Y = Intrinsics.Fma(left, right.Y, sums.Y),
        Z = Intrinsics.Fma(left, right.Z, sums.Z),
        W = Intrinsics.Fma(left, right.W, sums.W),
    };
}

/// <summary>8 x 8 sums of one thread, as four blocks that lie 32 rows and columns apart: so the quads that neighbouring threads read from shared memory are neighbours too.</summary>
struct Block8
{
    public Block4 TopLeft, TopRight, BottomLeft, BottomRight;

    /// <summary>Adds the outer product of eight rows' elements and eight columns'.</summary>
    public readonly Block8 Add(Float4 top, Float4 bottom, Float4 left, Float4 right) => new()
    {
        TopLeft = TopLeft.Add(top, left),
        TopRight = TopRight.Add(top, right),
        BottomLeft = BottomLeft.Add(bottom, left),
        BottomRight = BottomRight.Add(bottom, right),
    };
}

/// <summary>Where a product goes, and what is added on the way.</summary>
/// <param name="values">[parts, rows, columns].</param>
/// <param name="bias">[columns], or nothing.</param>
/// <param name="rows">M.</param>
/// <param name="columns">N.</param>
/// <param name="accumulate">Whether what is there is added.</param>
/// <param name="quads">Whether <see cref="Quads.Fit"/> holds.</param>
struct Result<T>(ArrayView<T> values, ArrayView<F32> bias, int rows, int columns, bool accumulate, bool quads) where T : unmanaged, IElement<T>
{
    readonly ArrayView<T> values = values;
    readonly ArrayView<F32> bias = bias;
    readonly int rows = rows, columns = columns, accumulate = accumulate ? 1 : 0, quads = quads ? 1 : 0;

    /// <summary>The result of a call.</summary>
    public static Result<T> Of(KernelDevice device, MatMulCall call) =>
        new(device.Buffers.View<T>(call.C), device.Buffers.View<F32>(call.Bias), call.M, call.N, call.Accumulate, Quads.Fit(call.C, call.N));

    /// <summary>Stores what lies inside the matrix of the 4 x 4 block whose first element is (<paramref name="row"/>, <paramref name="column"/>).</summary>
    public readonly void Store(int part, int row, int column, Block4 block)
    {
        StoreRow(part, row, column, block.Row0);
        StoreRow(part, row + 1, column, block.Row1);
        StoreRow(part, row + 2, column, block.Row2);
        StoreRow(part, row + 3, column, block.Row3);
    }

    /// <summary>Stores one element of the first part.</summary>
    public readonly void Store(long index, float value)
    {
        value += bias.Length > 0 ? F32.Widen(bias[index % columns]) : 0;
        values[index] = T.Narrow(accumulate != 0 ? value + T.Widen(values[index]) : value);
    }

    /// <summary>Stores what lies inside the matrix of four neighbouring elements of a row.</summary>
    public readonly void StoreRow(int part, int row, int column, Float4 value)
    {
        if (row >= rows || column >= columns)
        {
            return;
        }

        long start = ((long)part * rows + row) * columns + column;
        if (quads != 0 && bias.Length == 0 && accumulate == 0)
        {
            Quads.Store(values, start >> 2, value);
            return;
        }

        Store(start, value.X);
        if (column + 1 < columns)
        {
            Store(start + 1, value.Y);
        }

        if (column + 2 < columns)
        {
            Store(start + 2, value.Z);
        }

        if (column + 3 < columns)
        {
            Store(start + 3, value.W);
        }
    }
}
