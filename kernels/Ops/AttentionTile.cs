using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>A number that a kernel is compiled for.</summary>
interface IConstant
{
    static abstract int Value { get; }
}

readonly struct One : IConstant
{
    public static int Value => 1;
}

readonly struct Two : IConstant
{
    public static int Value => 2;
}

readonly struct Four : IConstant
{
    public static int Value => 4;
}

readonly struct Eight : IConstant
{
    public static int Value => 8;
}

/// <summary>Four by four sums of one thread.</summary>
struct Block4x4
{
    public Float4 R0, R1, R2, R3;
}

/// <summary>A thread's share of a tile's outputs: of each 64 columns a block. Kernels for narrow heads use the first blocks only.</summary>
struct Sums
{
    public Block4x4 B0, B1, B2, B3;
}

/// <summary>Where four rows begin in a tensor.</summary>
struct RowStarts
{
    public long A, B, C, D;
}

/// <summary>The constants of an attention call, as kernels take them.</summary>
/// <param name="shape">Heads, width, scale, window.</param>
/// <param name="aligned">Whether every row of a head can be read in quads.</param>
readonly struct AttentionSizes(AttentionShape shape, bool aligned)
{
    public readonly int Heads = shape.Heads, KeyValueHeads = shape.KeyValueHeads, Group = shape.Heads / shape.KeyValueHeads, Width = shape.HeadWidth;

    /// <summary>Keys that a query sees at most.</summary>
    public readonly int Window = shape.Window == 0 ? int.MaxValue : shape.Window;

    public readonly float Scale = (float)shape.Scale;

    /// <summary>Turns a score into the exponent of two.</summary>
    public readonly float ScaleOfTwo = (float)(shape.Scale / Math.Log(2));

    /// <summary>Not 0 if every row of a head can be read in quads.</summary>
    public readonly int Aligned = aligned ? 1 : 0;

    /// <summary>From one query row to the next.</summary>
    public long QueryStride => (long)Heads * Width;

    /// <summary>From one key row to the next.</summary>
    public long KeyStride => (long)KeyValueHeads * Width;
}

/// <summary>
/// The two products that attention is made of, for a tile of rows and a tile of 64 columns. Eight rows belong to a warp. Both operands pass through shared memory, 64 floats of a row at
/// a time: <c>left</c> one row for each row of the tile, first queries (or keys), then the tile's probabilities; <c>right</c> one for each column, first keys, then values.
/// Half a warp owns rows 4·(thread/16) to + 3; its lane l columns l, l + 16, l + 32 and l + 48 of scores, and columns 4·l to 4·l + 3 of 64 in products with probabilities.
/// Rows are 17 quads apart: a quarter of a warp reads quads of eight rows that lie in different banks.
/// </summary>
static class AttentionTile
{
    /// <summary>Columns of a tile, and floats of a chunk.</summary>
    public const int Columns = 64;

    const int Stride = 17;

    /// <summary>Rows of a tile.</summary>
    public static int Rows<TWarps>() where TWarps : unmanaged, IConstant => 8 * TWarps.Value;

    /// <summary>Threads of a group, given its rows.</summary>
    public static int Threads(int rows) => 4 * rows;

    /// <summary>Shared memory of a group, given its rows.</summary>
    public static int SharedBytes(int rows) => (rows + Columns) * Stride * 16;

    /// <summary>The part of shared memory that holds rows.</summary>
    public static ArrayView<Float4> Left<TWarps>() where TWarps : unmanaged, IConstant => SharedMemory.GetDynamic<Float4>().SubView(0, Rows<TWarps>() * Stride);

    /// <summary>The part of shared memory that holds columns.</summary>
    public static ArrayView<Float4> Right<TWarps>() where TWarps : unmanaged, IConstant => SharedMemory.GetDynamic<Float4>().SubView(Rows<TWarps>() * Stride, Columns * Stride);

    /// <summary>The rows that this thread brings in, of a tile of <paramref name="count"/> rows; those past the end are the last again.</summary>
    public static RowStarts Starts<TWarps>(long start, long stride, int first, int count) where TWarps : unmanaged, IConstant
    {
        int row = first + Group.IdxX / 16, step = 2 * TWarps.Value;
        RowStarts starts = default;
        starts.A = start + Math.Min(row, count - 1) * stride;
        starts.B = start + Math.Min(row + step, count - 1) * stride;
        starts.C = start + Math.Min(row + 2 * step, count - 1) * stride;
        starts.D = start + Math.Min(row + 3 * step, count - 1) * stride;
        return starts;
    }

