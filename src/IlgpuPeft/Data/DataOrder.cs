using IlgpuPeft.Kernels;

namespace IlgpuPeft.Data;

/// <summary>How far training is through its data; saved with a checkpoint.</summary>
/// <param name="Epoch">Passes completed.</param>
/// <param name="Index">Items of this pass that are done.</param>
public readonly record struct DataPosition(int Epoch, int Index);

/// <summary>
/// The order in which a run goes through its items (examples, or bins of a packer). It is a function of seed and epoch alone, so a run that resumes at a
/// position sees what the uninterrupted run would have seen.
/// </summary>
public sealed class DataOrder
{
    // Operation numbers of RandomKey: they keep these draws apart from each other and from a model's, which count up from 0.
    const uint EpochDraw = 0xDA7A_0000, SplitDraw = 0xDA7A_0001;

    readonly ulong seed;
    readonly bool shuffle;
    int[] items = [];
    int itemsEpoch = -1;

    /// <param name="count">Number of items; at least 1.</param>
    /// <param name="seed">The run's seed.</param>
    /// <param name="shuffle">Whether each epoch has its own random order; if not, items keep their order.</param>
    public DataOrder(int count, ulong seed, bool shuffle)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(count, 1);
        (Count, this.seed, this.shuffle) = (count, seed, shuffle);
    }

    /// <summary>Number of items in an epoch.</summary>
    public int Count { get; }

    /// <summary>The next items, at most <paramref name="size"/>, and where to go on. A batch never reaches into the next epoch, so an epoch's last may be short.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The position is not one of an epoch of <see cref="Count"/> items: the data has changed since it was saved.</exception>
    public (int[] Items, DataPosition Next) Take(DataPosition position, int size)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(size, 1);
        if (position.Epoch < 0 || position.Index < 0 || position.Index >= Count)
        {
            throw new ArgumentOutOfRangeException(nameof(position), position,
                $"DataOrder: position is item {position.Index} of epoch {position.Epoch}, expected an item below {Count}. Resume with the data the checkpoint was made with.");
        }

        int end = (int)Math.Min(Count, (long)position.Index + size);
        var next = end == Count ? new DataPosition(position.Epoch + 1, 0) : position with { Index = end };
        return (Epoch(position.Epoch)[position.Index..end], next);
    }

    int[] Epoch(int epoch)
    {
        if (itemsEpoch != epoch)
        {
            items = shuffle ? Permutation(Count, new RandomKey(seed, (uint)epoch, EpochDraw)) : [.. Enumerable.Range(0, Count)];
            itemsEpoch = epoch;
        }

        return items;
    }

    /// <summary>Sets items aside for validation, drawn by the seed; both parts keep their order.</summary>
    /// <param name="count">Number of items.</param>
    /// <param name="size">Axolotl's <c>val_set_size</c>: a fraction below 1 (rounded up to whole items), or a count.</param>
    /// <param name="seed">The run's seed.</param>
    /// <exception cref="ArgumentException">No item would be left to train on.</exception>
    public static (int[] Train, int[] Validation) Split(int count, double size, ulong seed)
    {
        double wanted = size < 1 ? Math.Ceiling(size * count) : size;
        if (!(wanted >= 0 && wanted < count))
        {
            throw new ArgumentException($"val_set_size: {size} takes {wanted} of {count} examples, expected to leave at least one for training. Lower val_set_size.", nameof(size));
        }

        int[] drawn = Permutation(count, new RandomKey(seed, 0, SplitDraw));
        return ([.. drawn.Skip((int)wanted).Order()], [.. drawn.Take((int)wanted).Order()]);
    }

    // Fisher and Yates; a 64-bit draw times the range, high half, is uniform to within range / 2^64.
    static int[] Permutation(int count, RandomKey key)
    {
        int[] items = [.. Enumerable.Range(0, count)];
        for (int i = count - 1; i > 0; i--)
        {
            var (low, high, _, _) = key.Philox((ulong)i);
            int j = (int)Math.BigMul((ulong)high << 32 | low, (ulong)i + 1, out _);
            (items[i], items[j]) = (items[j], items[i]);
        }

        return items;
    }
}
