using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Models;
using IlgpuPeft.Rewards;
using IlgpuPeft.Text;

namespace IlgpuPeft.Config;

/// <summary>The data of a run: read, tokenised and split as its configuration says.</summary>
/// <typeparam name="T">A row: <see cref="Example"/>, <see cref="PreferencePair"/>, <see cref="LabelledResponse"/> or <see cref="Prompt"/>.</typeparam>
/// <param name="Train">Rows to train on.</param>
/// <param name="Validation">Rows set aside by <c>val_set_size</c>, or those of <c>test_datasets</c>; may be empty.</param>
/// <param name="Reports">What became of the rows of each of <c>datasets</c>, before the split.</param>
/// <param name="ValidationReports">The same of <c>test_datasets</c>.</param>
/// <param name="Tokenizer">The model's, or null where its folder has none.</param>
/// <param name="Options">How rows became tokens.</param>
public sealed record RunData<T>(
    IReadOnlyList<T> Train, IReadOnlyList<T> Validation,
    IReadOnlyList<DatasetReport> Reports, IReadOnlyList<DatasetReport> ValidationReports, Tokenizer? Tokenizer, DatasetOptions Options)
{
    /// <summary>The data in numbers.</summary>
    /// <param name="tokens">Tokens of a row.</param>
    /// <param name="trained">Tokens of a row that the loss covers.</param>
    /// <param name="length">Tokens of the longest sequence that a row makes.</param>
    internal RunRows Summary(Func<T, long> tokens, Func<T, long> trained, Func<T, int> length) =>
        new(Train.Count, Validation.Count, Train.Sum(tokens), Train.Sum(trained), Train.Concat(Validation).Max(length), Reports, ValidationReports);
}

/// <summary>Reads the data of runs.</summary>
public static class RunData
{
    /// <summary>Reads everything of a supervised run. The model's <c>config.json</c> and tokenizer are read, its weights are not.</summary>
    /// <param name="config">The run.</param>
    /// <param name="cancel">Stops between two rows.</param>
    /// <exception cref="DirectoryNotFoundException"><c>base_model</c> is no model folder.</exception>
    /// <exception cref="FileNotFoundException">A data file is absent.</exception>
    /// <exception cref="InvalidDataException">A row, the tokenizer or <c>config.json</c> is wrong.</exception>
    /// <exception cref="ArgumentException">The configuration does not fit the data or the tokenizer.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancel"/> asked for it.</exception>
    public static RunData<Example> Load(RunConfig config, CancellationToken cancel = default) => Load(config, new DatasetOptions { CancellationToken = cancel }, (sources, options, tokenizer) =>
    {
        var data = Dataset.Load(sources, options, tokenizer);
        return new Dataset<Example>(data.Examples, data.Reports);
    });

    /// <summary>Reads the pairs of a reward model or of <c>rl: dpo</c>, <c>ipo</c> or <c>orpo</c>. Errors are those of <see cref="Load(RunConfig, CancellationToken)"/>.</summary>
    public static RunData<PreferencePair> LoadPairs(RunConfig config, CancellationToken cancel = default) =>
        Load(config, new DatasetOptions { CancellationToken = cancel }, Dataset.LoadPairs);

    /// <summary>Reads the responses of <c>rl: kto</c>. Errors are those of <see cref="Load(RunConfig, CancellationToken)"/>.</summary>
    public static RunData<LabelledResponse> LoadLabelled(RunConfig config, CancellationToken cancel = default) =>
        Load(config, new DatasetOptions { CancellationToken = cancel }, Dataset.LoadLabelled);

    /// <summary>
    /// Reads the prompts of <c>rl: ppo</c> or <c>grpo</c>. Those that leave no room for a response within <c>sequence_len</c> are dropped or refused, as <c>excess_length_strategy</c> says.
    /// Errors are those of <see cref="Load(RunConfig, CancellationToken)"/>.
    /// </summary>
    /// <exception cref="ArgumentException">A response alone fills <c>sequence_len</c>; or a rule in <c>rewards</c> needs a tokenizer, or a field that a row lacks.</exception>
    public static RunData<Prompt> LoadPrompts(RunConfig config, CancellationToken cancel = default)
    {
        bool validates = config.Rl != "ppo"; // which has no loss to validate: every prompt is trained on
        var (response, key) = config.Rl == "ppo" ? (config.Ppo.ResponseLength, "ppo.response_length") : (config.Trl.MaxCompletionLength, "trl.max_completion_length");
        if (response >= config.SequenceLen)
        {
            throw new ArgumentException($"sequence_len: {config.SequenceLen} tokens leave no room for a prompt before a response of {response}, {key}. Raise sequence_len, or lower {key}.");
        }

        var data = Load(validates ? config : config with { ValSetSize = 0, TestDatasets = [] },
            new DatasetOptions { ReservedLength = response, ReservedKey = key, CancellationToken = cancel }, Dataset.LoadPrompts);
        foreach (var rule in config.Rewards.Where(reward => reward.Rule is not null).Select(reward => RewardRules.Create(reward.Rule!, reward.Options)))
        {
            if (data.Tokenizer is null && rule.ReadsText)
            {
                throw new ArgumentException($"reward {rule.Name}: {config.BaseModel} has no tokenizer.json, so answers have no text to read. Use rules that count tokens, such as length, or add the tokenizer.");
            }

            foreach (var prompt in data.Train.Concat(data.Validation))
            {
                rule.Check(prompt); // the trainer does it too, but after the weights are read
            }
        }

        return data;
    }

    static RunData<T> Load<T>(RunConfig config, DatasetOptions beginning, Func<IReadOnlyList<DatasetSource>, DatasetOptions, Tokenizer?, Dataset<T>> read)
    {
        PretrainedModel.RequireFolder(config.BaseModel);
        var model = ModelConfig.Load(Path.Combine(config.BaseModel, "config.json"));
        var tokenizer = Tokenizer.LoadIfPresent(config.BaseModel);
        var options = beginning with
        {
            SequenceLength = config.SequenceLen,
            ExcessLength = config.ExcessLengthStrategy,
            TrainOnInputs = config.TrainOnInputs,
            VocabularySize = model.Vocabulary,
            EosId = tokenizer is null ? null : EosId(config.SpecialTokens, tokenizer),
            ChatTemplate = config.ChatTemplate is null or "tokenizer_default" ? null : ChatTemplate.Named(config.ChatTemplate),
        };
        var data = read(Sources(config.Datasets), options, tokenizer);
        var test = read(Sources(config.TestDatasets), options, tokenizer);
        var (train, validation) = DataOrder.Split(data.Items.Count, config.ValSetSize, (ulong)config.Seed);
        IReadOnlyList<T> held = [.. validation.Select(i => data.Items[i]), .. test.Items];
        return new RunData<T>([.. train.Select(i => data.Items[i])], held, data.Reports, test.Reports, tokenizer, options);
    }

    static List<DatasetSource> Sources(IReadOnlyList<DatasetSource> sources) => [.. sources.Select(source => source with { Hints = DatasetHints.Configuration })];

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
