using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The two products that attention is made of, without tensor cores, for a tile of rows and a tile of 64 columns. Eight rows belong to a warp. Both operands pass through shared memory,
/// 64 floats of a row at a time: on the left one row for each row of the tile, first queries (or keys), then the tile's probabilities; on the right one for each column, first keys,
/// then values. Half a warp owns rows 4·(thread/16) to + 3; its lane l columns l, l + 16, l + 32 and l + 48 of scores, and columns 4·l to 4·l + 3 of each 64 of outputs.
/// Rows are 17 quads apart: a quarter of a warp that reads quads of eight rows finds them in different banks.
/// </summary>
/// <typeparam name="TWarps">Warps of a group.</typeparam>
static class AttentionProducts<TWarps> where TWarps : unmanaged, IConstant
{
    /// <summary>Columns of a tile, and floats of a chunk.</summary>
    public const int Columns = 64;

    const int Stride = 17;

    /// <summary>Rows of a tile.</summary>
    public static int Rows => 8 * TWarps.Value;

    /// <summary>Threads of a group.</summary>
    public static int Threads => 32 * TWarps.Value;

    /// <summary>Shared memory of a group.</summary>
    public static int SharedBytes => (Rows + Columns) * Stride * 16;

    /// <summary>The first of this thread's four rows.</summary>
    public static int Row => Group.IdxX / 16 * 4;

    /// <summary>The first of this thread's columns of scores.</summary>
    public static int Column => Group.IdxX % 16;

    /// <summary>The shared memory that a kernel hands to every product. It asks once: on the simulator, each call is another piece of memory.</summary>
    public static ArrayView<Float4> Shared() => SharedMemory.GetDynamic<Float4>();

    static ArrayView<Float4> Right(ArrayView<Float4> shared) => shared.SubView(Rows * Stride);

    /// <summary>Where this thread's four rows begin, of a tile of <paramref name="count"/> rows; past its end the last one again.</summary>
    public static RowStarts Starts(long start, long stride, int count) => Starts(start, stride, count, Row, 1);

    /// <summary>Scores: a·bᵀ over the whole width, rows of a against columns that are rows of b.</summary>
    /// <param name="shared">From <see cref="Shared"/>.</param>
    /// <param name="a">Tensor of the rows.</param>
    /// <param name="rows">Where this thread's rows begin.</param>
    /// <param name="b">Tensor of the columns.</param>
    /// <param name="start">Where the first column's row begins.</param>
    /// <param name="stride">From one column's row to the next.</param>
    /// <param name="count">Columns of the tile.</param>
    /// <param name="rowCount">Rows of the tile.</param>
    /// <param name="heads">How rows are read.</param>
    public static Block4x4 Scores<T>(ArrayView<Float4> shared, ArrayView<T> a, RowStarts rows, ArrayView<T> b, long start, long stride, int count, int rowCount, HeadRows heads)
        where T : unmanaged, IElement<T>
    {
        int quad = Group.IdxX % 16;
        var sums = default(Block4x4);
        for (int column = 0; column < heads.Width; column += Columns)
        {
            Group.Barrier(); // whoever read what was in shared memory is done
            Store(heads.Read(a, rows, Row < rowCount ? column + 4 * quad : heads.Width), shared.SubView(Row * Stride + quad), 1); // zeros where there are no rows
            LoadRight(shared, b, start, stride, count, column, heads);
            Group.Barrier(); // both chunks are in
            sums = MultiplyTransposed(shared, sums, IsBusy(rowCount) ? (Math.Min(heads.Width - column, Columns) + 3) / 4 : 0);
        }

        return sums;
    }

    /// <summary>Puts probabilities on the left, into the rows of this warp.</summary>
    public static void Put(ArrayView<Float4> shared, Block4x4 block)
    {
        Warp.Barrier(); // the warp has read what was in its rows
        var to = shared.Cast<float>().SubView(4 * Row * Stride + Column);
        Put(to, block.R0);
        Put(to.SubView(4 * Stride), block.R1);
        Put(to.SubView(8 * Stride), block.R2);
        Put(to.SubView(12 * Stride), block.R3);
    }

