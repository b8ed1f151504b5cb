using System.Buffers;
using System.Text;
using System.Globalization;

namespace IlgpuPeft.Text;

/// <summary>The <c>decoder</c> of tokenizer.json, in the form that all supported ones have: every token turns into bytes by itself, the bytes of all tokens are one
/// UTF-8 text, and a fixed number of characters may be taken off its front. That form is what lets text be decoded while it is generated.</summary>
sealed class TokenDecoder
{
    const string Supported = "ByteLevel, or Replace and ByteFallback, then Fuse and Strip of leading characters; Metaspace; Sequence";

    readonly List<(TextPattern Pattern, string Content)> replacements = [];
    bool byteLevel, byteFallback, fused;

    /// <summary>What is taken off the front of the text.</summary>
    public char Stripped { get; private set; }

    /// <summary>At most how many of <see cref="Stripped"/> are taken.</summary>
    public int StripCount { get; private set; }

    /// <summary>Reads the component.</summary>
    public static TokenDecoder Read(JsonPart part)
    {
        var decoder = new TokenDecoder();
        decoder.Add(part);
        return decoder;
    }

    /// <summary>Appends the bytes of a vocabulary token.</summary>
    public void Write(string token, IBufferWriter<byte> bytes)
    {
        if (byteLevel && token.All(character => ByteAlphabet.Byte(character) >= 0))
        {
            Span<byte> target = bytes.GetSpan(token.Length);
            for (int i = 0; i < token.Length; i++)
            {
                target[i] = (byte)ByteAlphabet.Byte(token[i]);
            }

            bytes.Advance(token.Length);
        }
        else if (byteFallback && token is ['<', '0', 'x', _, _, '>'] && byte.TryParse(token.AsSpan(3, 2), NumberStyles.AllowHexSpecifier, null, out byte value))
        {
            bytes.GetSpan(1)[0] = value;
            bytes.Advance(1);
        }
        else
        {
            Encoding.UTF8.GetBytes(replacements.Aggregate(token, (text, replacement) => replacement.Pattern.Replace(text, replacement.Content)), bytes);
        }
    }

    void Add(JsonPart part)
    {
        if (StripCount > 0 || (fused && part.Type != "Strip"))
        {
            throw part.Unsupported($"decoder '{part.Type}' in this place", Supported);
        }

        switch (part.Type)
        {
            case "Sequence":
                foreach (JsonPart item in part["decoders"].Items())
                {
                    Add(item);
                }

                break;
            case "ByteLevel":
                byteLevel = true;
                fused = true;
                break;
            case "Replace" when !byteFallback:
                replacements.Add((TextPattern.Read(part["pattern"]), part["content"].Text()));
                break;
            case "ByteFallback":
                byteFallback = true;
                break;
            case "Fuse":
                fused = true;
                break;
            case "Strip" when fused:
                ReadStrip(part);
                break;
            case "Metaspace" when replacements.Count == 0:
                replacements.Add((TextPattern.Regex(System.Text.RegularExpressions.Regex.Escape(Metaspace.Mark(part))), " "));
                fused = true;
                (Stripped, StripCount) = (' ', Metaspace.PrependScheme(part) == "never" ? 0 : 1);
                break;
            case string other:
                throw part.Unsupported($"decoder '{other}' in this place", Supported);
        }
    }

    void ReadStrip(JsonPart part)
    {
        string content = part["content"].Text();
        if (content.Length != 1 || part["stop"].Integer(int.MaxValue) != 0)
        {
            throw part.Unsupported("this Strip", "one character taken off the start only (stop 0)");
        }

        (Stripped, StripCount) = (content[0], part["start"].Integer(int.MaxValue));
    }
}
