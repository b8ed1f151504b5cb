using System.Text.RegularExpressions;

namespace IlgpuPeft.Text;

/// <summary>What becomes of the matches of a pattern, named as in tokenizer.json.</summary>
enum SplitBehavior
{
    /// <summary>Each match is a piece.</summary>
    Isolated,

    /// <summary>Matches are dropped.</summary>
    Removed,

    /// <summary>A match ends the piece before it.</summary>
    MergedWithPrevious,

    /// <summary>A match begins the piece after it.</summary>
    MergedWithNext,

    /// <summary>Matches that touch are one piece.</summary>
    Contiguous,
}

/// <summary>The <c>pre_tokenizer</c> of tokenizer.json: cuts text into the words inside which pairs are merged.</summary>
sealed class PreTokenizer
{
    // The pattern of GPT-2, which ByteLevel applies unless use_regex is false.
    const string Gpt2Pattern = @"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

    const string Supported = "ByteLevel (last), Split, Digits, Metaspace, Sequence";

    readonly List<Step> steps = [];

    // Cuts one piece; atStart says that it begins the whole text.
    delegate void Step(ReadOnlyMemory<char> piece, bool atStart, List<ReadOnlyMemory<char>> pieces);

    /// <summary>Whether words are to be encoded as UTF-8 bytes written in <see cref="ByteAlphabet"/>.</summary>
    public bool ByteLevel { get; private set; }

    /// <summary>Reads the component; null leaves the text whole.</summary>
    public static PreTokenizer Read(JsonPart? part)
    {
        var preTokenizer = new PreTokenizer();
        if (part is JsonPart present)
        {
            preTokenizer.Add(present);
        }

        return preTokenizer;
    }

    /// <summary>Adds a cut before every <paramref name="mark"/> that does not follow another one.</summary>
    public void CutBefore(char mark) => steps.Add(Split(TextPattern.Regex($"{Regex.Escape(mark.ToString())}+"), SplitBehavior.MergedWithNext, false));

    /// <summary>Cuts text into non-empty words. <paramref name="atStart"/>: nothing precedes this text in the input.</summary>
    public List<ReadOnlyMemory<char>> Cut(string text, bool atStart)
    {
        List<ReadOnlyMemory<char>> pieces = [text.AsMemory()];
        foreach (Step step in steps)
        {
            var cut = new List<ReadOnlyMemory<char>>();
            for (int i = 0; i < pieces.Count; i++)
            {
                step(pieces[i], atStart && i == 0, cut);
            }

            pieces = cut;
        }

        return pieces;
    }

    void Add(JsonPart part)
    {
        if (ByteLevel)
        {
            throw part.Unsupported("a pre-tokenizer after ByteLevel", Supported);
        }

        switch (part.Type)
        {
            case "Sequence":
                foreach (JsonPart item in part["pretokenizers"].Items())
                {
                    Add(item);
                }

                break;
            case "ByteLevel":
                ByteLevel = true;
                if (part.Flag("add_prefix_space", absent: true))
                {
                    steps.Add((piece, _, pieces) => pieces.Add(piece.Span.StartsWith(' ') ? piece : $" {piece}".AsMemory()));
                }

                if (part.Flag("use_regex", absent: true))
                {
                    steps.Add(Split(TextPattern.Regex(Gpt2Pattern), SplitBehavior.Isolated, false));
                }

                break;
            case "Split":
                steps.Add(Split(TextPattern.Read(part["pattern"]), Behavior(part["behavior"]), part.Flag("invert")));
                break;
            case "Digits":
                steps.Add(Split(TextPattern.Regex(part.Flag("individual_digits") ? @"\p{N}" : @"\p{N}+"), SplitBehavior.Isolated, false));
                break;
            case "Metaspace":
                AddMetaspace(part);
                break;
            case string other:
                throw part.Unsupported($"pre-tokenizer '{other}'", Supported);
        }
    }

    void AddMetaspace(JsonPart part)
    {
        string mark = Metaspace.Mark(part);
        string prepend = Metaspace.PrependScheme(part);
        steps.Add((piece, atStart, pieces) =>
        {
            string text = piece.ToString().Replace(" ", mark, StringComparison.Ordinal);
            bool add = (prepend == "always" || (prepend == "first" && atStart)) && !text.StartsWith(mark, StringComparison.Ordinal);
            pieces.Add((add ? mark + text : text).AsMemory());
        });
        if (part.Flag("split", absent: true))
        {
            steps.Add(Split(TextPattern.Regex(Regex.Escape(mark)), SplitBehavior.MergedWithNext, false));
        }
    }

    static SplitBehavior Behavior(JsonPart part)
    {
        int index = Array.IndexOf(Enum.GetNames<SplitBehavior>(), part.Text());
        return index >= 0 ? (SplitBehavior)index : throw part.Unsupported($"behavior '{part.Text()}'", string.Join(", ", Enum.GetNames<SplitBehavior>()));
    }

    static Step Split(TextPattern pattern, SplitBehavior behavior, bool invert) => (piece, _, pieces) =>
    {
        int start = 0; // of the piece being grown
        int position = 0;
        bool previous = false; // whether the last segment was a delimiter
        foreach ((int matchStart, int matchEnd) in pattern.Matches(piece.Span))
        {
            Segment(matchStart, invert);
            Segment(matchEnd, !invert);
        }

        Segment(piece.Length, invert);
        Flush(position);

        void Segment(int end, bool delimiter)
        {
            if (end == position)
            {
                return;
            }

            bool joins = behavior switch
            {
                SplitBehavior.MergedWithPrevious => delimiter && !previous,
                SplitBehavior.MergedWithNext => previous && !delimiter,
                SplitBehavior.Contiguous => previous == delimiter,
                _ => false,
            };
            if (!joins)
            {
                Flush(position);
            }

            position = end;
            previous = delimiter;
            if (behavior == SplitBehavior.Removed && delimiter)
            {
                start = end;
            }
        }

        void Flush(int end)
        {
            if (end > start)
            {
                pieces.Add(piece[start..end]);
                start = end;
            }
        }
    };
}