    /// <summary>Adds the probabilities on the left times x, of which the tile's columns are rows.</summary>
    /// <typeparam name="T">Element of x.</typeparam>
    /// <typeparam name="TBlocks">Blocks of 64 columns that x has, rounded up to 1, 2 or 4.</typeparam>
    /// <param name="shared">From <see cref="Shared"/>.</param>
    /// <param name="sums">What is added to.</param>
    /// <param name="x">Values, or whatever the probabilities weigh.</param>
    /// <param name="start">Where the first row begins.</param>
    /// <param name="stride">From one row to the next.</param>
    /// <param name="count">Columns of the tile.</param>
    /// <param name="rowCount">Rows of the tile.</param>
    /// <param name="heads">How rows are read.</param>
    public static Sums AddWeighted<T, TBlocks>(ArrayView<Float4> shared, Sums sums, ArrayView<T> x, long start, long stride, int count, int rowCount, HeadRows heads)
        where T : unmanaged, IElement<T> where TBlocks : unmanaged, IConstant
    {
        int quads = IsBusy(rowCount) ? (count + 3) / 4 : 0;
        sums.B0 = AddWeighted(shared, sums.B0, x, start, stride, count, 0, quads, heads);
        if (TBlocks.Value > 1)
        {
            sums.B1 = AddWeighted(shared, sums.B1, x, start, stride, count, Columns, quads, heads);
        }

        if (TBlocks.Value > 2)
        {
            sums.B2 = AddWeighted(shared, sums.B2, x, start, stride, count, 2 * Columns, quads, heads);
            sums.B3 = AddWeighted(shared, sums.B3, x, start, stride, count, 3 * Columns, quads, heads);
        }

        return sums;
    }

    /// <summary>Writes the rows of this thread.</summary>
    /// <param name="y">Output.</param>
    /// <param name="starts">Where the four rows begin; negative for those past the end of the tile.</param>
    /// <param name="sums">The rows.</param>
    /// <param name="heads">How rows are written.</param>
    public static void Write<T, TBlocks>(ArrayView<T> y, RowStarts starts, Sums sums, HeadRows heads) where T : unmanaged, IElement<T> where TBlocks : unmanaged, IConstant
    {
        Write(y, starts, 0, sums.B0, heads);
        if (TBlocks.Value > 1)
        {
            Write(y, starts, Columns, sums.B1, heads);
        }

        if (TBlocks.Value > 2)
        {
            Write(y, starts, 2 * Columns, sums.B2, heads);
            Write(y, starts, 3 * Columns, sums.B3, heads);
        }
    }

    /// <summary>The sum over the 16 lanes that share a row.</summary>
    public static float SumOfLanes(float x)
    {
        for (int distance = 8; distance > 0; distance >>= 1)
        {
            x += Warp.ShuffleXor(x, distance);
        }

        return x;
    }

    /// <summary>Whether this warp has any of the tile's rows.</summary>
    static bool IsBusy(int rowCount) => Group.IdxX / 32 * 8 < rowCount;

    static RowStarts Starts(long start, long stride, int count, int first, int step)
    {
        RowStarts starts = default;
        starts.A = start + Math.Min(first, count - 1) * stride;
        starts.B = start + Math.Min(first + step, count - 1) * stride;
        starts.C = start + Math.Min(first + 2 * step, count - 1) * stride;
        starts.D = start + Math.Min(first + 3 * step, count - 1) * stride;
        return starts;
    }

