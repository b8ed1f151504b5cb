namespace IlgpuPeft.Generation;

/// <summary>A continuation while it grows.</summary>
/// <param name="options">The limit.</param>
/// <param name="stopIds">Tokens that end it.</param>
sealed class Draft(GenerationOptions options, IReadOnlyList<int> stopIds)
{
    readonly List<int> tokens = [];
    readonly List<double> logprobs = [];

    /// <summary>Tokens so far, without the stop token.</summary>
    public IReadOnlyList<int> Tokens => tokens;

    /// <summary>The stop token, once it came.</summary>
    public int? StopId { get; private set; }

    /// <summary>Tokens that may still follow.</summary>
    public int Remaining => StopId is null ? Math.Max(0, options.MaxTokens - tokens.Count) : 0;

    /// <summary>Whether a stop token came or the limit was reached.</summary>
    public bool IsFinished => Remaining == 0;

    /// <summary>Takes the next token.</summary>
    /// <exception cref="ArithmeticException">There was none to draw.</exception>
    public void Add(int token, double logprob)
    {
        if (token < 0)
        {
            throw new ArithmeticException("Generator: a logit is NaN, or none is finite. The model diverged, or its weights are damaged.");
        }

        logprobs.Add(logprob);
        if (stopIds.Contains(token))
        {
            StopId = token;
        }
        else
        {
            tokens.Add(token);
        }
    }

    /// <summary>What it came to.</summary>
    public Completion ToCompletion() => new(tokens, StopId is null ? "length" : "stop", StopId) { LogProbs = logprobs };
}
