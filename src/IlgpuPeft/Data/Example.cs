namespace IlgpuPeft.Data;

/// <summary>One tokenised training sequence, and where it came from.</summary>
/// <param name="InputIds">Token ids [T].</param>
/// <param name="Labels">
/// [T], aligned with <paramref name="InputIds"/> as Hugging Face does: the label at i is the token at i if it is trained on, else <see cref="Untrained"/>.
/// The shift by one (token i predicts token i + 1) happens in <see cref="PackedBatch"/>, so the first label never counts.
/// </param>
/// <param name="File">The data file, for messages.</param>
/// <param name="Line">Line of the row in <paramref name="File"/>, from 1.</param>
public sealed record Example(int[] InputIds, int[] Labels, string File, int Line)
{
    /// <summary>The label of a token that is read but not trained on: PyTorch's <c>ignore_index</c>.</summary>
    public const int Untrained = -100;

    /// <summary>A prompt, which is not trained on, and a response, which is.</summary>
    public static Example Of(IReadOnlyList<int> prompt, IReadOnlyList<int> response, string file, int line) =>
        new([.. prompt, .. response], [.. prompt.Select(_ => Untrained), .. response], file, line);

    /// <summary>Number of tokens.</summary>
    public int Length => InputIds.Length;

    /// <summary>How many tokens the loss covers: labels after the first that are not <see cref="Untrained"/>.</summary>
    public int TrainedTokens => Labels.Skip(1).Count(label => label != Untrained);
}
