using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// Where the sums of a tensor-core product go: C = alpha·sums + bias (+ C). Sums pass through shared memory, 16 rows at a time, since mma leaves each lane pairs of columns that lie apart:
/// out of there every row is stored in whole sectors.
/// </summary>
/// <param name="values">[parts, rows, columns].</param>
/// <param name="bias">[columns], or nothing.</param>
/// <param name="rows">M.</param>
/// <param name="columns">N.</param>
/// <param name="alpha">Factor on the sums.</param>
/// <param name="accumulate">Whether what is there is added.</param>
/// <param name="quads">Whether <see cref="Quads.Fit"/> holds.</param>
readonly struct TileResult<T>(ArrayView<T> values, ArrayView<float> bias, int rows, int columns, float alpha, bool accumulate, bool quads) where T : unmanaged, IElement<T>
{
    public readonly ArrayView<T> Values = values;
    public readonly ArrayView<float> Bias = bias;
    public readonly int Rows = rows, Columns = columns;
    readonly float alpha = alpha;
    readonly int accumulate = accumulate ? 1 : 0, quads = quads ? 1 : 0;

    /// <summary>The result of a call.</summary>
    public static TileResult<T> Of(KernelDevice device, MatMulCall call) =>
        new(device.Buffers.View<T>(call.C), device.Buffers.View<float>(call.Bias), call.M, call.N, call.Alpha, call.Accumulate, Quads.Fit(call.C, call.N));

    /// <summary>Stores a warp's sums, whose first element is (<paramref name="row"/>, <paramref name="column"/>). Nobody else may use the group's shared memory any more.</summary>
    public static void Store<TTile>(TileResult<T> result, TTile sums, int part, int row, int column, SharedMemoryBlock shared) where TTile : unmanaged, IWarpTile<TTile>
    {
        int pitch = TTile.Columns + WarpTileIntrinsics.BandPadding, own = Warp.WarpIdx * 16 * pitch, lane = Warp.LaneIdx;
        uint target = shared.Address + (uint)(own + (lane >> 2) * pitch + (lane & 3) * 2) * sizeof(float);
        var band = shared.View.Cast<Float4>();
        int lanes = TTile.Columns / 4, first = lane / lanes; // lanes that a row takes
        int at = column + lane % lanes * 4;
        var bias = result.BiasOf(at);
        for (int i = 0; i < TTile.Rows / 16; i++)
        {
            TTile.StoreRows(sums, i, target);
            Warp.Barrier(); // between the lanes that stored a row and those that read it
            for (int j = first; j < 16; j += 32 / lanes)
            {
                result.StoreQuad(part, row + 16 * i + j, at, band[(own + j * pitch) / 4 + lane % lanes], bias);
            }

            Warp.Barrier(); // before the next rows overwrite these
        }
    }

    /// <inheritdoc />
    public override string ToString() => $"{T.Type} [{Rows}, {Columns}]";

    /// <summary>The bias of four columns; zeros where there is none.</summary>
    public Float4 BiasOf(int column)
    {
        Float4 bias = default;
        if (Bias.Length > 0)
        {
            bias.X = column < Columns ? Bias[column] : 0;
            bias.Y = column + 1 < Columns ? Bias[column + 1] : 0;
            bias.Z = column + 2 < Columns ? Bias[column + 2] : 0;
            bias.W = column + 3 < Columns ? Bias[column + 3] : 0;
        }

        return bias;
    }

    /// <summary>Stores what lies inside the matrix of four neighbours in a row.</summary>
    public void StoreQuad(int part, int row, int column, Float4 sums, Float4 bias)
    {
        if (row >= Rows || column >= Columns)
        {
            return;
        }

        long start = ((long)part * Rows + row) * Columns + column;
        var value = Float4.AddScaled(bias, alpha, sums);
        if (quads != 0)
        {
            if (accumulate != 0)
            {
                value += Quads.Load(Values, start >> 2);
            }

            Quads.Store(Values, start >> 2, value);
            return;
        }

        Store(start, value.X, column < Columns);
        Store(start + 1, value.Y, column + 1 < Columns);
        Store(start + 2, value.Z, column + 2 < Columns);
        Store(start + 3, value.W, column + 3 < Columns);
    }

    void Store(long index, float value, bool exists)
    {
        if (exists)
        {
            Values[index] = T.Narrow(accumulate != 0 ? value + T.Widen(Values[index]) : value);
        }
    }
}
