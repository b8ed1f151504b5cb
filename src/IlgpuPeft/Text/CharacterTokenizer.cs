using System.Text;
using System.Text.Encodings.Web;
using System.Text.Json;

namespace IlgpuPeft.Text;

/// <summary>Writes a tokenizer of single characters as a Hugging Face folder: a BPE model without merges. For models small enough to be trained in seconds.</summary>
public static class CharacterTokenizer
{
    static readonly JsonSerializerOptions Format = new() { WriteIndented = true, Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    /// <summary>Writes <c>tokenizer.json</c> and <c>tokenizer_config.json</c>. Ids: <c>&lt;unk&gt;</c> 0, <c>&lt;s&gt;</c> 1, <c>&lt;/s&gt;</c> 2, <c>&lt;pad&gt;</c> 3,
    /// then <paramref name="specialTokens"/>, then <paramref name="symbols"/> in order. Encoding puts <c>&lt;s&gt;</c> in front; a character that is not a symbol
    /// becomes <c>&lt;unk&gt;</c>.</summary>
    /// <param name="folder">Where to write; created if absent.</param>
    /// <param name="symbols">Single characters (code points), each once.</param>
    /// <param name="specialTokens">Further tokens that are found as a whole and that decoding may leave out.</param>
    /// <exception cref="ArgumentException">A symbol is not one character, or a token occurs twice.</exception>
    public static void Write(string folder, IEnumerable<string> symbols, IEnumerable<string>? specialTokens = null)
    {
        string[] special = ["<unk>", "<s>", "</s>", "<pad>", .. specialTokens ?? []];
        string[] characters = [.. symbols];
        if (characters.FirstOrDefault(symbol => !Rune.TryGetRuneAt(symbol.Length == 0 ? "\uD800" : symbol, 0, out Rune rune) || rune.Utf16SequenceLength != symbol.Length) is string wrong)
        {
            throw new ArgumentException($"CharacterTokenizer: the symbol \"{wrong}\" has to be one character.", nameof(symbols));
        }

        var vocabulary = new Dictionary<string, int>();
        foreach (string token in special.Concat(characters))
        {
            if (!vocabulary.TryAdd(token, vocabulary.Count))
            {
                throw new ArgumentException($"CharacterTokenizer: \"{token}\" occurs twice.", nameof(symbols));
            }
        }

        object bos = new { SpecialToken = new { id = "<s>", type_id = 0 } };
        Directory.CreateDirectory(folder);
        WriteJson(Path.Combine(folder, "tokenizer.json"), new
        {
            version = "1.0",
            truncation = (object?)null,
            padding = (object?)null,
            added_tokens = special.Select((content, id) => new { id, content, single_word = false, lstrip = false, rstrip = false, normalized = false, special = true }),
            normalizer = (object?)null,
            pre_tokenizer = (object?)null,
            post_processor = new
            {
                type = "TemplateProcessing",
                single = new[] { bos, new { Sequence = new { id = "A", type_id = 0 } } },
                pair = new[] { bos, new { Sequence = new { id = "A", type_id = 0 } }, new { Sequence = new { id = "B", type_id = 1 } } },
                special_tokens = new Dictionary<string, object> { ["<s>"] = new { id = "<s>", ids = new[] { vocabulary["<s>"] }, tokens = new[] { "<s>" } } },
            },
            decoder = new { type = "Fuse" },
            model = new
            {
                type = "BPE",
                dropout = (object?)null,
                unk_token = "<unk>",
                continuing_subword_prefix = (object?)null,
                end_of_word_suffix = (object?)null,
                fuse_unk = false,
                byte_fallback = false,
                ignore_merges = false,
                vocab = vocabulary,
                merges = Array.Empty<string>(),
            },
        });
        WriteJson(Path.Combine(folder, "tokenizer_config.json"), new
        {
            tokenizer_class = "PreTrainedTokenizerFast",
            bos_token = "<s>",
            eos_token = "</s>",
            unk_token = "<unk>",
            pad_token = "<pad>",
            clean_up_tokenization_spaces = false,
        });
    }

    static void WriteJson(string file, object content)
    {
        string temporary = $"{file}.tmp";
        File.WriteAllText(temporary, JsonSerializer.Serialize(content, Format));
        File.Move(temporary, file, overwrite: true);
    }
}
