namespace IlgpuPeft.Data;

/// <summary>The prompt of Stanford Alpaca (Taori et al. 2023), byte for byte as Axolotl's <c>alpaca</c> type writes it.</summary>
public static class AlpacaPrompt
{
    const string WithInput = "Below is an instruction that describes a task, paired with an input that provides further context. " +
        "Write a response that appropriately completes the request.\n\n";

    const string WithoutInput = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n";

    /// <summary>The text that the response follows. An empty or absent input leaves its section out.</summary>
    public static string Text(string instruction, string? input = null) => string.IsNullOrEmpty(input)
        ? $"{WithoutInput}### Instruction:\n{instruction}\n\n### Response:\n"
        : $"{WithInput}### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n";
}
