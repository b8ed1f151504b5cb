using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;

namespace IlgpuPeft.Text;

/// <summary>Byte-pair encoding (Sennrich et al. 2016): a word starts as its characters (or bytes), and the adjacent pair of lowest rank is merged until none is left;
/// among equal pairs the leftmost goes first. One loop serves byte-level and SentencePiece-style vocabularies. Safe for concurrent use.</summary>
sealed class Bpe
{
    /// <summary>One more than the largest id that a vocabulary may have: several times the largest known one, and small enough for a table.</summary>
    public const int MaximumIds = 1 << 22;

    // Words of natural text repeat; those that are long or come after the cache is full are merged every time.
    const int CachedWordLength = 64;
    const int CachedWords = 1 << 14;

    readonly Dictionary<string, int> vocabulary = [];
    readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> bySpan;
    readonly Dictionary<(int Left, int Right), (int Rank, int Id)> merges = [];
    readonly int[] byteIds = new int[256]; // id of each byte, -1 where the vocabulary lacks it
    readonly bool byteLevel, byteFallback, fuseUnknown, ignoreMerges;

    readonly ConcurrentDictionary<string, int[]> cache = [];
    readonly ConcurrentDictionary<string, int[]>.AlternateLookup<ReadOnlySpan<char>> cacheBySpan;
    int cached;

    Bpe(JsonPart model, bool byteLevel)
    {
        this.byteLevel = byteLevel;
        byteFallback = model.Flag("byte_fallback");
        fuseUnknown = model.Flag("fuse_unk");
        ignoreMerges = model.Flag("ignore_merges");
        bySpan = vocabulary.GetAlternateLookup<ReadOnlySpan<char>>();
        cacheBySpan = cache.GetAlternateLookup<ReadOnlySpan<char>>();
    }

    /// <summary>Text to id.</summary>
    public IReadOnlyDictionary<string, int> Vocabulary => vocabulary;

    /// <summary>The token for characters that the vocabulary cannot spell; without one they are dropped.</summary>
    public int? UnknownId { get; private set; }

    /// <summary>Reads the <c>model</c> of tokenizer.json. <paramref name="byteLevel"/>: words are UTF-8 bytes in <see cref="ByteAlphabet"/>.</summary>
    public static Bpe Read(JsonPart model, bool byteLevel)
    {
        // Old files do not name the type; only BPE has merges.
        if ((model.Optional("type") is JsonPart type ? type.Text() : model.Optional("merges") is null ? "without merges" : "BPE") is var name && name != "BPE")
        {
            throw model.Unsupported($"model type '{name}'", "BPE");
        }

        foreach (string affix in (string[])["continuing_subword_prefix", "end_of_word_suffix"])
        {
            if (model.Optional(affix) is JsonPart part && part.Text().Length > 0)
            {
                throw part.Unsupported($"'{part.Text()}'", "the empty string and null");
            }
        }

        if (model.Optional("dropout") is JsonPart dropout && !(dropout.Element.ValueKind == System.Text.Json.JsonValueKind.Number && dropout.Element.GetDouble() == 0))
        {
            throw dropout.Unsupported("random dropout of merges", "0 and null");
        }

        var bpe = new Bpe(model, byteLevel);
        bpe.ReadVocabulary(model["vocab"]);
        bpe.ReadMerges(model["merges"]);
        if (model.Optional("unk_token") is JsonPart unknown)
        {
            bpe.UnknownId = bpe.vocabulary.TryGetValue(unknown.Text(), out int id) ? id : throw unknown.Error($"'{unknown.Text()}' is not in the vocabulary");
        }

        for (int value = 0; value < 256; value++)
        {
            string spelled = byteLevel ? ByteAlphabet.Character((byte)value).ToString() : ByteName((byte)value);
            bpe.byteIds[value] = bpe.vocabulary.GetValueOrDefault(spelled, -1);
        }

        return bpe;
    }

    /// <summary>The text of the token that stands for one byte in a vocabulary with byte fallback: <c>&lt;0x0A&gt;</c>.</summary>
    public static string ByteName(byte value) => $"<0x{value:X2}>";

    /// <summary>Whether no token has <paramref name="mark"/> after another character. Then nothing is ever merged across the place before a run of marks, and text
    /// may be cut there: same ids, but short words that the cache holds.</summary>
    public bool CanCutBefore(char mark) => !ignoreMerges && vocabulary.ContainsKey(mark.ToString())
        && vocabulary.Keys.All(token => token.AsSpan().TrimStart(mark).IndexOf(mark) < 0);

    /// <summary>Appends the ids of one word.</summary>
    public void Encode(ReadOnlySpan<char> word, List<int> ids)
    {
        bool cacheable = word.Length <= CachedWordLength;
        if (cacheable && cacheBySpan.TryGetValue(word, out int[]? known))
        {
            ids.AddRange(known);
            return;
        }

        List<int> symbols = byteLevel ? Bytes(word) : Characters(word);
        Span<int> merged = ignoreMerges && WholeWord(word) is int whole ? [whole] : CollectionsMarshal.AsSpan(symbols)[..Merge(CollectionsMarshal.AsSpan(symbols))];
        ids.AddRange(merged);
        if (cacheable && Volatile.Read(ref cached) < CachedWords && cacheBySpan.TryAdd(word, merged.ToArray()))
        {
            Interlocked.Increment(ref cached);
        }
    }

