namespace IlgpuPeft.Data;

/// <summary>
/// Whole sequences in a row, without padding: what one forward pass takes. Attention and positions start anew at each offset, and no sequence's last token
/// has a target, so nothing leaks from one sequence to the next.
/// </summary>
/// <param name="InputIds">Token ids [N].</param>
/// <param name="Positions">Position of each token in its sequence [N], from 0.</param>
/// <param name="Offsets">First row of each sequence, then N [S + 1].</param>
/// <param name="Targets">The token that follows, if it is trained on, else <see cref="Example.Untrained"/> [N].</param>
/// <param name="TrainedTokens">Targets that are trained on.</param>
public sealed record PackedBatch(int[] InputIds, int[] Positions, int[] Offsets, int[] Targets, int TrainedTokens)
{
    /// <summary>Number of tokens N.</summary>
    public int Length => InputIds.Length;

    /// <summary>Number of sequences S.</summary>
    public int Sequences => Offsets.Length - 1;

    /// <summary>Concatenates sequences, and shifts labels by one into targets.</summary>
    public static PackedBatch From(IReadOnlyList<Example> sequences)
    {
        int length = sequences.Sum(sequence => sequence.Length);
        int[] ids = new int[length], positions = new int[length], targets = new int[length], offsets = new int[sequences.Count + 1];
        int row = 0, trained = 0;
        for (int s = 0; s < sequences.Count; s++)
        {
            var (sequenceIds, labels, _, _) = sequences[s];
            for (int i = 0; i < sequenceIds.Length; i++, row++)
            {
                ids[row] = sequenceIds[i];
                positions[row] = i;
                targets[row] = i + 1 < labels.Length ? labels[i + 1] : Example.Untrained;
                trained += targets[row] != Example.Untrained ? 1 : 0;
            }

            offsets[s + 1] = row;
        }

        return new PackedBatch(ids, positions, offsets, targets, trained);
    }
}
