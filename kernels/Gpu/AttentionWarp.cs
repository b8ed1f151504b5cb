using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>Accumulators of a warp, by how many floats a lane holds of them. Each field is a register: an array would be indexed, and so live in local memory.</summary>
struct Floats8
{
    public Float4 A, B;
}

/// <inheritdoc cref="Floats8" />
struct Floats16
{
    public Floats8 A, B;
}

/// <inheritdoc cref="Floats8" />
struct Floats24
{
    public Floats8 A, B, C;
}

/// <inheritdoc cref="Floats8" />
struct Floats32
{
    public Floats16 A, B;
}

/// <inheritdoc cref="Floats8" />
struct Floats48
{
    public Floats24 A, B;
}

/// <inheritdoc cref="Floats8" />
struct Floats64
{
    public Floats32 A, B;
}

/// <inheritdoc cref="Floats8" />
struct Floats96
{
    public Floats48 A, B;
}

/// <inheritdoc cref="Floats8" />
struct Floats128
{
    public Floats64 A, B;
}

/// <summary>The extents of a warp's tile in attention, which follow from the structures that hold it.</summary>
/// <typeparam name="TOutput">Sums of the warp's rows over the head's columns.</typeparam>
/// <typeparam name="TScores">Scores of the warp's rows and some columns.</typeparam>
/// <typeparam name="TRows">A number for each of a lane's rows: two in a block of 16 rows.</typeparam>
static class AttentionWarp<TOutput, TScores, TRows> where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged
{
    /// <summary>Blocks of 16 rows.</summary>
    public static int RowBlocks => Interop.SizeOf<TRows>() / 8;

    /// <summary>Rows of the warp.</summary>
    public static int Rows => 16 * RowBlocks;

    /// <summary>Columns of a head, padded.</summary>
    public static int Width => Interop.SizeOf<TOutput>() / (2 * RowBlocks);

    /// <summary>Columns of the scores.</summary>
    public static int Columns => Interop.SizeOf<TScores>() / (2 * RowBlocks);
}