    void ReadVocabulary(JsonPart part)
    {
        var owners = new Dictionary<int, string>();
        foreach ((string text, JsonPart value) in part.Properties())
        {
            int id = value.Integer(MaximumIds);
            if (!vocabulary.TryAdd(text, id))
            {
                throw part.Error($"'{text}' occurs twice");
            }

            if (!owners.TryAdd(id, text))
            {
                throw part.Error($"'{owners[id]}' and '{text}' both have id {id}");
            }
        }
    }

    // A merge is "left right", or ["left", "right"] in files whose tokens may contain spaces. Its rank is its place in the list.
    void ReadMerges(JsonPart part)
    {
        int rank = 0;
        foreach (JsonPart merge in part.Items())
        {
            string[] pair = merge.Element.ValueKind == System.Text.Json.JsonValueKind.Array ? [.. merge.Items().Select(item => item.Text())] : merge.Text().Split(' ');
            if (pair.Length != 2)
            {
                throw merge.Error($"expected two tokens, found {pair.Length} in {merge.Element.GetRawText()}");
            }

            merges[(Id(pair[0], merge), Id(pair[1], merge))] = (rank++, Id(pair[0] + pair[1], merge));
        }
    }

    int Id(string token, JsonPart merge) => vocabulary.TryGetValue(token, out int id)
        ? id
        : throw merge.Error($"the merge {merge.Element.GetRawText()} needs the token '{token}', which model.vocab lacks");

    int? WholeWord(ReadOnlySpan<char> word)
    {
        if (!byteLevel)
        {
            return bySpan.TryGetValue(word, out int id) ? id : null;
        }

        byte[] utf8 = new byte[Encoding.UTF8.GetByteCount(word)];
        Encoding.UTF8.GetBytes(word, utf8);
        return vocabulary.TryGetValue(string.Create(utf8.Length, utf8, (text, bytes) =>
        {
            for (int i = 0; i < bytes.Length; i++)
            {
                text[i] = ByteAlphabet.Character(bytes[i]);
            }
        }), out int spelled) ? spelled : null;
    }

    List<int> Bytes(ReadOnlySpan<char> word)
    {
        byte[] utf8 = new byte[Encoding.UTF8.GetByteCount(word)];
        Encoding.UTF8.GetBytes(word, utf8);
        var symbols = new List<int>(utf8.Length);
        foreach (byte value in utf8)
        {
            Add(symbols, byteIds[value]);
        }

        return symbols;
    }

    List<int> Characters(ReadOnlySpan<char> word)
    {
        var symbols = new List<int>(word.Length);
        Span<byte> utf8 = stackalloc byte[4];
        while (!word.IsEmpty)
        {
            Rune.DecodeFromUtf16(word, out Rune rune, out int length);
            if (bySpan.TryGetValue(word[..length], out int id))
            {
                symbols.Add(id);
            }
            else
            {
                Span<byte> bytes = utf8[..rune.EncodeToUtf8(utf8)];
                if (byteFallback && AllInVocabulary(bytes))
                {
                    foreach (byte value in bytes)
                    {
                        symbols.Add(byteIds[value]);
                    }
                }
                else
                {
                    Add(symbols, -1);
                }
            }

            word = word[length..];
        }

        return symbols;
    }

    bool AllInVocabulary(ReadOnlySpan<byte> bytes)
    {
        foreach (byte value in bytes)
        {
            if (byteIds[value] < 0)
            {
                return false;
            }
        }

        return true;
    }

    // A symbol that the vocabulary lacks (-1) becomes the unknown token, once for a run of them where fuse_unk says so.
    void Add(List<int> symbols, int id)
    {
        if (id >= 0)
        {
            symbols.Add(id);
        }
        else if (UnknownId is int unknown && !(fuseUnknown && symbols.Count > 0 && symbols[^1] == unknown))
        {
            symbols.Add(unknown);
        }
    }

    // Merges in place and returns how many symbols are left. The queue holds candidate pairs by rank, then position; a candidate whose pair has changed since
    // it was queued is recognised by its rank and dropped, so that n symbols cost O(n log n).
    int Merge(Span<int> symbols)
    {
        int count = symbols.Length;
        var next = new int[count]; // index of the right neighbour; count at the end
        var previous = new int[count];
        var queue = new PriorityQueue<int, long>(count); // left index of a pair, by rank << 32 | left index
        for (int i = 0; i < count; i++)
        {
            (previous[i], next[i]) = (i - 1, i + 1);
            if (i + 1 < count && merges.TryGetValue((symbols[i], symbols[i + 1]), out var merge))
            {
                queue.Enqueue(i, ((long)merge.Rank << 32) | (uint)i);
            }
        }

        const int Gone = -1;
        while (queue.TryDequeue(out int left, out long priority))
        {
            int right = next[left];
            if (symbols[left] == Gone || right == count || !merges.TryGetValue((symbols[left], symbols[right]), out var merge) || merge.Rank != (int)(priority >> 32))
            {
                continue;
            }

            symbols[left] = merge.Id;
            symbols[right] = Gone;
            next[left] = next[right];
            if (next[left] < count)
            {
                previous[next[left]] = left;
                Queue(left, symbols);
            }

            if (previous[left] >= 0)
            {
                Queue(previous[left], symbols);
            }
        }

        int kept = 0;
        for (int i = 0; i < count; i = next[i])
        {
            symbols[kept++] = symbols[i];
        }

        return kept;

        void Queue(int left, Span<int> current)
        {
            if (merges.TryGetValue((current[left], current[next[left]]), out var merge))
            {
                queue.Enqueue(left, ((long)merge.Rank << 32) | (uint)left);
            }
        }
    }
}
