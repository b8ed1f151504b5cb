using YamlDotNet.Core;
using YamlDotNet.Core.Events;

namespace IlgpuPeft.Config;

/// <summary>A YAML value and where it was written.</summary>
/// <param name="File">The file, or the <c>--set</c> override.</param>
/// <param name="Line">From 1; 0 in an override.</param>
abstract record YamlValue(string File, int Line)
{
    /// <summary>Whether it says nothing: <c>key:</c>, null, an empty text, list or map. Such a key counts as not given.</summary>
    public abstract bool IsBlank { get; }

    /// <summary>The value as an error message shows it.</summary>
    public abstract string Shown { get; }
}

// Text is without its quotes; Plain says that there were none, so that null is no text.
sealed record YamlScalar(string File, int Line, string Text, bool Plain) : YamlValue(File, Line)
{
    public override bool IsBlank => Text.Length == 0 || (Plain && Text is "~" or "null" or "Null" or "NULL");

    public override string Shown => $"\"{(Text.Length > 60 ? Text[..60] + "..." : Text)}\"";
}

sealed record YamlList(string File, int Line, List<YamlValue> Items) : YamlValue(File, Line)
{
    public override bool IsBlank => Items.Count == 0;

    public override string Shown => "a list";
}

// Keys holds the line of each key.
sealed record YamlMap(string File, int Line, Dictionary<string, YamlValue> Values, Dictionary<string, int> Keys) : YamlValue(File, Line)
{
    public override bool IsBlank => Values.Count == 0;

    public override string Shown => "a group of keys";
}

/// <summary>
/// Builds a tree from YAML text that may be hostile: bounded depth, no anchors (a few lines of them can expand to gigabytes), and a problem with its line
/// for a key that stands twice.
/// </summary>
sealed class YamlTree
{
    const int MostLevels = 16;

    readonly string file;
    readonly bool hasLines;
    readonly Parser parser;
    readonly List<ConfigProblem> problems;

    YamlTree(string text, string file, bool hasLines, List<ConfigProblem> problems)
    {
        (this.file, this.hasLines, this.problems) = (file, hasLines, problems);
        parser = new Parser(new StringReader(text));
    }

    /// <summary>The value of a text, or null if the text is empty or cannot be read; what is wrong is added to <paramref name="problems"/>.</summary>
    /// <param name="text">YAML.</param>
    /// <param name="file">Where the text is from.</param>
    /// <param name="hasLines">Whether the text's lines mean something to the user.</param>
    /// <param name="problems">Receives what is wrong.</param>
    public static YamlValue? Parse(string text, string file, bool hasLines, List<ConfigProblem> problems)
    {
        var tree = new YamlTree(text, file, hasLines, problems);
        try
        {
            return tree.Document();
        }
        catch (YamlException cause)
        {
            // The parser's message repeats the place as "(Line: 1, Col: 1, Idx: 0) - ...": it stands in front already.
            string message = cause.Message[(cause.Message.LastIndexOf("): ", StringComparison.Ordinal) is var end and >= 0 ? end + 3 : 0)..];
            problems.Add(new ConfigProblem(file, tree.Line(cause.Start), "", $"not valid YAML: {message.TrimEnd('.')}. Check indentation, quotes and colons at this place."));
            return null;
        }
        catch (Exception cause) when (cause is InvalidOperationException or ArgumentException or FormatException or OverflowException) // the scanner's, on damaged text
        {
            problems.Add(new ConfigProblem(file, tree.parser.Current is { } last ? tree.Line(last.End) : 0, "", "not valid YAML from here on. Check indentation, quotes and colons."));
            return null;
        }
    }

    int Line(Mark mark) => hasLines ? (int)mark.Line : 0;

    YamlValue? Document()
    {
        parser.Consume<StreamStart>();
        if (parser.Accept<StreamEnd>(out _))
        {
            return null;
        }

        parser.Consume<DocumentStart>();
        var value = Value(0);
        parser.Consume<DocumentEnd>();
        if (parser.Accept<DocumentStart>(out var second))
        {
            problems.Add(new ConfigProblem(file, Line(second.Start), "", "a second document starts here, expected one. Remove the line \"---\"."));
        }

        return value;
    }

    YamlValue Value(int level)
    {
        if (parser.TryConsume<AnchorAlias>(out var alias))
        {
            throw new SemanticErrorException(alias.Start, alias.End, "an alias (*name) is not supported; write the value out");
        }

        var node = parser.Accept<NodeEvent>(out var next) ? next : throw new SemanticErrorException(parser.Current!.Start, parser.Current.End, "expected a value");
        if (!node.Anchor.IsEmpty || level > MostLevels)
        {
            throw new SemanticErrorException(node.Start, node.End, level > MostLevels ? "values are nested too deeply" : "an anchor (&name) is not supported; write the value out");
        }

        if (parser.TryConsume<Scalar>(out var scalar))
        {
            return new YamlScalar(file, Line(scalar.Start), scalar.Value, scalar.Style == ScalarStyle.Plain);
        }

        if (parser.TryConsume<SequenceStart>(out var start))
        {
            List<YamlValue> items = [];
            while (!parser.TryConsume<SequenceEnd>(out _))
            {
                items.Add(Value(level + 1));
            }

            return new YamlList(file, Line(start.Start), items);
        }

        return Map(level);
    }

    YamlMap Map(int level)
    {
        var start = parser.Consume<MappingStart>();
        var map = new YamlMap(file, Line(start.Start), [], []);
        while (!parser.TryConsume<MappingEnd>(out _))
        {
            if (Value(level + 1) is not YamlScalar key)
            {
                throw new SemanticErrorException(parser.Current!.Start, parser.Current.End, "a key is a list or a group, expected a name");
            }

            var value = Value(level + 1);
            if (!map.Keys.TryAdd(key.Text, key.Line))
            {
                problems.Add(new ConfigProblem(file, key.Line, key.Text, $"the key stands twice; the first is on line {map.Keys[key.Text]}. Remove one."));
                continue;
            }

            map.Values.Add(key.Text, value);
        }

        return map;
    }
}
