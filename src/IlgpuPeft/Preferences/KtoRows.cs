using IlgpuPeft.Data;

namespace IlgpuPeft.Preferences;

/// <summary>Labelled responses, for each a mismatched one, and what the reference says of both.</summary>
sealed class KtoRows
{
    readonly int maxLength;
    readonly int[] others;

    /// <param name="rows">The rows.</param>
    /// <param name="maxLength">Tokens of a prompt with a mismatched response, at most.</param>
    /// <exception cref="ArgumentException">All rows have the same prompt.</exception>
    public KtoRows(IReadOnlyList<LabelledResponse> rows, int maxLength)
    {
        (All, this.maxLength) = (rows, maxLength);
        others = NextWithAnotherPrompt(rows);
    }

    /// <summary>The rows.</summary>
    public IReadOnlyList<LabelledResponse> All { get; }

    /// <summary>Summed log-probability of each row's response under the reference, nats.</summary>
    public double[] Reference { get; set; } = [];

    /// <summary>The same of each row's mismatched response.</summary>
    public double[] MismatchedReference { get; set; } = [];

    /// <summary>A row's prompt with the response of the next row that has another prompt.</summary>
    public Example Mismatched(int row)
    {
        var (prompt, response) = (All[row].Prompt, All[others[row]].Response);
        return Example.Of(prompt, response[..Math.Min(response.Length, maxLength - prompt.Length)], All[row].File, All[row].Line);
    }

    // The first row follows the last. Going backwards, a row whose neighbour has the same prompt has the same next one; the second round settles those at the end.
    static int[] NextWithAnotherPrompt(IReadOnlyList<LabelledResponse> rows)
    {
        if (rows.Count > 0 && rows.All(row => row.Prompt.AsSpan().SequenceEqual(rows[0].Prompt)))
        {
            throw new ArgumentException($"{rows[0].File}:{rows[0].Line}: this and all other of {rows.Count} rows have the same prompt, expected at least two prompts: " +
                "the baseline is measured on responses to another one. Add rows.");
        }

        var next = new int[rows.Count];
        for (int i = 2 * rows.Count - 1; i >= 0; i--)
        {
            int row = i % rows.Count, neighbour = (i + 1) % rows.Count;
            next[row] = rows[row].Prompt.AsSpan().SequenceEqual(rows[neighbour].Prompt) ? next[neighbour] : neighbour;
        }

        return next;
    }
}
