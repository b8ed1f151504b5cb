using IlgpuPeft.Data;

namespace IlgpuPeft.Rewards;

/// <summary>A prompt and what a policy made of it: what rewards judge.</summary>
/// <param name="Prompt">What was asked.</param>
/// <param name="Response">Token ids of the answer, the end-of-sequence token included if it came.</param>
/// <param name="Text">The answer as text, without the end-of-sequence token.</param>
/// <param name="Ended">Whether the policy ended the answer by itself; if not, it was cut at the length limit.</param>
public sealed record Sample(Prompt Prompt, int[] Response, string Text, bool Ended);

/// <summary>What a reward says of a sample.</summary>
/// <param name="Score">Of the whole answer: policy methods pay it with the last token.</param>
/// <param name="PerToken">Paid with each token of the answer beside that, or null.</param>
public readonly record struct Judgement(double Score, double[]? PerToken = null)
{
    /// <summary>All that is paid.</summary>
    public double Total => Score + (PerToken?.Sum() ?? 0);
}
