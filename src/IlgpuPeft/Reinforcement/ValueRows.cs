using IlgpuPeft.Data;

namespace IlgpuPeft.Reinforcement;

/// <summary>
/// Where values are read: in the rows that predict response tokens, and, for sequences that have an extra slot, in the row of the last token. That is the row from which TRL predicts the
/// first token of padding, where it pays the score.
/// </summary>
static class ValueRows
{
    /// <summary>Values of each sequence.</summary>
    /// <param name="batch">The sequences.</param>
    /// <param name="rows">A number per row [N].</param>
    /// <param name="members">Of each sequence its place in <paramref name="extra"/>.</param>
    /// <param name="extra">Which sequences have an extra slot; empty for none.</param>
    public static double[][] Read(PackedBatch batch, double[] rows, int[] members, ReadOnlySpan<bool> extra)
    {
        double[][] values = batch.OfTargets(rows);
        for (int s = 0; s < values.Length; s++)
        {
            if (Has(extra, members[s]))
            {
                values[s] = [.. values[s], rows[batch.Offsets[s + 1] - 1]];
            }
        }

        return values;
    }

    /// <summary>The inverse of <see cref="Read"/>: a number per row [N], 0 where none is read.</summary>
    public static double[] Spread(PackedBatch batch, double[][] values, int[] members, ReadOnlySpan<bool> extra)
    {
        var tokens = new double[values.Length][];
        for (int s = 0; s < tokens.Length; s++)
        {
            tokens[s] = Has(extra, members[s]) ? values[s][..^1] : values[s];
        }

        double[] rows = batch.ToRows(tokens);
        for (int s = 0; s < tokens.Length; s++)
        {
            if (Has(extra, members[s]))
            {
                rows[batch.Offsets[s + 1] - 1] = values[s][^1];
            }
        }

        return rows;
    }

    static bool Has(ReadOnlySpan<bool> extra, int member) => !extra.IsEmpty && extra[member];
}
