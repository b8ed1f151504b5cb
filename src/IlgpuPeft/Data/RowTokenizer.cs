using IlgpuPeft.Text;

namespace IlgpuPeft.Data;

/// <summary>
/// Tokenises the texts of one source's rows. Prompt and response are tokenised apart and joined, as Axolotl does, so that a prompt has the same tokens in training as in generation; the
/// beginning-of-sequence token stands once in front, the end-of-sequence token once at the end.
/// </summary>
sealed class RowTokenizer
{
    readonly DatasetOptions options;
    readonly Tokenizer? tokenizer;
    readonly ChatTemplate? template;
    readonly int appended; // end-of-sequence tokens that the tokenizer adds to every text by itself

    /// <exception cref="ArgumentException">
    /// The source holds text, and there is no tokenizer or no end-of-sequence token; or it holds conversations, no template is named, and the tokenizer's own is not built in.
    /// </exception>
    public RowTokenizer(DatasetSource source, DatasetOptions options, Tokenizer? tokenizer)
    {
        (this.options, this.tokenizer) = (options, tokenizer);
        if (source.Type == DatasetType.Tokenized)
        {
            return;
        }

        if (tokenizer is null)
        {
            throw new ArgumentException($"{source.Path}: rows of text need a tokenizer, and the model folder has none. Add tokenizer.json, or use type: tokenized.", nameof(tokenizer));
        }

        Eos = options.EosId ?? tokenizer.Eos?.Id ?? throw new ArgumentException(
            $"{source.Path}: the tokenizer names no end-of-sequence token, so the model would never learn to stop. Set special_tokens.eos_token.", nameof(tokenizer));
        appended = tokenizer.AddEos ? 1 : 0;
        if (source.Type == DatasetType.ChatTemplate)
        {
            template = options.ChatTemplate ?? Detect(source, tokenizer);
        }
    }

    /// <summary>The end-of-sequence token.</summary>
    public int Eos { get; }

    /// <summary>How conversations are written, where the source holds them.</summary>
    public ChatTemplate Template => template!;

    static ChatTemplate Detect(DatasetSource source, Tokenizer tokenizer)
    {
        try
        {
            return ChatTemplate.Detect(tokenizer.ChatTemplateSource);
        }
        catch (NotSupportedException cause) // which here is a setting that is missing
        {
            throw new ArgumentException($"{source.Path}: {cause.Message}", nameof(source), cause);
        }
    }

    /// <summary>The tokens of a text that stands first, the beginning-of-sequence token included where the model has one.</summary>
    public int[] Beginning(string text)
    {
        // A text may spell out the beginning-of-sequence token that the tokenizer then doubles.
        int[] ids = tokenizer!.Encode(text, addSpecialTokens: true)[..^appended];
        return ids is [var first, var second, ..] && first == second && first == tokenizer.Bos?.Id ? ids[1..] : ids;
    }

    /// <summary>The tokens of a text that follows others.</summary>
    public int[] Continuation(string text) => tokenizer!.Encode(text, addSpecialTokens: false);

    /// <summary>The same with the end-of-sequence token, unless they have it.</summary>
    public int[] Ended(int[] ids) => ids is [.., var last] && last == Eos ? ids : [.. ids, Eos];

    /// <summary>The tokens of a response, its end included: the template's end of turn where a template has one, else the end-of-sequence token.</summary>
    public int[] Response(string text) => template?.EndOfTurn is null ? Ended(Continuation(text)) : Continuation(text);

    /// <summary>The text of tokens, or nothing without a tokenizer.</summary>
    public string Text(int[] ids) => tokenizer?.Decode(ids) ?? "";

    /// <summary>Checks the tokens of a row.</summary>
    /// <param name="row">The row.</param>
    /// <param name="who">Where they are from, with its verb.</param>
    /// <param name="ids">The tokens.</param>
    /// <exception cref="InvalidDataException">One is outside the vocabulary.</exception>
    public void CheckVocabulary(DataRow row, string who, IEnumerable<int> ids)
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