    /// <summary>Brings a chunk of rows, from <paramref name="column"/> on, into shared memory as floats; zeros past the width.</summary>
    public static void Load<T, TWarps>(ArrayView<T> x, RowStarts starts, int column, AttentionSizes sizes, ArrayView<Float4> to, int first)
        where T : unmanaged, IElement<T> where TWarps : unmanaged, IConstant
    {
        int quad = Group.IdxX % 16, left = sizes.Width - column - 4 * quad, step = 2 * TWarps.Value;
        long at = column + 4 * quad;
        Float4 a = default, b = default, c = default, d = default;
        if (sizes.Aligned == 0)
        {
            a = Elements(x, starts.A + at, left);
            b = Elements(x, starts.B + at, left);
            c = Elements(x, starts.C + at, left);
            d = Elements(x, starts.D + at, left);
        }
        else if (left > 0)
        {
            a = Quads.Load(x, (starts.A + at) >> 2);
            b = Quads.Load(x, (starts.B + at) >> 2);
            c = Quads.Load(x, (starts.C + at) >> 2);
            d = Quads.Load(x, (starts.D + at) >> 2);
        }

        int place = (first + Group.IdxX / 16) * Stride + quad;
        to[place] = a;
        to[place + step * Stride] = b;
        to[place + 2 * step * Stride] = c;
        to[place + 3 * step * Stride] = d;
    }

    /// <summary>Brings a chunk of the tile's columns into shared memory: rows of x, <paramref name="stride"/> apart.</summary>
    public static void LoadColumns<T, TWarps>(ArrayView<T> x, long start, long stride, int count, int column, AttentionSizes sizes)
        where T : unmanaged, IElement<T> where TWarps : unmanaged, IConstant
    {
        var right = Right<TWarps>();
        for (int first = 0; first < Columns; first += Rows<TWarps>())
        {
            Load<T, TWarps>(x, Starts<TWarps>(start, stride, first, count), column, sizes, right, first);
        }
    }

    /// <summary>Scores: a·bᵀ over the whole width, rows of a against columns that are rows of b.</summary>
    /// <param name="a">Tensor of the rows.</param>
    /// <param name="rows">Where the rows that this thread brings in begin.</param>
    /// <param name="b">Tensor of the columns.</param>
    /// <param name="start">Where the first column's row begins.</param>
    /// <param name="stride">From one column's row to the next.</param>
    /// <param name="count">Columns of the tile.</param>
    /// <param name="busy">Whether this warp has rows.</param>
    /// <param name="sizes">Width and alignment.</param>
    public static Block4x4 Scores<T, TWarps>(ArrayView<T> a, RowStarts rows, ArrayView<T> b, long start, long stride, int count, bool busy, AttentionSizes sizes)
        where T : unmanaged, IElement<T> where TWarps : unmanaged, IConstant
    {
        var sums = default(Block4x4);
        for (int column = 0; column < sizes.Width; column += Columns)
        {
            Group.Barrier(); // whoever read what was in shared memory is done
            Load<T, TWarps>(a, rows, column, sizes, Left<TWarps>(), 0);
            LoadColumns<T, TWarps>(b, start, stride, count, column, sizes);
            Group.Barrier(); // both chunks are in
            int quads = busy ? (Math.Min(sizes.Width - column, Columns) + 3) / 4 : 0;
            sums = MultiplyTransposed<TWarps>(sums, quads);
        }

        return sums;
    }

    /// <summary>Puts probabilities into the rows of this warp.</summary>
    public static void Put<TWarps>(Block4x4 block) where TWarps : unmanaged, IConstant
    {
        Warp.Barrier(); // the warp has read what was in its rows
        var to = Left<TWarps>().Cast<float>().SubView(Group.IdxX / 16 * 16 * Stride + Group.IdxX % 16);
        Put(to, block.R0);
        Put(to.SubView(4 * Stride), block.R1);
        Put(to.SubView(8 * Stride), block.R2);
        Put(to.SubView(12 * Stride), block.R3);
    }

    /// <summary>Adds probabilities times x, of which the tile's columns are rows.</summary>
    /// <param name="sums">What is added to.</param>
    /// <param name="x">Values, or whatever the probabilities weigh.</param>
    /// <param name="start">Where the first row begins.</param>
    /// <param name="stride">From one row to the next.</param>
    /// <param name="count">Columns of the tile.</param>
    /// <param name="busy">Whether this warp has rows.</param>
    /// <param name="sizes">Width and alignment.</param>
    public static Sums AddWeighted<T, TWarps, TBlocks>(Sums sums, ArrayView<T> x, long start, long stride, int count, bool busy, AttentionSizes sizes)
        where T : unmanaged, IElement<T> where TWarps : unmanaged, IConstant where TBlocks : unmanaged, IConstant
    {
        int quads = busy ? (count + 3) / 4 : 0;
        sums.B0 = AddWeighted<T, TWarps>(sums.B0, x, start, stride, count, 0, quads, sizes);
        if (TBlocks.Value > 1)
        {
            sums.B1 = AddWeighted<T, TWarps>(sums.B1, x, start, stride, count, Columns, quads, sizes);
        }

        if (TBlocks.Value > 2)
        {
            sums.B2 = AddWeighted<T, TWarps>(sums.B2, x, start, stride, count, 2 * Columns, quads, sizes);
            sums.B3 = AddWeighted<T, TWarps>(sums.B3, x, start, stride, count, 3 * Columns, quads, sizes);
        }

        return sums;
    }

