using System.Text;
using System.Text.Json;
using CsCheck;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>tokenizer.json as a format: every component by itself on vocabularies small enough to follow by hand, and files that are wrong.</summary>
public sealed class TokenizerFileTests : IDisposable
{
    const string Vocabulary = """{"a":0,"b":1,"c":2," ":3,"ab":4,"abc":5,"bc":6,"x":7}""";

    const string Good = """
        {"added_tokens":[{"id":8,"content":"<e>","special":true}],"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"<u>":3},"merges":["a b"],"unk_token":"<u>"},
        "normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Prepend","prepend":"a"},{"type":"Replace","pattern":{"String":" "},"content":"b"}]},
        "pre_tokenizer":{"type":"Split","pattern":{"Regex":"a+"},"behavior":"Isolated","invert":false},
        "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<e>"}},{"Sequence":{"id":"A"}}],"special_tokens":{"<e>":{"ids":[8]}}},
        "decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":"a","start":1,"stop":0}]}}
        """;

    readonly DirectoryInfo folder = Directory.CreateTempSubdirectory("tokenizer");

    public void Dispose() => folder.Delete(recursive: true);

    [Theory]
    [InlineData("Removed", "the|final|countdown")]
    [InlineData("Isolated", "the|-|final|-|-|countdown")]
    [InlineData("MergedWithPrevious", "the-|final-|-|countdown")]
    [InlineData("MergedWithNext", "the|-final|-|-countdown")]
    [InlineData("Contiguous", "the|-|final|--|countdown")]
    public void Split_cuts_as_its_behavior_says(string behavior, string expected) =>
        Assert.Equal(expected, Cut($$"""{"type":"Split","pattern":{"String":"-"},"behavior":"{{behavior}}","invert":false}""", "the-final--countdown"));

    [Theory]
    [InlineData("""{"type":"Split","pattern":{"Regex":"[a-z]+"},"behavior":"Removed","invert":true}""", "ab1cd", "ab|cd")]
    [InlineData("""{"type":"Digits","individual_digits":true}""", "a12b", "a|1|2|b")]
    [InlineData("""{"type":"Digits","individual_digits":false}""", "a12b", "a|12|b")]
    [InlineData("""{"type":"ByteLevel","add_prefix_space":true}""", "it's  12 x", " it|'s| | 12| x")]
    [InlineData("""{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}""", "it's 12", "it's 12")]
    [InlineData("""{"type":"Metaspace","replacement":"_","prepend_scheme":"always"}""", "a  b", "_a|_|_b")]
    [InlineData("""{"type":"Metaspace","replacement":"_","prepend_scheme":"never","split":false}""", "a b", "a_b")]
    [InlineData("""{"type":"Metaspace","replacement":"_","add_prefix_space":true}""", " a", "_a")]
    [InlineData("""{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{N}{1,3}|\\p{L}+"},"behavior":"Isolated"},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}""",
        "ab12345", "ab|123|45")]
    [InlineData("""{"type":"Split","pattern":{"Regex":"\\p{L}+"},"behavior":"Isolated"}""", "1\U0001D4B3b2\U00020000!", "1|\U0001D4B3b|2|\U00020000|!")]
    [InlineData("""{"type":"Split","pattern":{"Regex":"."},"behavior":"Isolated"}""", "\U0001F600a", "\U0001F600|a")]
    public void PreTokenizer_cuts(string json, string text, string expected) => Assert.Equal(expected, Cut(json, text));

    [Fact]
    public void StandIn_has_the_category_it_stands_for()
    {
        for (int value = 0x10000; value <= 0x10FFFF; value++)
        {
            var category = Rune.GetUnicodeCategory(new Rune(value));
            if (char.GetUnicodeCategory(TextPattern.StandIn(category)) != category)
            {
                Assert.Fail($"U+{value:X} has category {category}");
            }
        }
    }

    [Theory]
    [InlineData("abc", "4 2")] // "a b" has the lower rank, so "b c" never happens
    [InlineData("xabcab", "7 4 2 4")]
    [InlineData("a?b", "4")] // without an unknown token the question mark is dropped before pairs are looked at
    public void Merges_go_by_rank(string text, string ids) =>
        Assert.Equal(ids, Ids(Minimal($$"""{"type":"BPE","vocab":{{Vocabulary}},"merges":[["a","b"],["b","c"]]}"""), text));

    [Fact]
    public void Merges_at_equal_rank_go_from_the_left() =>
        Assert.Equal("1 0", Ids(Minimal("""{"vocab":{"!":0,"!!":1},"merges":["! !"]}"""), "!!!"));

