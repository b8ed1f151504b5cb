using CsCheck;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

public sealed class CharacterTokenizerTests : IDisposable
{
    static readonly string[] Symbols = ["a", "b", " ", "\n", "\"", "\\", "\u00E9", "\u2581", "\U0001F600"];

    readonly DirectoryInfo folder = Directory.CreateTempSubdirectory("characters");

    public void Dispose() => folder.Delete(recursive: true);

    [Fact]
    public void Write_gives_ids_in_order_after_the_special_tokens()
    {
        CharacterTokenizer.Write(folder.FullName, Symbols, ["<|user|>"]);
        Tokenizer tokenizer = Tokenizer.Load(folder.FullName);

        Assert.Equal(new SpecialToken(0, "<unk>"), tokenizer.Unk);
        Assert.Equal(new SpecialToken(1, "<s>"), tokenizer.Bos);
        Assert.Equal(new SpecialToken(2, "</s>"), tokenizer.Eos);
        Assert.Equal(new SpecialToken(3, "<pad>"), tokenizer.Pad);
        Assert.True(tokenizer.AddBos);
        Assert.False(tokenizer.AddEos);
        Assert.Equal(14, tokenizer.VocabularySize);
        Assert.Equal([1, 5, 7, 6, 0, 0, 4, 13, 2], tokenizer.Encode("a b?!<|user|>\U0001F600</s>"));
        Assert.Equal("a b\U0001F600", tokenizer.Decode([1, 5, 7, 6, 0, 0, 4, 13, 2]));
        Assert.Empty(folder.GetFiles("*.tmp"));
    }

    [Fact]
    public void Decode_of_encode_is_the_text()
    {
        CharacterTokenizer.Write(folder.FullName, Symbols);
        Tokenizer tokenizer = Tokenizer.Load(folder.FullName);

        Gen.Int[0, Symbols.Length - 1].List[0, 30].Sample(indices =>
        {
            string text = string.Concat(indices.Select(index => Symbols[index]));
            int[] ids = tokenizer.Encode(text);
            Assert.Equal(indices.Count + 1, ids.Length);
            Assert.Equal(text, tokenizer.Decode(ids));
        });
    }

    [Theory]
    [InlineData("ab", "has to be one character")]
    [InlineData("", "has to be one character")]
    [InlineData("\uD800", "has to be one character")]
    [InlineData("a", "occurs twice")]
    public void Write_symbol_that_is_wrong_is_refused(string symbol, string expected)
    {
        var thrown = Assert.Throws<ArgumentException>(() => CharacterTokenizer.Write(folder.FullName, ["a", symbol]));
        Assert.Contains(expected, thrown.Message, StringComparison.Ordinal);
    }
}
