using System.Text;
using System.Text.Json;
using System.Text.RegularExpressions;
using CsCheck;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

public sealed class TokenizerTests
{
    static readonly Dictionary<string, Tokenizer> Loaded = [];

    static readonly string[] Hard = [" ", "  ", "\n", "\r\n", "\t", "'s", "e\u0301", "12345", "the", "\u00E9", "\U0001F600", "\u200D", "<", "0x41>"];

    // Any Unicode text, with the characters that tokenizers treat specially more often than chance would give them.
    static readonly Gen<string> AnyText = Gen.OneOf(
        Gen.Int[0, 0x10FFFF].Where(Rune.IsValid).Select(value => new Rune(value).ToString()),
        Gen.Int[0x20, 0x7E].Select(value => ((char)value).ToString()),
        Gen.Int[0, Hard.Length - 1].Select(index => Hard[index]))
        .List[0, 40].Select(parts => string.Concat(parts));

    [Theory]
    [InlineData("gpt-2", "tok-gpt2")]
    [InlineData("qwen2", "tok-qwen2")]
    [InlineData("llama-spm", "tok-phi3-llama-spm-hf")]
    public void Encode_published_strings_gives_published_ids(string vocabulary, string folder)
    {
        string golden = Path.Combine(TestAssets.Path("assets/golden-llamacpp-tok"), $"ggml-vocab-{vocabulary}.gguf");
        string[] texts = File.ReadAllText($"{golden}.inp").Split("\n__ggml_vocab_test__\n")[..^1]; // the separator also ends the file
        string[] ids = File.ReadAllLines($"{golden}.out");
        Tokenizer tokenizer = Load(folder);

        Assert.Equal(46, texts.Length);
        Assert.Equal(ids.Select(line => line.Trim()), texts.Select(text => string.Join(' ', tokenizer.Encode(text, addSpecialTokens: false))));
    }

    [Fact]
    public void Encode_stories_gives_the_ids_that_the_model_generated()
    {
        Tokenizer tokenizer = Load("stories260k-hf");
        using JsonDocument golden = JsonDocument.Parse(File.ReadAllText(TestAssets.Path("assets/stories260k-hf/golden_greedy.json")));
        string text = golden.RootElement.GetProperty("text").GetString()!;
        int[] generated = [.. golden.RootElement.GetProperty("generated_ids").EnumerateArray().Select(id => id.GetInt32())];

        Assert.Equal(text, tokenizer.Decode(generated));
        Assert.Equal([1, .. generated], tokenizer.Encode(text));
        Assert.True(tokenizer.AddBos);
        Assert.False(tokenizer.AddEos);
        Assert.Equal(new SpecialToken(2, "</s>"), tokenizer.Eos);
        Assert.Equal(512, tokenizer.VocabularySize);
    }

    [Theory]
    [InlineData("tok-gpt2")]
    [InlineData("stories260k-hf")]
    [InlineData("tok-phi3-llama-spm-hf")]
    public void Decode_of_encode_is_the_text(string folder)
    {
        Tokenizer tokenizer = Load(folder);

        // A special token in the text is left out again, and U+2581 is what a SentencePiece vocabulary writes for a space, so that it cannot come back as itself.
        AnyText.Where(text => !Regex.IsMatch(text, @"<(s|/s|unk)>|<\|") && (!text.Contains('\u2581') || folder == "tok-gpt2"))
            .Sample(text => Assert.Equal(text, tokenizer.Decode(tokenizer.Encode(text))), iter: 500);
    }

    [Fact]
    public void Decode_of_encode_is_the_composed_text_where_the_vocabulary_normalises()
    {
        Tokenizer tokenizer = Load("tok-qwen2");

        AnyText.Sample(text => Assert.Equal(Nfc.Normalize(text), tokenizer.Decode(tokenizer.Encode(text))), iter: 500);
    }

    [Theory]
    [InlineData("tok-gpt2")]
    [InlineData("stories260k-hf")]
    public void Stream_of_any_ids_is_decode_and_the_bytes_of_the_tokens(string folder)
    {
        Tokenizer tokenizer = Load(folder);

        Gen.Int[-2, tokenizer.VocabularySize + 1].List[0, 30].Sample(
            ids =>
            {
                StreamingDecoder stream = tokenizer.Stream();
                string streamed = string.Concat(ids.Select(stream.Push)) + stream.Flush();
                Assert.Equal(tokenizer.Decode([.. ids]), streamed);
                Assert.Equal(Spelled(tokenizer, ids), streamed);
            },
            iter: 1000);
    }

    [Theory]
    [InlineData("tok-gpt2")]
    [InlineData("stories260k-hf")]
    public void Stream_holds_back_a_split_character(string folder)
    {
        Tokenizer tokenizer = Load(folder);
        int[] ids = tokenizer.Encode("a \U0001F999 b \u0B95", addSpecialTokens: false);
        StreamingDecoder stream = tokenizer.Stream();

        string[] pieces = [.. ids.Select(stream.Push)];

        Assert.True(ids.Length > 6, "the characters have to be split for this test to mean something");
        Assert.DoesNotContain(pieces, piece => piece.Contains('\uFFFD') || piece.Any(char.IsSurrogate) && piece.Length == 1);
        Assert.Equal("a \U0001F999 b \u0B95", string.Concat(pieces));
        Assert.Equal("", stream.Flush());

        StreamingDecoder cut = tokenizer.Stream();
        Assert.Equal("a \U0001F999 b ", string.Concat(ids[..^1].Select(cut.Push)));
        Assert.Equal("\uFFFD", cut.Flush());
    }

