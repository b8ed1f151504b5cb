using IlgpuPeft.Text;

namespace IlgpuPeft.Data;

/// <summary>
/// Turns rows of one source into tokens and labels. Prompt and response are tokenised apart and joined, as Axolotl does, so that a prompt has the same tokens in
/// training as in generation; the beginning-of-sequence token stands once in front, the end-of-sequence token once at the end.
/// </summary>
sealed class RowEncoder
{
    readonly DatasetSource source;
    readonly DatasetOptions options;
    readonly Tokenizer? tokenizer;
    readonly ChatTemplate? template;
    readonly int eos;
    readonly int appended; // end-of-sequence tokens that the tokenizer adds to every text by itself

    /// <exception cref="NotSupportedException">The source holds conversations, no template is named, and the tokenizer's own is not built in.</exception>
    /// <exception cref="ArgumentException">The source holds text, and there is no tokenizer or no end-of-sequence token.</exception>
    public RowEncoder(DatasetSource source, DatasetOptions options, Tokenizer? tokenizer)
    {
        (this.source, this.options, this.tokenizer) = (source, options, tokenizer);
        if (source.Type == DatasetType.Tokenized)
        {
            return;
        }

        if (tokenizer is null)
        {
            throw new ArgumentException($"{source.Path}: rows of text need a tokenizer, and the model folder has none. Add tokenizer.json, or use type: tokenized.", nameof(tokenizer));
        }

        eos = options.EosId ?? tokenizer.Eos?.Id ?? throw new ArgumentException(
            $"{source.Path}: the tokenizer names no end-of-sequence token, so the model would never learn to stop. Set special_tokens.eos_token.", nameof(tokenizer));
        appended = tokenizer.AddEos ? 1 : 0;
        if (source.Type == DatasetType.ChatTemplate)
        {
            template = options.ChatTemplate ?? ChatTemplate.Detect(tokenizer.ChatTemplateSource);
        }
    }

    /// <summary>The tokens and labels of a row, however long.</summary>
    /// <exception cref="InvalidDataException">A field is absent or of the wrong kind, or a token id is outside the vocabulary.</exception>
    public Example Encode(DataRow row) => source.Type switch
    {
        DatasetType.Alpaca => Join(row,
            AlpacaPrompt.Text(row.Text(source.FieldInstruction ?? "instruction"), row.OptionalText(source.FieldInput ?? "input")),
            row.Text(source.FieldOutput ?? "output")),
        DatasetType.PromptCompletion => Join(row, row.Text(source.FieldInstruction ?? "prompt"), row.Text(source.FieldOutput ?? "completion")),
        DatasetType.Completion => Checked(row, Ended(Beginning(row.Text(source.Field ?? "text"))), untrained: 0),
        DatasetType.ChatTemplate => Conversation(row),
        _ => Tokenized(row),
    };

    Example Join(DataRow row, string prompt, string response)
    {
        int[] before = Beginning(prompt);
        int[] after = Ended(tokenizer!.Encode(response, addSpecialTokens: false));
        return Checked(row, [.. before, .. after], untrained: options.TrainOnInputs ? 0 : before.Length);
    }

    Example Conversation(DataRow row)
    {
        List<int> ids = [], labels = [];
        foreach (var (text, trained) in ChatTurns.Of(row, source, template!))
        {
            int[] part = ids.Count == 0 ? Beginning(text) : tokenizer!.Encode(text, addSpecialTokens: false);
            ids.AddRange(part);
            labels.AddRange(trained || options.TrainOnInputs ? part : part.Select(_ => Example.Untrained));
        }

        if (template!.EndOfTurn is null) // the template itself has no way to end the last answer
        {
            ids.Add(eos);
            labels.Add(eos);
        }

        CheckVocabulary(row, "the tokenizer gives", ids);
        return new Example([.. ids], [.. labels], row.File, row.Line);
    }

    // A text may spell out the beginning-of-sequence token that the tokenizer then doubles.
    int[] Beginning(string text)
    {
        int[] ids = tokenizer!.Encode(text, addSpecialTokens: true)[..^appended];
        return ids is [var first, var second, ..] && first == second && first == tokenizer.Bos?.Id ? ids[1..] : ids;
    }

    int[] Ended(int[] ids) => ids is [.., var last] && last == eos ? ids : [.. ids, eos];

    Example Checked(DataRow row, int[] ids, int untrained)
    {
        CheckVocabulary(row, "the tokenizer gives", ids);
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
        CheckVocabulary(row, "input_ids has", ids);
        CheckVocabulary(row, "labels has", labels.Where(label => label != Example.Untrained));
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

    void CheckVocabulary(DataRow row, string who, IEnumerable<int> ids)
    {
        foreach (int id in ids)
        {
            if (id < 0 || id >= options.VocabularySize)
            {
                string range = options.VocabularySize is int size ? $"0 ... {size - 1}" : "0 or more";
                throw row.Problem($"{who} token {id}, expected {range}. Check that the data was tokenised for this model.");
            }
        }
    }
}
