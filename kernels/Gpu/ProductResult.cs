using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>8 x 8 sums of one thread, as four blocks that lie 32 rows and columns apart: so the quads that neighbouring threads read from shared memory are neighbours too.</summary>
struct Block8
{
    public Block4x4 TopLeft, TopRight, BottomLeft, BottomRight;

    /// <summary>Adds the outer product of eight rows' elements and eight columns'.</summary>
    public readonly Block8 Add(Float4 top, Float4 bottom, Float4 left, Float4 right) => new()
    {
        TopLeft = TopLeft.AddOuter(top, left),
        TopRight = TopRight.AddOuter(top, right),
        BottomLeft = BottomLeft.AddOuter(bottom, left),
        BottomRight = BottomRight.AddOuter(bottom, right),
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
    public readonly void Store(int part, int row, int column, Block4x4 block)
    {
        StoreRow(part, row, column, block.R0);
        StoreRow(part, row + 1, column, block.R1);
        StoreRow(part, row + 2, column, block.R2);
        StoreRow(part, row + 3, column, block.R3);
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
