using System.Buffers;
using System.Text;

namespace IlgpuPeft.Text;

/// <summary>A token with a role in the model's texts.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Text">Its text.</param>
public readonly record struct SpecialToken(int Id, string Text);

/// <summary>Text to token ids and back, as a Hugging Face model folder defines it: <c>tokenizer.json</c>, and where present <c>tokenizer_config.json</c>,
/// <c>special_tokens_map.json</c> and <c>chat_template.jinja</c>. Safe for concurrent use.</summary>
/// <remarks>Byte-pair encoding over bytes (GPT-2, Llama 3, Qwen) and over characters with byte fallback (Llama 2, Phi 3, Mistral). A component that is not
/// implemented is refused by name when the folder is loaded.</remarks>
public sealed class Tokenizer
{
    readonly Normalizer normalizer;
    readonly PreTokenizer preTokenizer;
    readonly Bpe model;
    readonly TokenDecoder decoder;
    readonly AddedTokens inRawText, inNormalizedText;
    readonly Dictionary<int, AddedToken> added;
    readonly string?[] texts; // by id; null where no token has the id
    readonly HashSet<int> special;
    readonly int[] before, after; // ids that the post-processor puts around a text

    Tokenizer(JsonPart root, TokenizerSettings settings)
    {
        normalizer = Normalizer.Read(root.Optional("normalizer"));
        preTokenizer = PreTokenizer.Read(root.Optional("pre_tokenizer"));
        model = BpeReader.Read(root["model"], preTokenizer.ByteLevel);
        decoder = TokenDecoder.Read(root["decoder"]);
        if (!preTokenizer.ByteLevel && model.CanCutBefore(Metaspace.DefaultMark))
        {
            preTokenizer.CutBefore(Metaspace.DefaultMark);
        }

        added = settings.ReadAddedTokens(root, model);
        texts = new string?[model.Vocabulary.Values.Concat(added.Keys).DefaultIfEmpty(-1).Max() + 1];
        foreach ((string text, int id) in model.Vocabulary)
        {
            texts[id] = text;
        }

        foreach (AddedToken token in added.Values)
        {
            texts[token.Id] = token.Text;
        }

        inRawText = new AddedTokens(added.Values.Where(token => !token.Normalized).Select(token => (token.Text, token)));
        inNormalizedText = new AddedTokens(added.Values.Where(token => token.Normalized).Select(token => (normalizer.Normalize(token.Text), token)));
        (before, after) = PostProcessor.Read(root.Optional("post_processor"), TokenText);

        Bos = settings.Role("bos_token", TokenId);
        Eos = settings.Role("eos_token", TokenId);
        Pad = settings.Role("pad_token", TokenId);
        Unk = settings.Role("unk_token", TokenId) ?? (model.UnknownId is int unknown ? new SpecialToken(unknown, texts[unknown]!) : null);
        ChatTemplateSource = settings.ChatTemplate;
        special = [.. added.Values.Where(token => token.Special).Select(token => token.Id)];
        foreach (SpecialToken? role in (SpecialToken?[])[Bos, Eos, Pad, Unk])
        {
            if (role is SpecialToken token)
            {
                special.Add(token.Id);
            }
        }
    }

    /// <summary>Begins a text; null where the folder names none.</summary>
    public SpecialToken? Bos { get; }

    /// <summary>Ends a text; null where the folder names none.</summary>
    public SpecialToken? Eos { get; }

    /// <summary>Fills a batch; null where the folder names none.</summary>
    public SpecialToken? Pad { get; }

    /// <summary>Stands for what the vocabulary cannot spell; null where there is none.</summary>
    public SpecialToken? Unk { get; }

    /// <summary>Whether <see cref="Encode"/> puts <see cref="Bos"/> in front, as the post-processor says.</summary>
    public bool AddBos => Bos is SpecialToken bos && before.Contains(bos.Id);

    /// <summary>Whether <see cref="Encode"/> puts <see cref="Eos"/> at the end, as the post-processor says.</summary>
    public bool AddEos => Eos is SpecialToken eos && after.Contains(eos.Id);

    /// <summary>One more than the largest id. A model may have more rows than that: many pad their embedding.</summary>
    public int VocabularySize => texts.Length;

    /// <summary>The source of the model's own chat template (Jinja), or null. See <see cref="ChatTemplate.Detect"/>.</summary>
    public string? ChatTemplateSource { get; }

