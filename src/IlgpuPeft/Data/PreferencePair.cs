namespace IlgpuPeft.Data;

/// <summary>A prompt, the response that was preferred and the one that was not, tokenised.</summary>
/// <param name="Prompt">Token ids, the beginning-of-sequence token included.</param>
/// <param name="Chosen">Token ids of the preferred response, its end-of-sequence token included.</param>
/// <param name="Rejected">Token ids of the other, likewise.</param>
/// <param name="Margin">By how much it was preferred; 0 where the data does not say.</param>
/// <param name="File">The data file, for messages.</param>
/// <param name="Line">Line of the row in <paramref name="File"/>, from 1.</param>
public sealed record PreferencePair(int[] Prompt, int[] Chosen, int[] Rejected, double Margin, string File, int Line)
{
    /// <summary>Tokens of the longer of the two sequences.</summary>
    public int Length => Prompt.Length + Math.Max(Chosen.Length, Rejected.Length);

    /// <summary>Prompt and preferred response; the response is what is trained on.</summary>
    public Example ChosenExample => Example.Of(Prompt, Chosen, File, Line);

    /// <summary>Prompt and the other response; the response is what is trained on.</summary>
    public Example RejectedExample => Example.Of(Prompt, Rejected, File, Line);
}
