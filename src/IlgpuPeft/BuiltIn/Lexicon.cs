using IlgpuPeft.Kernels;

namespace IlgpuPeft.BuiltIn;

/// <summary>What can be said or asked about a word or a number.</summary>
public enum Skill
{
    /// <summary>cat → cats.</summary>
    Plural,

    /// <summary>cat → CAT.</summary>
    Capitals,

    /// <summary>cat → c.</summary>
    FirstLetter,

    /// <summary>cat → t.</summary>
    LastLetter,

    /// <summary>cat → animal.</summary>
    Kind,

    /// <summary>walk → walked.</summary>
    Past,

    /// <summary>hot → cold.</summary>
    Opposite,

    /// <summary>3 and 4 → 7.</summary>
    Sum,

    /// <summary>17 → 18.</summary>
    NextNumber,
}

/// <summary>A piece of knowledge: the answer to a skill's question about a subject. For <see cref="Skill.Sum"/> the subject is both numbers, with a space between.</summary>
public sealed record Fact(Skill Skill, string Subject, string Answer);

/// <summary>The words and numbers that the built-in model knows, and everything that it knows about them.</summary>
public static class Lexicon
{
    static readonly (string Kind, string Words)[] Nouns =
    [
        ("animal", "cat dog horse cow sheep goat pig hen duck fox wolf bear lion tiger mouse rabbit frog fish bee ant eagle owl monkey camel"),
        ("plant", "apple pear plum cherry lemon grape peach berry melon fig oak rose tulip fern pine daisy lily onion carrot bean"),
        ("tool", "hammer saw knife spoon fork axe drill brush needle rope ladder shovel wrench key pen pencil ruler lamp clock broom"),
        ("place", "house school church park shop farm market bridge tower city village street garden beach forest island river lake hill castle"),
        ("garment", "hat coat shirt dress shoe sock glove scarf belt boot jacket skirt cap robe vest sandal tie cape apron blouse"),
        ("vehicle", "car bus train boat ship bicycle truck plane sled wagon tram taxi ferry canoe rocket van cart scooter tractor raft"),
        ("person", "king queen baker farmer teacher doctor nurse sailor child lady boy girl judge painter singer hunter guard cook clerk poet"),
    ];

    static readonly Dictionary<string, string> IrregularPlurals = new()
    {
        ["sheep"] = "sheep",
        ["wolf"] = "wolves",
        ["mouse"] = "mice",
        ["fish"] = "fish",
        ["knife"] = "knives",
        ["child"] = "children",
        ["scarf"] = "scarves",
    };

    const string Verbs =
        "walk:walked talk:talked jump:jumped play:played call:called look:looked ask:asked open:opened close:closed help:helped wash:washed paint:painted " +
        "laugh:laughed smile:smiled dance:danced bake:baked cook:cooked climb:climbed push:pushed pull:pulled carry:carried cry:cried try:tried want:wanted " +
        "need:needed like:liked love:loved hope:hoped wait:waited turn:turned move:moved live:lived start:started finish:finished learn:learned work:worked " +
        "go:went see:saw run:ran sing:sang eat:ate drink:drank sleep:slept write:wrote give:gave take:took make:made find:found";

    const string Opposites =
        "hot:cold big:small tall:short fast:slow old:young good:bad wet:dry dark:bright hard:soft rich:poor full:empty strong:weak happy:sad early:late " +
        "near:far high:low thick:thin clean:dirty loud:quiet deep:shallow wide:narrow sharp:blunt sweet:sour heavy:light open:shut first:last true:false " +
        "brave:afraid smooth:rough cheap:costly";

    const string Starts = "b c d f g h k l m n p r s t v w z br dr fl gr pl st tr sh";
    const string Vowels = "a e i o u";
    const string Ends = "b d g k l m n p r t s x sh ck nd rt";

    /// <summary>Everything there is to know about the words and numbers of the lexicon.</summary>
    public static IReadOnlyList<Fact> Facts { get; } = [.. AllFacts()];

    /// <summary>What follows from a made-up word by rule alone. The words are pronounceable and none is in the lexicon by intent, so knowing them takes the rule.</summary>
    /// <param name="key">Names the word.</param>
    public static IReadOnlyList<Fact> Invented(RandomKey key)
    {
        var draw = new Draw(key);
        string word = draw.Word(Starts) + draw.Word(Vowels) + (draw.Below(2) == 0 ? draw.Word(Starts) + draw.Word(Vowels) : "") + draw.Word(Ends);
        return [.. Spelling(word), new Fact(Skill.Plural, word, Plural(word)), new Fact(Skill.Past, word, word + "ed")];
    }

    static IEnumerable<Fact> AllFacts()
    {
        HashSet<string> spelled = [];
        foreach (var (kind, words) in Nouns)
        {
            foreach (string noun in words.Split(' '))
            {
                yield return new Fact(Skill.Plural, noun, Plural(noun));
                yield return new Fact(Skill.Kind, noun, kind);
                spelled.Add(noun);
            }
        }

        foreach (var (verb, past) in Pairs(Verbs))
        {
            yield return new Fact(Skill.Past, verb, past);
            spelled.Add(verb);
        }

        foreach (var (left, right) in Pairs(Opposites))
        {
            yield return new Fact(Skill.Opposite, left, right);
            yield return new Fact(Skill.Opposite, right, left);
            spelled.Add(left);
            spelled.Add(right);
        }

        foreach (var fact in spelled.SelectMany(Spelling))
        {
            yield return fact;
        }

        for (int a = 0; a < 10; a++)
        {
            for (int b = 0; b < 10; b++)
            {
                yield return new Fact(Skill.Sum, $"{a} {b}", $"{a + b}");
            }
        }

        for (int n = 0; n < 100; n++)
        {
            yield return new Fact(Skill.NextNumber, $"{n}", $"{n + 1}");
        }
    }

    static IEnumerable<Fact> Spelling(string word) =>
    [
        new Fact(Skill.Capitals, word, word.ToUpperInvariant()),
        new Fact(Skill.FirstLetter, word, word[..1]),
        new Fact(Skill.LastLetter, word, word[^1..]),
    ];

    static string Plural(string noun) => IrregularPlurals.TryGetValue(noun, out string? irregular) ? irregular
        : noun[^1] is 's' or 'x' or 'z' || noun.EndsWith("ch", StringComparison.Ordinal) || noun.EndsWith("sh", StringComparison.Ordinal) ? noun + "es"
        : noun[^1] == 'y' && !"aeiou".Contains(noun[^2]) ? noun[..^1] + "ies"
        : noun + "s";

    static IEnumerable<(string, string)> Pairs(string text) => text.Split(' ').Select(pair => pair.Split(':')).Select(pair => (pair[0], pair[1]));
}
