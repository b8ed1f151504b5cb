namespace IlgpuPeft.Generation;

/// <summary>A finished continuation.</summary>
/// <param name="Tokens">The generated tokens, without prompt and stop token.</param>
/// <param name="FinishReason"><c>stop</c>: a stop token came; <c>length</c>: the limit was reached.</param>
/// <param name="StopId">The stop token, or null.</param>
public sealed record Completion(IReadOnlyList<int> Tokens, string FinishReason, int? StopId = null)
{
    /// <summary>All that was drawn, the stop token included: what a policy is paid for.</summary>
    public int[] Response => StopId is { } stop ? [.. Tokens, stop] : [.. Tokens];

    /// <summary>
    /// The log-probability of each token of <see cref="Response"/> when it was drawn, in nats: at the temperature (at 1 where that is 0), and before top-k and top-p cut the distribution.
    /// </summary>
    public IReadOnlyList<double> LogProbs { get; init; } = [];
}
