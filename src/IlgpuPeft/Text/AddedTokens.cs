using System.Buffers;
using System.Globalization;
using System.Text;

namespace IlgpuPeft.Text;

/// <summary>A token that is found in the text as a whole, before anything is split or merged.</summary>
/// <param name="Id">Its id.</param>
/// <param name="Text">Its text as the file gives it.</param>
/// <param name="Special">Whether decoding may leave it out.</param>
/// <param name="SingleWord">Whether it counts only where no word character touches it.</param>
/// <param name="TakesSpaceBefore">Whether it swallows the white space to its left (lstrip).</param>
/// <param name="TakesSpaceAfter">Whether it swallows the white space to its right (rstrip).</param>
/// <param name="Normalized">Whether it is looked for in normalised text, itself normalised.</param>
sealed record AddedToken(int Id, string Text, bool Special, bool SingleWord, bool TakesSpaceBefore, bool TakesSpaceAfter, bool Normalized)
{
    /// <summary>Reads the flags of one entry of <c>added_tokens</c>.</summary>
    public static AddedToken Read(JsonPart part, int id)
    {
        string text = part["content"].Text();
        return text.Length == 0
            ? throw part.Error("an added token has no text")
            : new AddedToken(id, text, part.Flag("special"), part.Flag("single_word"), part.Flag("lstrip"), part.Flag("rstrip"), part.Flag("normalized"));
    }
}

/// <summary>Finds added tokens in text: leftmost first, and of those that begin at one place the longest.</summary>
sealed class AddedTokens
{
    readonly SearchValues<string> starts;
    readonly ILookup<char, (string Form, AddedToken Token)> byFirst; // longest first

    /// <summary>Creates a search for tokens in the form in which they occur in the text that will be searched.</summary>
    public AddedTokens(IEnumerable<(string Form, AddedToken Token)> tokens)
    {
        (string Form, AddedToken Token)[] forms = [.. tokens.Where(token => token.Form.Length > 0).OrderByDescending(token => token.Form.Length)];
        starts = SearchValues.Create([.. forms.Select(token => token.Form)], StringComparison.Ordinal);
        byFirst = forms.ToLookup(token => token.Form[0]);
    }

    /// <summary>Cuts text at the tokens: a piece is a token, or the text between two (<c>Token</c> null).</summary>
    public IEnumerable<(AddedToken? Token, string Text)> Cut(string text)
    {
        int done = 0;
        int from = 0;
        while (from < text.Length && text.AsSpan(from).IndexOfAny(starts) is var offset and >= 0)
        {
            int start = from + offset;
            (string form, AddedToken token) = byFirst[text[start]].First(candidate => string.CompareOrdinal(text, start, candidate.Form, 0, candidate.Form.Length) == 0);
            int end = start + form.Length;
            from = end;
            if (token.SingleWord && (WordEndsAt(text, start) || WordStartsAt(text, end)))
            {
                continue;
            }

            while (token.TakesSpaceBefore && start > done && char.IsWhiteSpace(text[start - 1]))
            {
                start--;
            }

            while (token.TakesSpaceAfter && end < text.Length && char.IsWhiteSpace(text[end]))
            {
                end++;
            }

            if (start > done)
            {
                yield return (null, text[done..start]);
            }

            yield return (token, form);
            done = from = end;
        }

        if (done < text.Length)
        {
            yield return (null, done == 0 ? text : text[done..]);
        }
    }

    static bool WordEndsAt(string text, int end) => Rune.DecodeLastFromUtf16(text.AsSpan(0, end), out Rune rune, out _) == OperationStatus.Done && IsWord(rune);

    static bool WordStartsAt(string text, int start) => Rune.DecodeFromUtf16(text.AsSpan(start), out Rune rune, out _) == OperationStatus.Done && IsWord(rune);

    static bool IsWord(Rune rune) => Rune.IsLetterOrDigit(rune) || Rune.GetUnicodeCategory(rune)
        is UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark or UnicodeCategory.LetterNumber or UnicodeCategory.ConnectorPunctuation;
}
