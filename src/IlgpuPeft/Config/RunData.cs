using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Models;
using IlgpuPeft.Text;

namespace IlgpuPeft.Config;

/// <summary>The data of a run: read, tokenised and split as its configuration says.</summary>
/// <param name="Train">Rows to train on.</param>
/// <param name="Validation">Rows set aside by <c>val_set_size</c>, or those of <c>test_datasets</c>; may be empty.</param>
/// <param name="Reports">What became of the rows of each of <c>datasets</c>, before the split.</param>
/// <param name="ValidationReports">The same of <c>test_datasets</c>.</param>
/// <param name="Tokenizer">The model's, or null where its folder has none.</param>
public sealed record RunData(
    IReadOnlyList<Example> Train, IReadOnlyList<Example> Validation,
    IReadOnlyList<DatasetReport> Reports, IReadOnlyList<DatasetReport> ValidationReports, Tokenizer? Tokenizer)
{
    /// <summary>Reads everything. The model's <c>config.json</c> and tokenizer are read, its weights are not.</summary>
    /// <exception cref="DirectoryNotFoundException"><c>base_model</c> is no model folder.</exception>
    /// <exception cref="FileNotFoundException">A data file is absent.</exception>
    /// <exception cref="InvalidDataException">A row, the tokenizer or <c>config.json</c> is wrong.</exception>
    /// <exception cref="ArgumentException">The configuration does not fit the data or the tokenizer.</exception>
    public static RunData Load(RunConfig config)
    {
        PretrainedModel.RequireFolder(config.BaseModel);
        var model = ModelConfig.Load(Path.Combine(config.BaseModel, "config.json"));
        var tokenizer = Tokenizer.LoadIfPresent(config.BaseModel);
        var options = new DatasetOptions
        {
            SequenceLength = config.SequenceLen,
            ExcessLength = config.ExcessLengthStrategy,
            TrainOnInputs = config.TrainOnInputs,
            VocabularySize = model.Vocabulary,
            EosId = tokenizer is null ? null : EosId(config.SpecialTokens, tokenizer),
            ChatTemplate = config.ChatTemplate is null or "tokenizer_default" ? null : ChatTemplate.Named(config.ChatTemplate),
        };
        var data = Dataset.Load(config.Datasets, options, tokenizer);
        var test = Dataset.Load(config.TestDatasets, options, tokenizer);
        var (train, validation) = DataOrder.Split(data.Examples.Count, config.ValSetSize, (ulong)config.Seed);
        IReadOnlyList<Example> held = [.. validation.Select(i => data.Examples[i]), .. test.Examples];
        return new RunData([.. train.Select(i => data.Examples[i])], held, data.Reports, test.Reports, tokenizer);
    }

    static int? EosId(SpecialTokensConfig special, Tokenizer tokenizer)
    {
        if (special.BosToken is { } bos && bos != tokenizer.Bos?.Text)
        {
            throw new ArgumentException($"special_tokens.bos_token: the tokenizer begins texts with {tokenizer.Bos?.Text ?? "nothing"}, which cannot be replaced by {bos}. " +
                "Remove the key, or change tokenizer_config.json of the model.");
        }

        return special.EosToken is not { } eos ? null : tokenizer.TokenId(eos)
            ?? throw new ArgumentException($"special_tokens.eos_token: the vocabulary has no token {eos}. Name one that it has.");
    }
}
