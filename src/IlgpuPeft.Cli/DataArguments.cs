using System.CommandLine;
using IlgpuPeft.Data;

namespace IlgpuPeft.Cli;

/// <summary>The options of a command that reads a data file.</summary>
sealed class DataArguments(bool required)
{
    const int MostTokens = 4096; // a row of a long-context model would otherwise take all memory

    static readonly (string Name, DatasetType Type, string Field)[] Types =
    [
        ("tokenized", DatasetType.Tokenized, "input_ids"),
        ("chat_template", DatasetType.ChatTemplate, "messages"),
        ("alpaca", DatasetType.Alpaca, "instruction"),
        ("prompt_completion", DatasetType.PromptCompletion, "prompt"),
        ("completion", DatasetType.Completion, "text"),
    ];

    static readonly DatasetHints Hints = new("Check --data; a relative path starts at the current folder.", "Rename the file.", "Check --type.");

    readonly Option<string?> type = new("--type") { Description = "How rows become prompts and responses. Default: by the first row's fields." };
    readonly Option<int?> length = Arguments.OptionalWhole("--sequence-len", 2,
        $"The most tokens of a row; longer rows are left out. Default: what the model was made for, at most {MostTokens}.");

    public Option<string?> File { get; } = new("--data") { Description = "A JSON, JSONL or CSV file.", HelpName = "F", Required = required };

    public void AddTo(Command command)
    {
        type.AcceptOnlyFromAmong([.. Types.Select(known => known.Name)]);
        command.Add(File);
        command.Add(type);
        command.Add(length);
    }

    /// <summary>Reads and tokenises the file, and says what became of its rows.</summary>
    public IReadOnlyList<Example> Read(ParseResult parse, OpenModel opened, Screen screen, CancellationToken cancel)
    {
        var source = new DatasetSource { Path = parse.GetRequiredValue(File)!, Hints = Hints };
        source = source with { Type = parse.GetValue(type) is { } name ? Types.First(known => known.Name == name).Type : Guess(source) };
        var data = Dataset.Load([source], new DatasetOptions
        {
            SequenceLength = parse.GetValue(length) ?? Math.Min(opened.Model.Config.MaxPositions, MostTokens),
            VocabularySize = opened.Model.Config.Vocabulary,
            CancellationToken = cancel,
        }, opened.Tokenizer);
        screen.Say($"data: {data.Reports[0]}");
        return data.Examples;
    }

    static DatasetType Guess(DatasetSource source)
    {
        var row = DatasetReader.Read(source).FirstOrDefault() ?? throw new InvalidDataException($"{source.Path}: the file has no rows.");
        foreach (var (_, known, field) in Types)
        {
            if (row.Has(field))
            {
                return known;
            }
        }

        throw new ArgumentException($"{source.Path}: cannot tell the type from the first row's fields. Give --type.");
    }
}