    /// <summary>Multiplies each row by its factor.</summary>
    public static Sums Scaled<TBlocks>(Sums sums, Float4 factors) where TBlocks : unmanaged, IConstant
    {
        sums.B0 = Scaled(sums.B0, factors);
        if (TBlocks.Value > 1)
        {
            sums.B1 = Scaled(sums.B1, factors);
        }

        if (TBlocks.Value > 2)
        {
            sums.B2 = Scaled(sums.B2, factors);
            sums.B3 = Scaled(sums.B3, factors);
        }

        return sums;
    }

    /// <summary>Writes the rows of this thread, each times its factor.</summary>
    /// <param name="y">Output.</param>
    /// <param name="starts">Where the four rows begin; negative for those past the end of the tile.</param>
    /// <param name="sums">The rows.</param>
    /// <param name="factors">One for each row.</param>
    /// <param name="sizes">Width and alignment.</param>
    public static void Write<T, TBlocks>(ArrayView<T> y, RowStarts starts, Sums sums, Float4 factors, AttentionSizes sizes)
        where T : unmanaged, IElement<T> where TBlocks : unmanaged, IConstant
    {
        Write(y, starts, 0, Scaled(sums.B0, factors), sizes);
        if (TBlocks.Value > 1)
        {
            Write(y, starts, Columns, Scaled(sums.B1, factors), sizes);
        }

        if (TBlocks.Value > 2)
        {
            Write(y, starts, 2 * Columns, Scaled(sums.B2, factors), sizes);
            Write(y, starts, 3 * Columns, Scaled(sums.B3, factors), sizes);
        }
    }

    /// <summary>Four elements from <paramref name="at"/> on, of which <paramref name="left"/> lie within the row; zeros past its end.</summary>
    public static Float4 Read<T>(ArrayView<T> x, long at, int left, AttentionSizes sizes) where T : unmanaged, IElement<T> =>
        sizes.Aligned != 0 ? Quads.Load(x, at >> 2) : Elements(x, at, left);

    /// <summary>Writes what <see cref="Read"/> with the same numbers would read.</summary>
    public static void Write<T>(ArrayView<T> y, long at, int left, Float4 value, AttentionSizes sizes) where T : unmanaged, IElement<T>
    {
        if (sizes.Aligned != 0)
        {
            Quads.Store(y, at >> 2, value);
            return;
        }

        y[at] = T.Narrow(value.X);
        if (left > 1)
        {
            y[at + 1] = T.Narrow(value.Y);
        }

        if (left > 2)
        {
            y[at + 2] = T.Narrow(value.Z);
        }

        if (left > 3)
        {
            y[at + 3] = T.Narrow(value.W);
        }
    }

    /// <summary>sum + factor · x.</summary>
    public static Float4 Add(Float4 sum, float factor, Float4 x) =>
        new() { X = Intrinsics.Fma(factor, x.X, sum.X), Y = Intrinsics.Fma(factor, x.Y, sum.Y), Z = Intrinsics.Fma(factor, x.Z, sum.Z), W = Intrinsics.Fma(factor, x.W, sum.W) };

    /// <summary>The sum over the 16 lanes that share a row.</summary>
    public static float SumOfLanes(float x)
    {
        for (int distance = 8; distance > 0; distance >>= 1)
        {
            x += Warp.ShuffleXor(x, distance);
        }

        return x;
    }

    static Block4x4 AddWeighted<T, TWarps>(Block4x4 sums, ArrayView<T> x, long start, long stride, int count, int column, int quads, AttentionSizes sizes)
        where T : unmanaged, IElement<T> where TWarps : unmanaged, IConstant
    {
        Group.Barrier(); // whoever read the columns is done
        LoadColumns<T, TWarps>(x, start, stride, count, column, sizes);
        Group.Barrier(); // columns and probabilities are in
        return Multiply<TWarps>(sums, quads);
    }

