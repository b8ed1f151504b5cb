namespace IlgpuPeft.Data;

/// <summary>
/// Packs whole sequences into bins of a fixed length by first-fit-decreasing, which needs at most 11/9 of the fewest possible bins plus 6/9
/// (Dósa 2007, "The tight bound of first fit decreasing"). Nothing is cut, and the result depends on the lengths alone.
/// </summary>
public static class Packer
{
    /// <summary>Distributes sequences over bins.</summary>
    /// <param name="lengths">Tokens of each sequence.</param>
    /// <param name="capacity">Tokens a bin holds.</param>
    /// <returns>For each bin the indices of its sequences, ascending; bins in the order of their first sequence.</returns>
    /// <exception cref="ArgumentException">A sequence is empty or longer than a bin.</exception>
    public static int[][] Pack(IReadOnlyList<int> lengths, int capacity)
    {
        for (int i = 0; i < lengths.Count; i++)
        {
            if (lengths[i] < 1 || lengths[i] > capacity)
            {
                throw new ArgumentException($"Packer: sequence {i} has {lengths[i]} tokens, expected 1 ... {capacity}. Cut or drop long sequences first.", nameof(lengths));
            }
        }

        var room = new RoomTree(lengths.Count, capacity);
        List<List<int>> bins = [];
        foreach (int i in Enumerable.Range(0, lengths.Count).OrderByDescending(i => lengths[i])) // a stable sort: equal lengths stay in order
        {
            int bin = room.TakeFirst(lengths[i]);
            if (bin == bins.Count)
            {
                bins.Add([]);
            }

            bins[bin].Add(i);
        }

        return [.. bins.Select(bin => bin.Order().ToArray()).OrderBy(bin => bin[0])];
    }

    /// <summary>Finds the first bin with enough room in logarithmic time: a binary tree in which each node holds the most room of any bin below it.</summary>
    sealed class RoomTree
    {
        readonly int leaves;
        readonly int[] most; // node n has children 2n and 2n + 1; the bins are nodes leaves ... 2·leaves - 1

        public RoomTree(int bins, int capacity)
        {
            leaves = (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)Math.Max(1, bins));
            most = new int[2 * leaves];
            Array.Fill(most, capacity);
        }

        public int TakeFirst(int length)
        {
            int node = 1;
            while (node < leaves)
            {
                node = most[2 * node] >= length ? 2 * node : 2 * node + 1;
            }

            int bin = node - leaves;
            most[node] -= length;
            while ((node /= 2) > 0)
            {
                most[node] = Math.Max(most[2 * node], most[2 * node + 1]);
            }

            return bin;
        }
    }
}