    [Fact]
    public void IgnoreMerges_takes_a_word_that_is_a_token()
    {
        Assert.Equal("5", Ids(Minimal($$"""{"type":"BPE","ignore_merges":true,"vocab":{{Vocabulary}},"merges":["a b"]}"""), "abc"));
        Assert.Equal("4 2", Ids(Minimal($$"""{"type":"BPE","ignore_merges":false,"vocab":{{Vocabulary}},"merges":["a b"]}"""), "abc"));
    }

    [Theory]
    [InlineData(true, "0 9 1")]
    [InlineData(false, "0 9 9 1")]
    public void Unknown_characters_fuse_where_the_model_says_so(bool fuse, string expected) =>
        Assert.Equal(expected, Ids(Minimal($$"""{"type":"BPE","unk_token":"<u>","fuse_unk":{{(fuse ? "true" : "false")}},"vocab":{"a":0,"b":1,"<u>":9},"merges":[]}"""), "a??b"));

    [Theory]
    [InlineData("", "x <t> x", "7 3 20 3 7")]
    [InlineData(""","lstrip":true""", "x  <t> x", "7 20 3 7")]
    [InlineData(""","rstrip":true""", "x <t>  x", "7 3 20 7")]
    [InlineData(""","single_word":true""", "x<t> <t>x <t>", "7 3 7 3 20")] // only the last touches no letter; "<t>" itself cannot be spelled
    public void Added_token_flags_are_honoured(string flags, string text, string expected) =>
        Assert.Equal(expected, Ids(Minimal("""{"vocab":{"x":7," ":3},"merges":[]}""", $$"""[{"id":20,"content":"<t>"{{flags}}}]"""), text));

    [Fact]
    public void Added_tokens_that_begin_at_one_place_yield_the_longest() =>
        Assert.Equal("21 20 0", Ids(Minimal("""{"vocab":{"a":0},"merges":[]}""", """[{"id":20,"content":"<t"},{"id":21,"content":"<t>"}]"""), "<t><ta"));

    [Fact]
    public void Added_token_that_is_normalized_is_found_in_normalised_text()
    {
        string json = Minimal("""{"vocab":{"a":0},"merges":[]}""", """[{"id":20,"content":"e\u0301","normalized":true},{"id":21,"content":"\u00E8","normalized":false}]""", """{"type":"NFC"}""");
        Assert.Equal("20 0", Ids(json, "e\u0301a"));
        Assert.Equal("20 0", Ids(json, "\u00E9a"));
        Assert.Equal("0", Ids(json, "e\u0300a"));
        Assert.Equal("21 0", Ids(json, "\u00E8a"));
    }

    [Fact]
    public void Metaspace_first_marks_only_the_start_of_the_text()
    {
        string json = """
            {"added_tokens":[{"id":9,"content":"<t>","special":true}],"model":{"vocab":{"_":0,"a":1,"_a":2},"merges":["_ a"]},
            "pre_tokenizer":{"type":"Metaspace","replacement":"_","prepend_scheme":"first","split":true},"decoder":{"type":"Metaspace","replacement":"_","prepend_scheme":"first"}}
            """;
        Assert.Equal("2 2 9 1", Ids(json, "a a<t>a"));
        Assert.Equal("a a<t>a", Load(json).Decode([2, 2, 9, 1], skipSpecialTokens: false));
    }

    [Fact]
    public void PostProcessor_sequence_adds_both_ends()
    {
        Write("tokenizer_config.json", """{"bos_token":"<s>","eos_token":{"content":"</s>"},"pad_token":null,"chat_template":[{"name":"tool","template":"t"},{"name":"default","template":"d"}]}""");
        Write("special_tokens_map.json", """{"pad_token":"</s>"}""");
        Tokenizer tokenizer = Load("""
            {"model":{"vocab":{"a":0,"<s>":1,"</s>":2},"merges":[]},"decoder":{"type":"Fuse"},"post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel"},
            {"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"S"}},{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"E"}}],"special_tokens":{"S":{"ids":[1]},"E":{"ids":[2]}}}]}}
            """);
        Assert.Equal([1, 0, 2], tokenizer.Encode("a"));
        Assert.Equal([0], tokenizer.Encode("a", addSpecialTokens: false));
        Assert.True(tokenizer.AddBos && tokenizer.AddEos);
        Assert.Equal(new SpecialToken(2, "</s>"), tokenizer.Pad);
        Assert.Equal("a", tokenizer.Decode([1, 0, 2]));
        Assert.Equal("d", tokenizer.ChatTemplateSource);
    }

