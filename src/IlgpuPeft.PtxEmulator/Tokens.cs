namespace IlgpuPeft.PtxEmulator;

/// <summary>One word or punctuation mark of PTX text, with the line it stands on (from 1).</summary>
readonly record struct Token(string Text, int Line)
{
    public override string ToString() => Text;
}

/// <summary>Splits PTX text into words (`ld.global.b32`, `%r1`, `0f3F800000`, `-4`) and single punctuation marks.</summary>
static class Tokens
{
    public static List<Token> Read(string text)
    {
        var tokens = new List<Token>();
        int line = 1, i = 0;
        while (i < text.Length)
        {
            char c = text[i];
            if (c == '\n')
                line++;
            if (char.IsWhiteSpace(c))
            {
                i++;
            }
            else if (c == '/' && i + 1 < text.Length && text[i + 1] == '/')
            {
                while (i < text.Length && text[i] != '\n')
                    i++;
            }
            else if (c == '/' && i + 1 < text.Length && text[i + 1] == '*')
            {
                int end = text.IndexOf("*/", i + 2, StringComparison.Ordinal);
                if (end < 0)
                    throw new PtxSyntaxException(line, "comment is not closed");
                line += text.AsSpan(i, end - i).Count('\n');
                i = end + 2;
            }
            else
            {
                int start = i++;
                if (IsWord(c))
                {
                    // `L1::no_allocate` is one word, the colon of `label:` is not part of it; `1.5e-3` is one number.
                    while (i < text.Length && (IsWord(text[i]) || (text[i] == ':' && i + 1 < text.Length && text[i + 1] == ':') || IsExponentSign(text, start, i)))
                        i += text[i] == ':' ? 2 : 1;
                }
                tokens.Add(new Token(text[start..i], line));
            }
        }
        return tokens;
    }

    static bool IsExponentSign(string text, int start, int i) =>
        text[i] is '-' or '+' && text[i - 1] is 'e' or 'E' && char.IsAsciiDigit(text[start]) && text.AsSpan(start, i - start).Contains('.');

    static bool IsWord(char c) => char.IsAsciiLetterOrDigit(c) || c is '_' or '.' or '$' or '%';
}
