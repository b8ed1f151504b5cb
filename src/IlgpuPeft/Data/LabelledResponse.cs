namespace IlgpuPeft.Data;

/// <summary>A prompt and a response that somebody liked or did not: what KTO learns from.</summary>
/// <param name="Prompt">Token ids, the beginning-of-sequence token included.</param>
/// <param name="Response">Token ids, the end-of-sequence token included.</param>
/// <param name="IsDesirable">Whether it was liked.</param>
/// <param name="File">The data file, for messages.</param>
/// <param name="Line">Line of the row in <paramref name="File"/>, from 1.</param>
public sealed record LabelledResponse(int[] Prompt, int[] Response, bool IsDesirable, string File, int Line)
{
    /// <summary>Tokens of prompt and response.</summary>
    public int Length => Prompt.Length + Response.Length;

    /// <summary>Both, the response trained on.</summary>
    public Example Example => Example.Of(Prompt, Response, File, Line);
}