    [Fact]
    public void Stream_after_a_prompt_keeps_the_space_of_the_next_word()
    {
        Tokenizer tokenizer = Load("stories260k-hf");
        StreamingDecoder stream = tokenizer.Stream();
        foreach (int id in tokenizer.Encode("Once"))
        {
            stream.Push(id);
        }

        Assert.Equal(" upon", string.Concat(tokenizer.Encode("upon", addSpecialTokens: false).Select(stream.Push)));
    }

    [Fact]
    public void Encode_finds_added_tokens_and_decode_skips_the_special_ones()
    {
        Tokenizer tokenizer = Load("tok-phi3-llama-spm-hf");

        // <|assistant|> swallows the white space to its right; the text between two tokens begins a word.
        int[] ids = tokenizer.Encode("<|user|>Hi<|end|><|assistant|> \n ");

        Assert.Equal([1, 32010, 6324, 32007, 32001], ids);
        Assert.Equal("Hi", tokenizer.Decode(ids));
        Assert.Equal("<s><|user|> Hi<|end|><|assistant|>", tokenizer.Decode(ids, skipSpecialTokens: false));
        Assert.Equal(32000, tokenizer.Pad?.Id);
    }

    [Fact]
    public void Encode_finds_the_added_token_of_a_byte_level_vocabulary()
    {
        Tokenizer tokenizer = Load("tok-gpt2");

        Assert.Equal([31373, 50256, 995], tokenizer.Encode("hello<|endoftext|> world"));
        Assert.Equal("<|endoftext|>", tokenizer.TokenText(50256));
        Assert.Equal("\u0120world", tokenizer.TokenText(995));
        Assert.Equal(995, tokenizer.TokenId("\u0120world"));
        Assert.Null(tokenizer.TokenText(50257));
        Assert.Null(tokenizer.Bos);
        Assert.False(tokenizer.AddBos);
    }

    [Theory]
    [InlineData("tok-gpt2")]
    [InlineData("tok-phi3-llama-spm-hf")]
    public void Encode_long_text_without_spaces_is_the_text(string folder)
    {
        Tokenizer tokenizer = Load(folder);
        foreach (string unit in (string[])["a", "abcdefghij", "\u4F60\u597D", "!", "\U0001F600"])
        {
            string text = string.Concat(Enumerable.Repeat(unit, 100_000 / unit.Length));
            Assert.Equal(text, tokenizer.Decode(tokenizer.Encode(text)));
        }
    }

    [Fact]
    public async Task Encode_from_many_threads_gives_the_ids_of_one()
    {
        Tokenizer shared = Load("stories260k-hf");
        string[] texts = [.. Enumerable.Range(0, 200).Select(i => $"Lily saw {i} big red balls in the park{i % 7}")];
        int[][] expected = [.. texts.Select(text => shared.Encode(text))];
        Tokenizer fresh = Tokenizer.Load(TestAssets.Path("assets/stories260k-hf"));

        int[][] actual = await Task.WhenAll(texts.Select(text => Task.Run(() => fresh.Encode(text))));

        Assert.Equal(expected, actual);
    }

    [Fact]
    public void Load_folder_without_tokenizer_says_so()
    {
        var thrown = Assert.Throws<FileNotFoundException>(() => Tokenizer.Load(TestAssets.Checkout()));
        Assert.Contains("there is no tokenizer.json", thrown.Message, StringComparison.Ordinal);
    }

    // The definition, written without the decoder: bytes of every token, joined, read as UTF-8, and for SentencePiece one leading space less.
    static string Spelled(Tokenizer tokenizer, IEnumerable<int> ids)
    {
        var bytes = new List<byte>();
        bool sentencePiece = tokenizer.TokenId("<0x00>") is not null;
        foreach (string token in ids.Where(id => !tokenizer.IsSpecial(id)).Select(tokenizer.TokenText).OfType<string>())
        {
            bytes.AddRange(sentencePiece
                ? Regex.IsMatch(token, "^<0x[0-9A-F]{2}>$") ? [Convert.ToByte(token[3..5], 16)] : Encoding.UTF8.GetBytes(token.Replace('\u2581', ' '))
                : token.Select(character => (byte)Enumerable.Range(0, 256).First(value => ByteAlphabet.Character((byte)value) == character)));
        }

        string text = Encoding.UTF8.GetString([.. bytes]);
        return sentencePiece && text.StartsWith(' ') ? text[1..] : text;
    }

    static Tokenizer Load(string folder)
    {
        string path = TestAssets.Path($"assets/{folder}");
        lock (Loaded)
        {
            return Loaded.TryGetValue(folder, out Tokenizer? tokenizer) ? tokenizer : Loaded[folder] = Tokenizer.Load(path);
        }
    }
}