    /// <summary>Reads a model folder.</summary>
    /// <exception cref="FileNotFoundException">The folder has no <c>tokenizer.json</c>.</exception>
    /// <exception cref="InvalidDataException">A file is damaged, contradicts itself, or asks for something that is not implemented; the message names the place.</exception>
    public static Tokenizer Load(string folder)
    {
        string file = Path.Combine(folder, "tokenizer.json");
        if (!File.Exists(file))
        {
            throw new FileNotFoundException($"{folder}: there is no tokenizer.json. Point to a model folder in Hugging Face format, or work with token ids.", file);
        }

        return new Tokenizer(JsonPart.Read(file), TokenizerSettings.Read(folder));
    }

    /// <summary>Reads a model folder, or returns null where it has no <c>tokenizer.json</c>: such a model works with token ids.</summary>
    /// <exception cref="InvalidDataException">As <see cref="Load"/>.</exception>
    public static Tokenizer? LoadIfPresent(string folder) => File.Exists(Path.Combine(folder, "tokenizer.json")) ? Load(folder) : null;

    /// <summary>The ids of a text. Added tokens that occur in it (<c>&lt;|im_end|&gt;</c>) become their one id.</summary>
    /// <param name="text">Any text; a lone surrogate counts as U+FFFD.</param>
    /// <param name="addSpecialTokens">Whether the post-processor adds what it adds, see <see cref="AddBos"/> and <see cref="AddEos"/>.</param>
    /// <exception cref="System.Text.RegularExpressions.RegexMatchTimeoutException">A pattern of the file takes forever on this text.</exception>
    public int[] Encode(string text, bool addSpecialTokens = true)
    {
        List<int> ids = addSpecialTokens ? [.. before] : [];
        bool atStart = true;
        foreach ((AddedToken? token, string piece) in inRawText.Cut(text))
        {
            if (token is not null)
            {
                ids.Add(token.Id);
            }
            else
            {
                EncodeBetween(piece, atStart, ids);
            }

            atStart = false;
        }

        if (addSpecialTokens)
        {
            ids.AddRange(after);
        }

        return [.. ids];
    }

    /// <summary>The text of ids. Ids that name no token add nothing; bytes that are not UTF-8 become U+FFFD.</summary>
    /// <param name="ids">Ids in order.</param>
    /// <param name="skipSpecialTokens">Whether special tokens (those marked so, and bos, eos, pad and unk) are left out.</param>
    public string Decode(ReadOnlySpan<int> ids, bool skipSpecialTokens = true)
    {
        StreamingDecoder stream = Stream(skipSpecialTokens);
        var text = new StringBuilder();
        foreach (int id in ids)
        {
            text.Append(stream.Push(id));
        }

        return text.Append(stream.Flush()).ToString();
    }

    /// <summary>A decoder for ids that arrive one at a time.</summary>
    public StreamingDecoder Stream(bool skipSpecialTokens = true) => new(this, skipSpecialTokens, decoder.Stripped, decoder.StripCount);

    /// <summary>The text of a token as the vocabulary writes it (<c>Ġthe</c>, <c>▁the</c>), or null where no token has the id.</summary>
    public string? TokenText(int id) => id >= 0 && id < texts.Length ? texts[id] : null;

    /// <summary>The id of a token as the vocabulary writes it, or null.</summary>
    public int? TokenId(string text) => model.Vocabulary.TryGetValue(text, out int id) ? id : added.Values.FirstOrDefault(token => token.Text == text)?.Id;

    /// <summary>Whether decoding leaves the token out.</summary>
    public bool IsSpecial(int id) => special.Contains(id);

    /// <summary>Appends the bytes of one token, none for a special token that is skipped or an id without a token.</summary>
    internal void WriteBytes(int id, bool skipSpecialTokens, IBufferWriter<byte> bytes)
    {
        if (TokenText(id) is not string text || (skipSpecialTokens && IsSpecial(id)))
        {
            return;
        }

        if (added.ContainsKey(id))
        {
            Encoding.UTF8.GetBytes(text, bytes); // the text itself was found; nothing of it was spelled in bytes or marks
        }
        else
        {
            decoder.Write(text, bytes);
        }
    }

    void EncodeBetween(string text, bool atStart, List<int> ids)
    {
        foreach ((AddedToken? token, string piece) in inNormalizedText.Cut(normalizer.Normalize(text)))
        {
            if (token is not null)
            {
                ids.Add(token.Id);
            }
            else
            {
                foreach (ReadOnlyMemory<char> word in preTokenizer.Cut(piece, atStart))
                {
                    model.Encode(word.Span, ids);
                }
            }

            atStart = false;
        }
    }
}
