using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>How chunks of eight bfloat16 values move between global memory, seen as <typeparamref name="TUnit"/>, and shared memory.</summary>
interface ITileCopy<TUnit> where TUnit : unmanaged
{
    /// <summary>Copies <paramref name="count"/> values from element <paramref name="at"/> on to a chunk at a shared address, whose rest becomes zero.</summary>
    static abstract void Load(ArrayView<TUnit> source, long at, int count, uint shared);

    /// <summary>The <paramref name="count"/> values from element <paramref name="at"/> on, then zeros; <paramref name="count"/> is positive.</summary>
    static abstract Word4 Read(ArrayView<TUnit> source, long at, int count);

    /// <summary>Writes the first <paramref name="count"/> values of a chunk.</summary>
    static abstract void Store(ArrayView<TUnit> destination, long at, int count, Word4 values);
}

/// <summary>16 bytes at a time, loads past the registers: for rows that consist of whole, aligned chunks.</summary>
struct ChunkCopy : ITileCopy<Word4>
{
    /// <summary>Whether rows of <paramref name="width"/> values in these slices are such rows.</summary>
    public static bool Serves(int width, params ReadOnlySpan<Slice> slices)
    {
        bool aligned = width % SharedRows.Chunk == 0;
        foreach (var slice in slices)
        {
            aligned &= slice.Address % 16 == 0;
        }

        return aligned;
    }

    public static void Load(ArrayView<Word4> source, long at, int count, uint shared) => Intrinsics.CopyAsync16(shared, ref source[at / SharedRows.Chunk], 2 * count);

    public static Word4 Read(ArrayView<Word4> source, long at, int count) => source[at / SharedRows.Chunk];

    public static void Store(ArrayView<Word4> destination, long at, int count, Word4 values) => destination[at / SharedRows.Chunk] = values;
}

/// <summary>Value by value: for rows of any width.</summary>
struct ElementCopy : ITileCopy<ushort>
{
    public static void Load(ArrayView<ushort> source, long at, int count, uint shared) => Intrinsics.StoreShared(shared, Read(source, at, count));

    /// <summary>As <see cref="ITileCopy{TUnit}.Read"/>, and zeros where <paramref name="count"/> is not positive.</summary>
    public static Word4 Read(ArrayView<ushort> source, long at, int count) => new()
    {
        X = Two(source, at, count),
        Y = Two(source, at + 2, count - 2),
        Z = Two(source, at + 4, count - 4),
        W = Two(source, at + 6, count - 6),
    };

    public static void Store(ArrayView<ushort> destination, long at, int count, Word4 values)
    {
        StoreTwo(destination, at, count, values.X);
        StoreTwo(destination, at + 2, count - 2, values.Y);
        StoreTwo(destination, at + 4, count - 4, values.Z);
        StoreTwo(destination, at + 6, count - 6, values.W);
    }

    static uint Two(ArrayView<ushort> source, long at, int count) => (count > 0 ? source[at] : 0u) | ((count > 1 ? source[at + 1] : 0u) << 16);

    static void StoreTwo(ArrayView<ushort> destination, long at, int count, uint values)
    {
        if (count > 0)
        {
            destination[at] = (ushort)values;
        }

        if (count > 1)
        {
            destination[at + 1] = (ushort)(values >> 16);
        }
    }
}
