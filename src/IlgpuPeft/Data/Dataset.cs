using IlgpuPeft.Text;

namespace IlgpuPeft.Data;

/// <summary>The examples of all sources, in the order of sources and rows, and what became of every row.</summary>
/// <param name="Examples">What is trained on.</param>
/// <param name="Reports">One for each source.</param>
public sealed record Dataset(IReadOnlyList<Example> Examples, IReadOnlyList<DatasetReport> Reports)
{
    /// <summary>Reads and tokenises every source.</summary>
    /// <param name="sources">The files.</param>
    /// <param name="options">Length limit and what is trained on.</param>
    /// <param name="tokenizer">The model's tokenizer; may be null if every source is <see cref="DatasetType.Tokenized"/>.</param>
    /// <exception cref="FileNotFoundException">A file is absent.</exception>
    /// <exception cref="InvalidDataException">A row is wrong; or a source has no usable row, with the counts of why.</exception>
    /// <exception cref="ArgumentException">A source needs a tokenizer or an end-of-sequence token that is not there.</exception>
    public static Dataset Load(IReadOnlyList<DatasetSource> sources, DatasetOptions options, Tokenizer? tokenizer)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(options.SequenceLength, 2);
        List<Example> examples = [];
        var reports = sources.Select(source => LoadOne(source, options, tokenizer, examples)).ToList();
        return new Dataset(examples, reports);
    }

    /// <summary>Reads pairs of a preferred and another response to the same prompt. Pairs of equal responses are left out and counted.</summary>
    /// <param name="sources">The files.</param>
    /// <param name="options">Length limit of a prompt with the longer of its responses; longer pairs are left out whole and counted, or are an error, but never cut.</param>
    /// <param name="tokenizer">The model's tokenizer; may be null if every source is <see cref="DatasetType.Tokenized"/>.</param>
    /// <exception cref="FileNotFoundException">A file is absent.</exception>
    /// <exception cref="InvalidDataException">A row is wrong; or a source has no usable row, with the counts of why.</exception>
    /// <exception cref="ArgumentException">A source has no prompts or needs a tokenizer or an end-of-sequence token that is not there; or rows should be truncated.</exception>
    public static Dataset<PreferencePair> LoadPairs(IReadOnlyList<DatasetSource> sources, DatasetOptions options, Tokenizer? tokenizer) =>
        LoadResponses<PreferencePair>(sources, options, tokenizer, "pairs", (encoder, row) => encoder.Pair(row) is var pair && ResponseEncoder.IsEqual(pair) ? [] : [pair], pair => pair.Length,
            pair => 2L * pair.Prompt.Length + pair.Chosen.Length + pair.Rejected.Length, pair => pair.Chosen.Length + pair.Rejected.Length);

    /// <summary>Reads responses that were liked or not; a pair counts as one of each. Parameters and errors are those of <see cref="LoadPairs"/>.</summary>
    public static Dataset<LabelledResponse> LoadLabelled(IReadOnlyList<DatasetSource> sources, DatasetOptions options, Tokenizer? tokenizer) =>
        LoadResponses<LabelledResponse>(sources, options, tokenizer, "responses", (encoder, row) => encoder.Labelled(row), item => item.Length, item => item.Length, item => item.Response.Length);

    /// <summary>
    /// Reads prompts to be answered. The length limit is the prompt's, less <see cref="DatasetOptions.ReservedLength"/>; parameters and errors are else those of <see cref="LoadPairs"/>.
    /// </summary>
    public static Dataset<Prompt> LoadPrompts(IReadOnlyList<DatasetSource> sources, DatasetOptions options, Tokenizer? tokenizer) =>
        LoadResponses<Prompt>(sources, options, tokenizer, Prompts, (encoder, row) => [encoder.Prompt(row)], prompt => prompt.Ids.Length, prompt => prompt.Ids.Length, _ => 0);

    internal const string Prompts = "prompts";

    static Dataset<T> LoadResponses<T>(
        IReadOnlyList<DatasetSource> sources, DatasetOptions options, Tokenizer? tokenizer, string unit,
        Func<ResponseEncoder, DataRow, IReadOnlyList<T>> encode, Func<T, int> length, Func<T, long> tokens, Func<T, long> trained)
    {
        if (options.ExcessLength == ExcessLength.Truncate)
        {
            throw new ArgumentException($"excess_length_strategy: truncate is not for {unit}: a response without its end, or a prompt without its question, teaches something else. Set drop or raise.", nameof(options));
        }

        List<T> all = [];
        return new Dataset<T>(all, [.. sources.Select(Load)]);

        DatasetReport Load(DatasetSource source)
        {
            var encoder = new ResponseEncoder(source, options, tokenizer);
            int rows = 0, tooLong = 0, equal = 0, before = all.Count;
            foreach (var row in DatasetReader.Read(source, options.CancellationToken))
            {
                rows++;
                var items = encode(encoder, row);
                int longest = items.Select(length).DefaultIfEmpty(0).Max();
                if (longest <= options.Room)
                {
                    equal += items.Count == 0 ? 1 : 0;
                    all.AddRange(items);
                    continue;
                }

                tooLong++;
                if (options.ExcessLength == ExcessLength.Raise)
                {
                    throw row.Problem($"the row has {longest} tokens, expected at most {options.RoomInWords}. Shorten the row, {options.MoreRoom}, or set excess_length_strategy to drop.");
                }
            }

            var kept = all.Skip(before);
            var report = new DatasetReport(source.Path, rows, all.Count - before, tooLong, 0, 0, kept.Sum(tokens), kept.Sum(trained))
            {
                Unit = unit,
                Equal = equal,
                Limit = options.ReservedLength == 0 ? "sequence_len" : $"sequence_len less {options.ReservedKey}",
            };
            return report.Examples > 0 ? report : throw NothingLeft(report, options);
        }
    }

    static InvalidDataException NothingLeft(DatasetReport report, DatasetOptions options) =>
        new($"{report}. Nothing is left to train on. Check the dataset's type and fields, or {options.MoreRoom}.");

    static DatasetReport LoadOne(DatasetSource source, DatasetOptions options, Tokenizer? tokenizer, List<Example> examples)
    {
        var encoder = new RowEncoder(source, options, tokenizer);
        int rows = 0, tooLong = 0, truncated = 0, untrained = 0, before = examples.Count;
        foreach (var row in DatasetReader.Read(source, options.CancellationToken))
        {
            rows++;
            var example = encoder.Encode(row);
            if (example.Length > options.SequenceLength && source.Type == DatasetType.Completion)
            {
                examples.AddRange(Pieces(example, options.SequenceLength));
                continue;
            }

            if (example.Length > options.SequenceLength)
            {
                if (options.ExcessLength == ExcessLength.Raise)
                {
                    throw row.Problem($"the row has {example.Length} tokens, expected at most sequence_len, {options.SequenceLength}. " +
                        "Raise sequence_len, shorten the row, or set excess_length_strategy to drop or truncate.");
                }

                if (options.ExcessLength == ExcessLength.Drop)
                {
                    tooLong++;
                    continue;
                }

                truncated++;
                example = Cut(example, 0, options.SequenceLength);
            }

            if (example.TrainedTokens == 0)
            {
                untrained++;
                continue;
            }

            examples.Add(example);
        }

        var kept = examples.Skip(before);
        var report = new DatasetReport(source.Path, rows, examples.Count - before, tooLong, truncated, untrained,
            kept.Sum(example => (long)example.Length), kept.Sum(example => (long)example.TrainedTokens));
        return report.Examples > 0 ? report : throw NothingLeft(report, options);
    }

    // Each piece starts with the last token of the one before: the first token of a sequence is never predicted, so without that one token in common
    // every cut would lose a token of training.
    static IEnumerable<Example> Pieces(Example example, int length)
    {
        for (int start = 0; start + 1 < example.Length; start += length - 1)
        {
            yield return Cut(example, start, Math.Min(start + length, example.Length));
        }
    }

    static Example Cut(Example example, int start, int end) => example with { InputIds = example.InputIds[start..end], Labels = example.Labels[start..end] };
}

/// <summary>What all sources hold for a preference or policy method, in the order of sources and rows, and what became of every row.</summary>
/// <typeparam name="T"><see cref="PreferencePair"/>, <see cref="LabelledResponse"/> or <see cref="Prompt"/>.</typeparam>
/// <param name="Items">What is learned from.</param>
/// <param name="Reports">One for each source.</param>
public sealed record Dataset<T>(IReadOnlyList<T> Items, IReadOnlyList<DatasetReport> Reports);
