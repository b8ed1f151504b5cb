using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

public sealed class NfcTests
{
    [Theory]
    [InlineData("plain", "plain")]
    [InlineData("e\u0301", "\u00E9")]
    [InlineData("C\u031B\u0309u\u031B\u0309a", "C\u031B\u0309\u1EEDa")] // no composed C with horn
    [InlineData("q\u0307\u0323", "q\u0323\u0307")] // marks are ordered by class
    [InlineData("d\u0307\u0323", "\u1E0D\u0307")] // the lower mark composes although it comes second
    [InlineData("a\u0301\u0301", "\u00E1\u0301")]
    [InlineData("a\u0300\u0334", "\u00E0\u0334")] // the mark that sorts between the two does not block them: its class is lower
    [InlineData("\u212B\u2126", "\u00C5\u03A9")] // single-character equivalents
    [InlineData("\u0958", "\u0915\u093C")] // excluded from composition
    [InlineData("\u1112\u1161\u11AB\u1100\u1173\u11AF", "\uD55C\uAE00")] // Hangul from its parts
    [InlineData("\uAC00\u11A8", "\uAC01")]
    [InlineData("\U0001D15E", "\U0001D157\U0001D165")] // above U+FFFF, excluded
    [InlineData("\U00011099\U000110BA", "\U0001109A")] // above U+FFFF, composed
    [InlineData("\uD800a\u0301\uDC00", "\uD800\u00E1\uDC00")] // lone surrogates pass
    public void Normalize_gives_form_C(string text, string expected)
    {
        string normal = Nfc.Normalize(text);

        Assert.Equal(expected, normal);
        Assert.Equal(normal, Nfc.Normalize(normal));
    }
}
