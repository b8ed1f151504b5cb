using IlgpuPeft.Data;

namespace IlgpuPeft.Reinforcement;

/// <summary>Sequences that go through the model together.</summary>
/// <param name="Members">Their indices, in the order of the batch.</param>
/// <param name="Batch">The sequences.</param>
readonly record struct MicroBatch(int[] Members, PackedBatch Batch)
{
    /// <summary>Groups sequences into passes.</summary>
    /// <param name="sequences">All sequences.</param>
    /// <param name="members">Indices of those to group.</param>
    /// <param name="size">Sequences of a pass, unless tokens are counted.</param>
    /// <param name="tokens">Tokens that a pass holds at most, unless a sequence is longer; 0 counts sequences.</param>
    public static IEnumerable<MicroBatch> Split(IReadOnlyList<Example> sequences, int[] members, int size, int tokens)
    {
        var groups = members.Chunk(size);
        if (tokens > 0)
        {
            int[] lengths = [.. members.Select(member => sequences[member].Length)];
            groups = Packer.Pack(lengths, Math.Max(tokens, lengths.Max())).Select(bin => bin.Select(i => members[i]).ToArray());
        }

        return groups.Select(group => new MicroBatch(group, PackedBatch.From([.. group.Select(member => sequences[member])])));
    }

    /// <summary>What belongs to some sequences, of what belongs to all.</summary>
    public static T[] Of<T>(T[] all, int[] members) => [.. members.Select(member => all[member])];

    /// <summary>The inverse: puts what belongs to some sequences where it is among all.</summary>
    public static void Put<T>(IEnumerable<T> some, int[] members, T[] all)
    {
        foreach (var (member, one) in members.Zip(some))
        {
            all[member] = one;
        }
    }
}
