using System.Buffers;
using System.Text;

namespace IlgpuPeft.Text;

/// <summary>Turns ids into text one at a time, as a model generates them. What <see cref="Push"/> returns, followed by <see cref="Flush"/>, is exactly what
/// <see cref="Tokenizer.Decode"/> returns for all the ids. One instance decodes one text; <see cref="Tokenizer.Stream"/> creates it.</summary>
/// <remarks>Vocabularies that write a space before the first word take it off the front of the decoded text. To continue a prompt rather than begin a text, push the
/// ids of the prompt first and discard what they return.</remarks>
public sealed class StreamingDecoder
{
    readonly Tokenizer tokenizer;
    readonly bool skipSpecialTokens;
    readonly Decoder utf8 = Encoding.UTF8.GetDecoder(); // keeps the bytes of an unfinished character
    readonly ArrayBufferWriter<byte> bytes = new();
    readonly char stripped;
    int toStrip;

    internal StreamingDecoder(Tokenizer tokenizer, bool skipSpecialTokens, char stripped, int toStrip)
    {
        this.tokenizer = tokenizer;
        this.skipSpecialTokens = skipSpecialTokens;
        this.stripped = stripped;
        this.toStrip = toStrip;
    }

    /// <summary>The text that <paramref name="id"/> completes. Bytes of an unfinished character are held back until the rest arrives; bytes that no continuation
    /// can make valid UTF-8 become U+FFFD. An id that names no token adds nothing.</summary>
    public string Push(int id)
    {
        bytes.ResetWrittenCount();
        tokenizer.WriteBytes(id, skipSpecialTokens, bytes);
        return Text(flush: false);
    }

    /// <summary>Ends the text: U+FFFD if it stops inside a character, otherwise nothing.</summary>
    public string Flush()
    {
        bytes.ResetWrittenCount();
        return Text(flush: true);
    }

    string Text(bool flush)
    {
        var characters = new char[utf8.GetCharCount(bytes.WrittenSpan, flush)];
        Span<char> text = characters.AsSpan(0, utf8.GetChars(bytes.WrittenSpan, characters, flush));
        while (toStrip > 0 && text.Length > 0)
        {
            toStrip = text[0] == stripped ? toStrip - 1 : 0;
            text = text[0] == stripped ? text[1..] : text;
        }

        return text.ToString();
    }
}
