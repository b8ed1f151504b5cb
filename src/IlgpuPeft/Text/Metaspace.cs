namespace IlgpuPeft.Text;

/// <summary>The settings that the Metaspace pre-tokenizer and the Metaspace decoder share: a visible mark stands for the space before a word.</summary>
static class Metaspace
{
    /// <summary>The mark of SentencePiece vocabularies.</summary>
    public const char DefaultMark = '\u2581';

    /// <summary>The character that replaces a space.</summary>
    public static string Mark(JsonPart part) => part.Optional("replacement") is not JsonPart mark ? DefaultMark.ToString() : mark.Text().Length == 1
        ? mark.Text()
        : throw mark.Error($"expected one character, found \"{mark.Text()}\"");

    /// <summary>Where a mark is put in front: <c>always</c>, <c>first</c> (of the whole input) or <c>never</c>.</summary>
    public static string PrependScheme(JsonPart part) => part.Optional("prepend_scheme") is not JsonPart scheme
        ? part.Flag("add_prefix_space", absent: true) ? "always" : "never"
        : scheme.Text() switch
        {
            "always" or "first" or "never" => scheme.Text(),
            string other => throw scheme.Unsupported($"prepend_scheme '{other}'", "always, first, never"),
        };
}
