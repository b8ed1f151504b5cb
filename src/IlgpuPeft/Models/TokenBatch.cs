using System.Numerics.Tensors;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Models;

/// <summary>
/// The tokens of one pass, all sequences in a row and none padded: what the model's forward pass needs to know of them, on the device.
/// </summary>
public sealed class TokenBatch
{
    /// <summary>Token ids, I32 [N].</summary>
    public required Slice Ids { get; init; }

    /// <summary>Each token's position in its sequence, I32 [N].</summary>
    public required Slice Positions { get; init; }

    /// <summary>The sequence table of <see cref="Backend.AttentionForward"/>, I32 [S, 4].</summary>
    public required Slice Sequences { get; init; }

    /// <summary>One more than the largest position.</summary>
    public required int MaxPositions { get; init; }

    /// <summary>The keys and values that the tokens are added to and attend to; null for whole sequences.</summary>
    public KvCache? Cache { get; init; }

    /// <summary>Where each token's key and value go in the cache, I32 [N]; empty without a cache.</summary>
    public Slice CacheRows { get; init; }

    /// <summary>Whole sequences, laid one after the other, positions counted from 0 in each.</summary>
    /// <param name="tape">Takes the memory of this step.</param>
    /// <param name="ids">Tokens of all sequences.</param>
    /// <param name="lengths">Tokens of each sequence; they add up to the number of ids.</param>
    public static TokenBatch Whole(Tape tape, ReadOnlySpan<int> ids, ReadOnlySpan<int> lengths)
    {
        var positions = new int[ids.Length];
        var table = new int[4 * lengths.Length];
        int start = 0, longest = 0;
        for (int s = 0; s < lengths.Length; s++)
        {
            for (int i = 0; i < lengths[s]; i++)
            {
                positions[start + i] = i;
            }

            (table[4 * s], table[4 * s + 1], table[4 * s + 2], table[4 * s + 3]) = (start, lengths[s], start, lengths[s]);
            start += lengths[s];
            longest = Math.Max(longest, lengths[s]);
        }

        if (start != ids.Length)
        {
            throw new ArgumentException($"TokenBatch: sequence lengths add up to {start}, expected {ids.Length}, the number of ids.", nameof(lengths));
        }

        return new TokenBatch { Ids = tape.Upload(ids), Positions = tape.Upload(positions), Sequences = tape.Upload(table), MaxPositions = longest };
    }

    /// <summary>New tokens of sequences whose earlier keys and values lie in a cache; the cache's lengths grow by them.</summary>
    /// <param name="tape">Takes the memory of this step.</param>
    /// <param name="cache">Holds the earlier tokens.</param>
    /// <param name="slots">Which of the cache's sequences each group of new tokens belongs to.</param>
    /// <param name="ids">The new tokens, I32 [N], group after group. They may have been drawn on the device a moment ago: the host does not read them.</param>
    /// <param name="counts">How many new tokens each group has; they add up to N.</param>
    /// <exception cref="ArgumentException">The counts do not fit the ids, or a sequence would outgrow the cache.</exception>
    public static TokenBatch Continue(Tape tape, KvCache cache, ReadOnlySpan<int> slots, Slice ids, ReadOnlySpan<int> counts)
    {
        int total = TensorPrimitives.Sum(counts);
        if (total != ids.Length || counts.Length != slots.Length)
        {
            throw new ArgumentException($"TokenBatch: {counts.Length} counts add up to {total}, expected {slots.Length} that add up to {ids.Length}, the number of ids.", nameof(counts));
        }

        var positions = new int[total];
        var rows = new int[total];
        var table = new int[4 * slots.Length];
        int start = 0, longest = 0;
        for (int s = 0; s < slots.Length; s++)
        {
            int before = cache.Extend(slots[s], counts[s]);
            for (int i = 0; i < counts[s]; i++)
            {
                positions[start + i] = before + i;
                rows[start + i] = slots[s] * cache.Capacity + before + i;
            }

            (table[4 * s], table[4 * s + 1], table[4 * s + 2], table[4 * s + 3]) = (start, counts[s], slots[s] * cache.Capacity, before + counts[s]);
            start += counts[s];
            longest = Math.Max(longest, before + counts[s]);
        }

        return new TokenBatch
        {
            Ids = ids,
            Positions = tape.Upload(positions),
            Sequences = tape.Upload(table),
            MaxPositions = longest,
            Cache = cache,
            CacheRows = tape.Upload(rows),
        };
    }
}
