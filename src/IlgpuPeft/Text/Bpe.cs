using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using System.Text;

namespace IlgpuPeft.Text;

/// <summary>How a byte-pair model treats words.</summary>
/// <param name="ByteLevel">Words are UTF-8 bytes spelled in <see cref="ByteAlphabet"/>; otherwise they are characters.</param>
/// <param name="ByteFallback">A character that the vocabulary lacks becomes the tokens of its UTF-8 bytes, see <see cref="Bpe.ByteName"/>.</param>
/// <param name="FuseUnknown">A run of characters that cannot be spelled becomes one unknown token.</param>
/// <param name="IgnoreMerges">A word that is itself a token becomes that token, whether or not merges lead there.</param>
/// <param name="UnknownId">The token for what cannot be spelled; without one it is dropped.</param>
readonly record struct BpeOptions(bool ByteLevel, bool ByteFallback, bool FuseUnknown, bool IgnoreMerges, int? UnknownId);

/// <summary>Byte-pair encoding (Sennrich et al. 2016): a word starts as its characters (or bytes), and the adjacent pair of lowest rank is merged until none is left;
/// among equal pairs the leftmost goes first. One loop serves byte-level and SentencePiece-style vocabularies. Safe for concurrent use.</summary>
sealed class Bpe
{
    // Words of natural text repeat; those that are long or come after the cache is full are merged every time.
    const int CachedWordLength = 64;
    const int CachedWords = 1 << 14;

    const int Gone = -1; // a symbol that has been merged into its left neighbour

    readonly Dictionary<string, int> vocabulary;
    readonly Dictionary<string, int>.AlternateLookup<ReadOnlySpan<char>> bySpan;
    readonly Dictionary<(int Left, int Right), (int Rank, int Id)> merges;
    readonly BpeOptions options;
    readonly int[] byteIds = new int[256]; // id of each byte, -1 where the vocabulary lacks it

    readonly ConcurrentDictionary<string, int[]> cache = [];
    readonly ConcurrentDictionary<string, int[]>.AlternateLookup<ReadOnlySpan<char>> cacheBySpan;
    int cached;

    /// <summary>Creates a model from a vocabulary (text to id), and for each pair of ids that merges its rank and the id that it becomes.</summary>
    public Bpe(Dictionary<string, int> vocabulary, Dictionary<(int Left, int Right), (int Rank, int Id)> merges, BpeOptions options)
    {
        (this.vocabulary, this.merges, this.options) = (vocabulary, merges, options);
        bySpan = vocabulary.GetAlternateLookup<ReadOnlySpan<char>>();
        cacheBySpan = cache.GetAlternateLookup<ReadOnlySpan<char>>();
        for (int value = 0; value < 256; value++)
        {
            string spelled = options.ByteLevel ? ByteAlphabet.Character((byte)value).ToString() : ByteName((byte)value);
            byteIds[value] = vocabulary.GetValueOrDefault(spelled, -1);
        }
    }

    /// <summary>Text to id.</summary>
    public IReadOnlyDictionary<string, int> Vocabulary => vocabulary;

    /// <summary>See <see cref="BpeOptions.UnknownId"/>.</summary>
    public int? UnknownId => options.UnknownId;

    /// <summary>The text of the token that stands for one byte in a vocabulary with byte fallback: <c>&lt;0x0A&gt;</c>.</summary>
    public static string ByteName(byte value) => $"<0x{value:X2}>";

    /// <summary>Whether no token has <paramref name="mark"/> after another character. Then nothing is ever merged across the place before a run of marks, and text
    /// may be cut there: same ids, but short words that the cache holds.</summary>
    public bool CanCutBefore(char mark) => !options.IgnoreMerges && vocabulary.ContainsKey(mark.ToString())
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

        List<int> symbols = options.ByteLevel ? Bytes(word) : Characters(word);
        Span<int> merged = options.IgnoreMerges && WholeWord(word) is int whole ? [whole] : CollectionsMarshal.AsSpan(symbols)[..Merge(CollectionsMarshal.AsSpan(symbols))];
        ids.AddRange(merged);
        if (cacheable && Volatile.Read(ref cached) < CachedWords && cacheBySpan.TryAdd(word, merged.ToArray()))
        {
            Interlocked.Increment(ref cached);
        }
    }

    int? WholeWord(ReadOnlySpan<char> word)
    {
        if (!options.ByteLevel)
        {
            return bySpan.TryGetValue(word, out int id) ? id : null;
        }

        string spelled = string.Concat(Utf8(word).Select(ByteAlphabet.Character));
        return vocabulary.TryGetValue(spelled, out int spelledId) ? spelledId : null;
    }

    List<int> Bytes(ReadOnlySpan<char> word)
    {
        byte[] utf8 = Utf8(word);
        var symbols = new List<int>(utf8.Length);
        foreach (byte value in utf8)
        {
            Add(symbols, byteIds[value]);
        }

        return symbols;
    }

    static byte[] Utf8(ReadOnlySpan<char> word)
    {
        byte[] utf8 = new byte[Encoding.UTF8.GetByteCount(word)];
        Encoding.UTF8.GetBytes(word, utf8);
        return utf8;
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
                if (options.ByteFallback && AllInVocabulary(bytes))
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
        else if (UnknownId is int unknown && !(options.FuseUnknown && symbols.Count > 0 && symbols[^1] == unknown))
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
