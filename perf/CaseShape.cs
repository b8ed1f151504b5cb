namespace IlgpuPeft.Perf;

/// <summary>Extents of a decoder layer and of the head.</summary>
/// <param name="Name">Of the model whose extents they are.</param>
/// <param name="Tokens">Tokens of a training pass.</param>
/// <param name="Width">Model width D.</param>
/// <param name="Hidden">MLP width F.</param>
/// <param name="Heads">Query heads H.</param>
/// <param name="KeyValueHeads">Key/value heads G.</param>
/// <param name="HeadWidth">Elements of a head C.</param>
/// <param name="Vocabulary">Tokens V.</param>
/// <param name="Rank">LoRA rank R.</param>
sealed record CaseShape(string Name, int Tokens, int Width, int Hidden, int Heads, int KeyValueHeads, int HeadWidth, int Vocabulary, int Rank)
{
    /// <summary>Small enough for the emulator, odd enough to reach every edge.</summary>
    public static readonly CaseShape Tiny = new("tiny", 70, 96, 136, 4, 2, 24, 515, 5);

    /// <summary>Small enough for the emulator, and whole tiles and packets: what models have.</summary>
    public static readonly CaseShape Even = new("even", 160, 128, 256, 2, 1, 64, 512, 16);

    /// <summary>What is checked on every device: together they reach every kernel but those of large products.</summary>
    public static readonly IReadOnlyList<CaseShape> Checked = [Tiny, Even];

    /// <summary>What the suite times.</summary>
    public static readonly IReadOnlyList<CaseShape> Models =
    [
        new("smollm2-135m", 2048, 576, 1536, 9, 3, 64, 49152, 16),
        new("llama3.1-8b", 2048, 4096, 14336, 32, 8, 128, 128256, 16),
    ];
}