    [Fact]
    public void Config_adds_tokens_that_tokenizer_json_lacks()
    {
        Write("tokenizer_config.json", """{"pad_token":"<p>","added_tokens_decoder":{"5":{"content":"<p>","special":true},"0":{"content":"a"}}}""");
        Tokenizer tokenizer = Load(Minimal("""{"vocab":{"a":0},"merges":[]}"""));
        Assert.Equal(new SpecialToken(5, "<p>"), tokenizer.Pad);
        Assert.Equal([0, 5], tokenizer.Encode("a<p>"));
        Assert.Equal(6, tokenizer.VocabularySize);
        Assert.Null(tokenizer.TokenText(3));
    }

    [Theory]
    [InlineData("""{"type":"Unigram","vocab":[]}""", "model: model type 'Unigram' is not supported; supported are BPE")]
    [InlineData("""{"type":"BPE","merges":[]}""", "model: has no 'vocab'")]
    [InlineData("""{"type":"BPE","vocab":{"a":0}}""", "model: has no 'merges'")]
    [InlineData("""{"type":"BPE","vocab":[],"merges":[]}""", "model.vocab: expected Object, found Array")]
    [InlineData("""{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}""", "model.merges[0]: the merge \"a b\" needs the token 'ab', which model.vocab lacks")]
    [InlineData("""{"type":"BPE","vocab":{"a":0,"ab":1},"merges":["a b"]}""", "needs the token 'b'")]
    [InlineData("""{"type":"BPE","vocab":{"a":0},"merges":["a"]}""", "model.merges[0]: expected two tokens, found 1")]
    [InlineData("""{"type":"BPE","vocab":{"a":0},"merges":[7]}""", "model.merges[0]: expected String, found Number")]
    [InlineData("""{"type":"BPE","vocab":{"a":-1},"merges":[]}""", "expected a whole number from 0 to 4194303, found -1")]
    [InlineData("""{"type":"BPE","vocab":{"a":2000000000},"merges":[]}""", "found 2000000000")]
    [InlineData("""{"type":"BPE","vocab":{"a":1e99},"merges":[]}""", "found 1e99")]
    [InlineData("""{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}""", "'a' and 'b' both have id 0")]
    [InlineData("""{"type":"BPE","vocab":{"a":0,"a":1},"merges":[]}""", "'a' occurs twice")]
    [InlineData("""{"type":"BPE","vocab":{"\ud800":0},"merges":[]}""", "not valid Unicode")]
    [InlineData("""{"type":"BPE","vocab":{"a":0},"merges":[],"unk_token":"u"}""", "model.unk_token: 'u' is not in the vocabulary")]
    [InlineData("""{"type":"BPE","vocab":{"a":0},"merges":[],"end_of_word_suffix":"</w>"}""", "'</w>' is not supported")]
    [InlineData("""{"type":"BPE","vocab":{"a":0},"merges":[],"dropout":0.1}""", "model.dropout: random dropout of merges is not supported")]
    [InlineData("""{"type":"BPE","vocab":{"a":0},"merges":[],"fuse_unk":1}""", "model.fuse_unk: expected true or false, found Number")]
    public void Load_model_that_is_wrong_says_where_and_what(string model, string expected) => Refused(Minimal(model), expected);

