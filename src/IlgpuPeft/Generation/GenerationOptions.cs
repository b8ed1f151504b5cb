namespace IlgpuPeft.Generation;

/// <summary>How a continuation is drawn and when it ends.</summary>
public sealed record GenerationOptions
{
    /// <summary>The most tokens that are generated. Default 128.</summary>
    public int MaxTokens { get; init; } = 128;

    /// <summary>Divides the logits; 0 takes the most likely token each time. Default 0.</summary>
    public double Temperature { get; init; }

    /// <summary>Draws from the k most likely tokens; 0 for all. Default 0.</summary>
    public int TopK { get; init; }

    /// <summary>Draws from the smallest set of tokens whose probability reaches p, more than 0, at most 1, which is all (Holtzman et al. 2020, arXiv:1904.09751). Default 1.</summary>
    public double TopP { get; init; } = 1;

    /// <summary>Keys the random draws; the same seed gives the same text. Default 0.</summary>
    public ulong Seed { get; init; }

    /// <summary>Tokens that end the continuation and are not part of it. Default null: the model's own.</summary>
    public IReadOnlyList<int>? StopIds { get; init; }
}