    static Block4x4 Scaled(Block4x4 block, Float4 factors) => new()
    {
        R0 = Scaled(block.R0, factors.X),
        R1 = Scaled(block.R1, factors.Y),
        R2 = Scaled(block.R2, factors.Z),
        R3 = Scaled(block.R3, factors.W),
    };

    static Float4 Scaled(Float4 x, float factor) => new() { X = x.X * factor, Y = x.Y * factor, Z = x.Z * factor, W = x.W * factor };

    static void Write<T>(ArrayView<T> y, RowStarts starts, int column, Block4x4 block, AttentionSizes sizes) where T : unmanaged, IElement<T>
    {
        WriteRow(y, starts.A, column, block.R0, sizes);
        WriteRow(y, starts.B, column, block.R1, sizes);
        WriteRow(y, starts.C, column, block.R2, sizes);
        WriteRow(y, starts.D, column, block.R3, sizes);
    }

    static void WriteRow<T>(ArrayView<T> y, long start, int column, Float4 value, AttentionSizes sizes) where T : unmanaged, IElement<T>
    {
        int at = column + 4 * (Group.IdxX % 16);
        if (start >= 0 && at < sizes.Width)
        {
            Write(y, start + at, sizes.Width - at, value, sizes);
        }
    }

    static void Put(ArrayView<float> row, Float4 value)
    {
        row[0] = value.X;
        row[16] = value.Y;
        row[32] = value.Z;
        row[48] = value.W;
    }

    static Float4 Elements<T>(ArrayView<T> x, long at, int left) where T : unmanaged, IElement<T>
    {
        Float4 quad = default;
        quad.X = left > 0 ? T.Widen(x[at]) : 0;
        quad.Y = left > 1 ? T.Widen(x[at + 1]) : 0;
        quad.Z = left > 2 ? T.Widen(x[at + 2]) : 0;
        quad.W = left > 3 ? T.Widen(x[at + 3]) : 0;
        return quad;
    }

    static Block4x4 MultiplyTransposed<TWarps>(Block4x4 sums, int quads) where TWarps : unmanaged, IConstant
    {
        var left = Left<TWarps>().SubView(Group.IdxX / 16 * 4 * Stride);
        var right = Right<TWarps>().SubView(Group.IdxX % 16 * Stride);
        for (int i = 0; i < quads; i++)
        {
            var a = left.SubView(i);
            var b = right.SubView(i);
            Float4 b0 = b[0], b1 = b[16 * Stride], b2 = b[32 * Stride], b3 = b[48 * Stride];
            sums.R0 = AddDots(sums.R0, a[0], b0, b1, b2, b3);
            sums.R1 = AddDots(sums.R1, a[Stride], b0, b1, b2, b3);
            sums.R2 = AddDots(sums.R2, a[2 * Stride], b0, b1, b2, b3);
            sums.R3 = AddDots(sums.R3, a[3 * Stride], b0, b1, b2, b3);
        }

        return sums;
    }

    static Block4x4 Multiply<TWarps>(Block4x4 sums, int quads) where TWarps : unmanaged, IConstant
    {
        var left = Left<TWarps>().SubView(Group.IdxX / 16 * 4 * Stride);
        var right = Right<TWarps>().SubView(Group.IdxX % 16);
        for (int i = 0; i < quads; i++)
        {
            var a = left.SubView(i);
            var b = right.SubView(4 * Stride * i);
            Float4 b0 = b[0], b1 = b[Stride], b2 = b[2 * Stride], b3 = b[3 * Stride];
            sums.R0 = AddRows(sums.R0, a[0], b0, b1, b2, b3);
            sums.R1 = AddRows(sums.R1, a[Stride], b0, b1, b2, b3);
            sums.R2 = AddRows(sums.R2, a[2 * Stride], b0, b1, b2, b3);
            sums.R3 = AddRows(sums.R3, a[3 * Stride], b0, b1, b2, b3);
        }

        return sums;
    }

    static Float4 AddDots(Float4 sums, Float4 a, Float4 b0, Float4 b1, Float4 b2, Float4 b3) =>
        new() { X = AddDot(sums.X, a, b0), Y = AddDot(sums.Y, a, b1), Z = AddDot(sums.Z, a, b2), W = AddDot(sums.W, a, b3) };

    static float AddDot(float sum, Float4 a, Float4 b) =>
        Intrinsics.Fma(a.W, b.W, Intrinsics.Fma(a.Z, b.Z, Intrinsics.Fma(a.Y, b.Y, Intrinsics.Fma(a.X, b.X, sum))));

    static Float4 AddRows(Float4 sums, Float4 a, Float4 b0, Float4 b1, Float4 b2, Float4 b3) =>
        Add(Add(Add(Add(sums, a.X, b0), a.Y, b1), a.Z, b2), a.W, b3);
}
