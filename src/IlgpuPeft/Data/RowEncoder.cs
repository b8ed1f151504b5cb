using IlgpuPeft.Text;

namespace IlgpuPeft.Data;

/// <summary>Turns rows of one source into tokens and labels; see <see cref="RowTokenizer"/> for how texts become tokens.</summary>
sealed class RowEncoder(DatasetSource source, DatasetOptions options, Tokenizer? tokenizer)
{
    readonly RowTokenizer texts = new(source, options, tokenizer);

    /// <summary>The tokens and labels of a row, however long.</summary>
    /// <exception cref="InvalidDataException">A field is absent or of the wrong kind, or a token id is outside the vocabulary.</exception>
    public Example Encode(DataRow row) => source.Type switch
    {
        DatasetType.Alpaca => Join(row,
            AlpacaPrompt.Text(row.Text(source.FieldInstruction ?? "instruction"), row.OptionalText(source.FieldInput ?? "input")),
            row.Text(source.FieldOutput ?? "output")),
        DatasetType.PromptCompletion => Join(row, row.Text(source.FieldInstruction ?? "prompt"), row.Text(source.FieldOutput ?? "completion")),
        DatasetType.Completion => Checked(row, texts.Ended(texts.Beginning(row.Text(source.Field ?? "text"))), untrained: 0),
        DatasetType.ChatTemplate => Conversation(row),
        _ => Tokenized(row),
    };

    Example Join(DataRow row, string prompt, string response)
    {
        int[] before = texts.Beginning(prompt), after = texts.Response(response);
        return Checked(row, [.. before, .. after], untrained: options.TrainOnInputs ? 0 : before.Length);
    }

    Example Conversation(DataRow row)
    {
        List<int> ids = [], labels = [];
        foreach (var (text, trained) in ChatTurns.Of(row, source, texts.Template))
        {
            int[] part = ids.Count == 0 ? texts.Beginning(text) : texts.Continuation(text);
            ids.AddRange(part);
            labels.AddRange(trained || options.TrainOnInputs ? part : part.Select(_ => Example.Untrained));
        }

        if (texts.Template.EndOfTurn is null) // the template itself has no way to end the last answer
        {
            ids.Add(texts.Eos);
            labels.Add(texts.Eos);
        }

        texts.CheckVocabulary(row, "the tokenizer gives", ids);
        return new Example([.. ids], [.. labels], row.File, row.Line);
    }

    Example Checked(DataRow row, int[] ids, int untrained)
    {
        texts.CheckVocabulary(row, "the tokenizer gives", ids);
        int[] labels = [.. ids];
        labels.AsSpan(0, untrained).Fill(Example.Untrained);
        return new Example(ids, labels, row.File, row.Line);
    }

    Example Tokenized(DataRow row)
    {
        int[] ids = row.Integers("input_ids");
        int[] labels = row.OptionalIntegers("labels") ?? [.. ids];
        int[]? mask = row.OptionalIntegers("attention_mask");
        CheckLength(row, "labels", labels, ids);
        CheckLength(row, "attention_mask", mask ?? ids, ids);
        texts.CheckVocabulary(row, "input_ids has", ids);
        texts.CheckVocabulary(row, "labels has", labels.Where(label => label != Example.Untrained));
        if (mask is not null) // padding is never trained on, so it goes
        {
            ids = [.. ids.Where((_, i) => mask[i] != 0)];
            labels = [.. labels.Where((_, i) => mask[i] != 0)];
        }

        return new Example(ids, labels, row.File, row.Line);
    }

    static void CheckLength(DataRow row, string name, int[] list, int[] ids)
    {
        if (list.Length != ids.Length)
        {
            throw row.Problem($"{name} has {list.Length} elements, expected {ids.Length} as input_ids has. Give one for each token.");
        }
    }
}
