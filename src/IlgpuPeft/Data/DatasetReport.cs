namespace IlgpuPeft.Data;

/// <summary>What became of the rows of one source. Every row that is not trained on whole is counted here.</summary>
/// <param name="Path">The data file.</param>
/// <param name="Rows">Rows read.</param>
/// <param name="Examples">Examples they gave: more than rows where long texts were cut into pieces.</param>
/// <param name="TooLong">Rows left out because they are longer than the sequence length.</param>
/// <param name="Truncated">Rows that lost their end to the sequence length.</param>
/// <param name="Untrained">Rows left out because no token is trained on.</param>
/// <param name="Tokens">Tokens of the examples.</param>
/// <param name="TrainedTokens">Tokens that the loss covers.</param>
public sealed record DatasetReport(string Path, int Rows, int Examples, int TooLong, int Truncated, int Untrained, long Tokens, long TrainedTokens)
{
    /// <summary>Pairs left out because both responses are the same.</summary>
    public int Equal { get; init; }

    /// <summary>What <see cref="Examples"/> are called.</summary>
    public string Unit { get; init; } = "examples";

    /// <summary>What rows had to fit into, as messages call it.</summary>
    public string Limit { get; init; } = "sequence_len";

    /// <summary>One line for people; losses are mentioned only where there are some.</summary>
    public override string ToString() =>
        $"{Path}: {Rows} rows -> {Examples} {Unit}, {Tokens} tokens{(Unit == Dataset.Prompts ? "" : $", {TrainedTokens} trained on")}" +
        Count(TooLong, $"dropped: longer than {Limit}") +
        Count(Truncated, "truncated to sequence_len") +
        Count(Untrained, "dropped: no trained token") +
        Count(Equal, "dropped: chosen and rejected are the same");

    static string Count(int rows, string what) => rows == 0 ? "" : $"; {rows} {what}";
}
