using System.Text.Json;

namespace IlgpuPeft.Text;

/// <summary>Reads the <c>model</c> of tokenizer.json.</summary>
static class BpeReader
{
    /// <summary>One more than the largest id that a token may have: several times the largest known vocabulary, and small enough for a table.</summary>
    public const int MaximumIds = 1 << 22;

    /// <summary>Reads the component. <paramref name="byteLevel"/>: the pre-tokenizer turns words into bytes.</summary>
    public static Bpe Read(JsonPart model, bool byteLevel)
    {
        // Old files do not name the type; of the types only BPE has merges.
        string type = model.Optional("type")?.Text() ?? (model.Optional("merges") is null ? "without a name" : "BPE");
        if (type != "BPE")
        {
            throw model.Unsupported($"model type '{type}'", "BPE");
        }

        foreach (string affix in (string[])["continuing_subword_prefix", "end_of_word_suffix"])
        {
            if (model.Optional(affix) is JsonPart part && part.Text().Length > 0)
            {
                throw part.Unsupported($"'{part.Text()}'", "the empty string and null");
            }
        }

        if (model.Optional("dropout") is JsonPart dropout && !(dropout.Element.ValueKind == JsonValueKind.Number && dropout.Element.GetDouble() == 0))
        {
            throw dropout.Unsupported("random dropout of merges", "0 and null");
        }

        Dictionary<string, int> vocabulary = ReadVocabulary(model["vocab"]);
        int? unknown = null;
        if (model.Optional("unk_token") is JsonPart token)
        {
            unknown = vocabulary.TryGetValue(token.Text(), out int id) ? id : throw token.Error($"'{token.Text()}' is not in the vocabulary");
        }

        var options = new BpeOptions(byteLevel, model.Flag("byte_fallback"), model.Flag("fuse_unk"), model.Flag("ignore_merges"), unknown);
        return new Bpe(vocabulary, ReadMerges(model["merges"], vocabulary), options);
    }

    static Dictionary<string, int> ReadVocabulary(JsonPart part)
    {
        var vocabulary = new Dictionary<string, int>();
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

        return vocabulary;
    }

    // A merge is "left right", or ["left", "right"] in files whose tokens may contain spaces. Its rank is its place in the list.
    static Dictionary<(int Left, int Right), (int Rank, int Id)> ReadMerges(JsonPart part, Dictionary<string, int> vocabulary)
    {
        var merges = new Dictionary<(int, int), (int, int)>();
        int rank = 0;
        foreach (JsonPart merge in part.Items())
        {
            string[] pair = merge.Element.ValueKind == JsonValueKind.Array ? [.. merge.Items().Select(item => item.Text())] : merge.Text().Split(' ');
            if (pair.Length != 2)
            {
                throw merge.Error($"expected two tokens, found {pair.Length} in {merge.Element.GetRawText()}");
            }

            merges[(Id(pair[0]), Id(pair[1]))] = (rank++, Id(pair[0] + pair[1]));

            int Id(string token) => vocabulary.TryGetValue(token, out int id)
                ? id
                : throw merge.Error($"the merge {merge.Element.GetRawText()} needs the token '{token}', which model.vocab lacks");
        }

        return merges;
    }
}
