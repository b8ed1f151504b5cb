namespace IlgpuPeft.Data;

/// <summary>
/// Whole sequences in a row, without padding: what one forward pass takes. Attention and positions start anew at each offset, and no sequence's last token
/// has a target, so nothing leaks from one sequence to the next.
/// </summary>
/// <param name="InputIds">Token ids [N].</param>
/// <param name="Offsets">First row of each sequence, then N [S + 1].</param>
/// <param name="Targets">The token that follows, if it is trained on, else <see cref="Example.Untrained"/> [N].</param>
/// <param name="TrainedTokens">Targets that are trained on.</param>
public sealed record PackedBatch(int[] InputIds, int[] Offsets, int[] Targets, int TrainedTokens)
{
    /// <summary>Number of tokens N.</summary>
    public int Length => InputIds.Length;

    /// <summary>Number of sequences S.</summary>
    public int Sequences => Offsets.Length - 1;

    /// <summary>Tokens of each sequence [S].</summary>
    public int[] Lengths => [.. Enumerable.Range(0, Sequences).Select(s => Offsets[s + 1] - Offsets[s])];

    /// <summary>Concatenates sequences, and shifts labels by one into targets.</summary>
    public static PackedBatch From(IReadOnlyList<Example> sequences)
    {
        int length = sequences.Sum(sequence => sequence.Length);
        int[] ids = new int[length], targets = new int[length], offsets = new int[sequences.Count + 1];
        int row = 0, trained = 0;
        for (int s = 0; s < sequences.Count; s++)
        {
            var (sequenceIds, labels, _, _) = sequences[s];
            for (int i = 0; i < sequenceIds.Length; i++, row++)
            {
                ids[row] = sequenceIds[i];
                targets[row] = i + 1 < labels.Length ? labels[i + 1] : Example.Untrained;
                trained += targets[row] != Example.Untrained ? 1 : 0;
            }

            offsets[s + 1] = row;
        }

        return new PackedBatch(ids, offsets, targets, trained);
    }

    /// <summary>Of one number per row, those of the rows that have a target, sequence by sequence: one for each trained token, such as the tokens of a response.</summary>
    /// <param name="rows">[N].</param>
    public double[][] OfTargets(ReadOnlySpan<double> rows)
    {
        var parts = new double[Sequences][];
        for (int s = 0; s < Sequences; s++)
        {
            var part = new List<double>();
            for (int i = Offsets[s]; i < Offsets[s + 1]; i++)
            {
                if (Targets[i] != Example.Untrained)
                {
                    part.Add(rows[i]);
                }
            }

            parts[s] = [.. part];
        }

        return parts;
    }

    /// <summary>The inverse of <see cref="OfTargets"/>: one number per row [N], 0 where there is no target.</summary>
    /// <param name="parts">For each sequence a number for each of its trained tokens.</param>
    /// <exception cref="ArgumentException">A sequence has another number of trained tokens.</exception>
    public double[] ToRows(IReadOnlyList<double[]> parts)
    {
        var rows = new double[Length];
        for (int s = 0; s < Sequences; s++)
        {
            int next = 0;
            for (int i = Offsets[s]; i < Offsets[s + 1]; i++)
            {
                if (Targets[i] != Example.Untrained)
                {
                    rows[i] = next < parts[s].Length ? parts[s][next] : 0;
                    next++;
                }
            }

            if (next != parts[s].Length)
            {
                throw new ArgumentException($"PackedBatch: sequence {s} has {parts[s].Length} numbers, expected {next}, one for each trained token.", nameof(parts));
            }
        }

        return rows;
    }

    /// <summary>Of one number per row, that of each sequence's last token [S]: where a reward model's score is read.</summary>
    /// <param name="rows">[N].</param>
    public double[] OfLast(ReadOnlySpan<double> rows)
    {
        var last = new double[Sequences];
        for (int s = 0; s < Sequences; s++)
        {
            last[s] = rows[Offsets[s + 1] - 1];
        }

        return last;
    }

    /// <summary>The inverse of <see cref="OfLast"/>: one number per row [N], 0 but for each sequence's last token.</summary>
    /// <param name="last">A number for each sequence [S].</param>
    public double[] FromLast(ReadOnlySpan<double> last)
    {
        var rows = new double[Length];
        for (int s = 0; s < Sequences; s++)
        {
            rows[Offsets[s + 1] - 1] = last[s];
        }

        return rows;
    }
}
