namespace IlgpuPeft.Generation;

/// <summary>How a continuation is drawn and when it ends.</summary>
public sealed record GenerationOptions
{
    /// <summary>The most tokens that are generated.</summary>
    public int MaxTokens { get; init; } = 128;

    /// <summary>Divides the logits; 0 takes the most likely token each time.</summary>
    public double Temperature { get; init; }

    /// <summary>Draws from the k most likely tokens; 0 for all.</summary>
    public int TopK { get; init; }

    /// <summary>Draws from the smallest set of tokens whose probability reaches p; 1 for all.</summary>
    public double TopP { get; init; } = 1;

    /// <summary>Keys the random draws; the same seed gives the same text.</summary>
    public ulong Seed { get; init; }

    /// <summary>Tokens that end the continuation and are not part of it; null takes the model's own.</summary>
    public IReadOnlyList<int>? StopIds { get; init; }
}
