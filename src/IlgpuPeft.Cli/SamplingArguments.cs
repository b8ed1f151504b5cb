using System.CommandLine;
using IlgpuPeft.Generation;

namespace IlgpuPeft.Cli;

/// <summary>The options that say how text is drawn.</summary>
sealed class SamplingArguments(int tokens, double warmth, double mass)
{
    readonly Option<int> maxTokens = Arguments.Whole("--max-tokens", tokens, 1, "The most tokens to generate.");
    readonly Option<double> temperature = Arguments.Number("--temperature", warmth, 0, 100, "Divides the logits; 0 takes the most likely token.");
    readonly Option<double> topP = Arguments.Number("--top-p", mass, 0.0001, 1, "Draw from the fewest tokens that reach this probability.");
    readonly Option<int> topK = Arguments.Whole("--top-k", 0, 0, "Draw from the k most likely tokens; 0 for all.");
    readonly Option<int> seed = Arguments.Whole("--seed", 0, 0, "The same seed gives the same text.");

    public void AddTo(Command command)
    {
        foreach (Option option in (Option[])[maxTokens, temperature, topP, topK, seed])
        {
            command.Add(option);
        }
    }

    public GenerationOptions Read(ParseResult parse) => new()
    {
        MaxTokens = parse.GetValue(maxTokens),
        Temperature = parse.GetValue(temperature),
        TopP = parse.GetValue(topP),
        TopK = parse.GetValue(topK),
        Seed = (ulong)parse.GetValue(seed),
    };
}
