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

    static DatasetReport LoadOne(DatasetSource source, DatasetOptions options, Tokenizer? tokenizer, List<Example> examples)
    {
        var encoder = new RowEncoder(source, options, tokenizer);
        int rows = 0, tooLong = 0, truncated = 0, untrained = 0, before = examples.Count;
        foreach (var row in DatasetReader.Read(source))
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
        return report.Examples > 0 ? report : throw new InvalidDataException(
            $"{report}. Nothing is left to train on. Check the dataset's type and fields, or raise sequence_len ({options.SequenceLength}).");
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