    [Theory]
    [InlineData("normalizer", """{"type":"BertNormalizer"}""", "normalizer: normalizer 'BertNormalizer' is not supported; supported are NFC, Prepend, Replace, Sequence")]
    [InlineData("normalizer", """{"type":"Sequence","normalizers":[{"type":"NFKC"}]}""", "normalizer.normalizers[0]: normalizer 'NFKC' is not supported")]
    [InlineData("pre_tokenizer", """{"type":"BertPreTokenizer"}""", "pre-tokenizer 'BertPreTokenizer' is not supported")]
    [InlineData("pre_tokenizer", """{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"}""", "does not compile")]
    [InlineData("pre_tokenizer", """{"type":"Split","pattern":{"Regex":"[[:alpha:]]"},"behavior":"Isolated"}""", "is not supported")]
    [InlineData("pre_tokenizer", """{"type":"Split","pattern":{"String":""},"behavior":"Isolated"}""", "is not supported")]
    [InlineData("pre_tokenizer", """{"type":"Split","pattern":{"String":"-"},"behavior":"Sideways"}""", "behavior 'Sideways' is not supported")]
    [InlineData("pre_tokenizer", """{"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]}""", "a pre-tokenizer after ByteLevel is not supported")]
    [InlineData("pre_tokenizer", """{"type":"Metaspace","replacement":"__"}""", "expected one character")]
    [InlineData("post_processor", """{"type":"BertProcessing"}""", "post-processor 'BertProcessing' is not supported")]
    [InlineData("post_processor", """{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"S"}}],"special_tokens":{"S":{"ids":[9]}}}""", "no token has the id 9")]
    [InlineData("decoder", """{"type":"WordPiece"}""", "decoder 'WordPiece' in this place is not supported")]
    [InlineData("decoder", """{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","start":0,"stop":1}]}""", "this Strip is not supported")]
    [InlineData("added_tokens", """[{"id":0,"content":"b"}]""", "added_tokens[0]: the added token 'b' has id 0, which belongs to 'a'")]
    [InlineData("added_tokens", """[{"id":5,"content":"a"}]""", "the added token 'a' has id 5, expected 0")]
    [InlineData("added_tokens", """[{"id":5,"content":"x"},{"id":5,"content":"y"}]""", "the added token 'y' has id 5, which belongs to 'x'")]
    [InlineData("added_tokens", """[{"id":5,"content":"x"},{"id":6,"content":"x"}]""", "the added token 'x' occurs twice")]
    [InlineData("added_tokens", """[{"id":5,"content":""}]""", "an added token has no text")]
    public void Load_component_that_is_wrong_says_where_and_what(string name, string component, string expected)
    {
        string decoder = name == "decoder" ? "" : ""","decoder":{"type":"Fuse"}""";
        Refused($$"""{"model":{"vocab":{"a":0},"merges":[]}{{decoder}},"{{name}}":{{component}}}""", expected);
    }

    [Fact]
    public void Load_role_that_is_no_token_is_refused()
    {
        Write("tokenizer_config.json", """{"pad_token":"[PAD]"}""");
        Refused(Minimal("""{"vocab":{"a":0},"merges":[]}"""), "pad_token: '[PAD]' is not a token of tokenizer.json");
    }

    [Fact]
    public void Load_truncated_file_is_refused_at_every_length()
    {
        for (int length = 0; length < Good.TrimEnd().Length; length++)
        {
            Refused(Good[..length], "tokenizer.json: not JSON");
        }

        Assert.Equal([8, 0, 3, 0, 1], Load(Good).Encode("?ab"));
    }

    [Fact]
    public void Load_mutated_file_loads_or_is_refused()
    {
        byte[] good = Encoding.UTF8.GetBytes(Good);
        byte[] replacements = "\"{}[],:0123456789aeu<> \\\0\u007f"u8.ToArray();
        Gen.Select(Gen.Int[0, good.Length - 1], Gen.Int[0, replacements.Length - 1], Gen.Int[0, 2]).List[1, 4].Sample(
            edits =>
            {
                var bytes = new List<byte>(good);
                foreach ((int place, int replacement, int kind) in edits)
                {
                    int at = Math.Min(place, bytes.Count - 1);
                    switch (kind)
                    {
                        case 0: bytes[at] = replacements[replacement]; break;
                        case 1: bytes.Insert(at, replacements[replacement]); break;
                        default: bytes.RemoveAt(at); break;
                    }
                }

                File.WriteAllBytes(Path.Combine(folder.FullName, "tokenizer.json"), [.. bytes]);
                try
                {
                    Tokenizer tokenizer = Tokenizer.Load(folder.FullName);
                    tokenizer.Decode(tokenizer.Encode("ab <e> cab"));
                }
                catch (InvalidDataException e)
                {
                    Assert.Contains("tokenizer.json: ", e.Message, StringComparison.Ordinal);
                }
            },
            iter: 300, threads: 1);
    }

    static string Minimal(string model, string addedTokens = "[]", string normalizer = "null") =>
        $$"""{"added_tokens":{{addedTokens}},"normalizer":{{normalizer}},"model":{{model}},"decoder":{"type":"Fuse"} }""";

    static string Cut(string preTokenizer, string text) =>
        string.Join('|', PreTokenizer.Read(new JsonPart(JsonElement.Parse(preTokenizer), "tokenizer.json", "pre_tokenizer")).Cut(text, atStart: true));

    string Ids(string json, string text) => string.Join(' ', Load(json).Encode(text));

    Tokenizer Load(string json)
    {
        Write("tokenizer.json", json);
        return Tokenizer.Load(folder.FullName);
    }

    void Refused(string json, string expected) => Assert.Contains(expected, Assert.Throws<InvalidDataException>(() => Load(json)).Message, StringComparison.Ordinal);

    void Write(string name, string json) => File.WriteAllText(Path.Combine(folder.FullName, name), json);
}