    /// <summary>Brings 64 columns of x, from <paramref name="column"/> on, to the right: half a warp a row, four rows each at a time.</summary>
    static void LoadRight<T>(ArrayView<Float4> shared, ArrayView<T> x, long start, long stride, int count, int column, HeadRows heads) where T : unmanaged, IElement<T>
    {
        int quad = Group.IdxX % 16, step = 2 * TWarps.Value;
        for (int first = Group.IdxX / 16; first < Columns; first += 4 * step)
        {
            Store(heads.Read(x, Starts(start, stride, count, first, step), column + 4 * quad), Right(shared).SubView(first * Stride + quad), step);
        }
    }

    static void Store((Float4 A, Float4 B, Float4 C, Float4 D) quads, ArrayView<Float4> to, int step)
    {
        to[0] = quads.A;
        to[step * Stride] = quads.B;
        to[2 * step * Stride] = quads.C;
        to[3 * step * Stride] = quads.D;
    }

    static Block4x4 AddWeighted<T>(ArrayView<Float4> shared, Block4x4 sums, ArrayView<T> x, long start, long stride, int count, int column, int quads, HeadRows heads) where T : unmanaged, IElement<T>
    {
        Group.Barrier(); // whoever read the right side is done
        LoadRight(shared, x, start, stride, count, column, heads);
        Group.Barrier(); // both sides are in
        return Multiply(shared, sums, quads);
    }

    static void Put(ArrayView<float> row, Float4 value)
    {
        row[0] = value.X;
        row[16] = value.Y;
        row[32] = value.Z;
        row[48] = value.W;
    }

    static void Write<T>(ArrayView<T> y, RowStarts starts, int column, Block4x4 block, HeadRows heads) where T : unmanaged, IElement<T>
    {
        WriteRow(y, starts.A, column, block.R0, heads);
        WriteRow(y, starts.B, column, block.R1, heads);
        WriteRow(y, starts.C, column, block.R2, heads);
        WriteRow(y, starts.D, column, block.R3, heads);
    }

    static void WriteRow<T>(ArrayView<T> y, long start, int column, Float4 value, HeadRows heads) where T : unmanaged, IElement<T>
    {
        if (start >= 0)
        {
            heads.Write(y, start, column + 4 * (Group.IdxX % 16), value);
        }
    }

    static Block4x4 MultiplyTransposed(ArrayView<Float4> shared, Block4x4 sums, int quads)
    {
        var left = shared.SubView(Row * Stride);
        var right = Right(shared).SubView(Column * Stride);
        for (int i = 0; i < quads; i++)
        {
            var a = left.SubView(i);
            var b = right.SubView(i);
            Float4 b0 = b[0], b1 = b[16 * Stride], b2 = b[32 * Stride], b3 = b[48 * Stride];
            sums.R0 = Block4x4.AddDots(sums.R0, a[0], b0, b1, b2, b3);
            sums.R1 = Block4x4.AddDots(sums.R1, a[Stride], b0, b1, b2, b3);
            sums.R2 = Block4x4.AddDots(sums.R2, a[2 * Stride], b0, b1, b2, b3);
            sums.R3 = Block4x4.AddDots(sums.R3, a[3 * Stride], b0, b1, b2, b3);
        }

        return sums;
    }

    static Block4x4 Multiply(ArrayView<Float4> shared, Block4x4 sums, int quads)
    {
        var left = shared.SubView(Row * Stride);
        var right = Right(shared).SubView(Group.IdxX % 16);
        for (int i = 0; i < quads; i++)
        {
            var a = left.SubView(i);
            var b = right.SubView(4 * Stride * i);
            Float4 b0 = b[0], b1 = b[Stride], b2 = b[2 * Stride], b3 = b[3 * Stride];
            sums.R0 = Block4x4.AddRows(sums.R0, a[0], b0, b1, b2, b3);
            sums.R1 = Block4x4.AddRows(sums.R1, a[Stride], b0, b1, b2, b3);
            sums.R2 = Block4x4.AddRows(sums.R2, a[2 * Stride], b0, b1, b2, b3);
            sums.R3 = Block4x4.AddRows(sums.R3, a[3 * Stride], b0, b1, b2, b3);
        }

        return sums;
    }
}
