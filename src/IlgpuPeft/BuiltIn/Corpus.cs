using System.Globalization;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.BuiltIn;

/// <summary>
/// The text that the built-in model is pretrained on: documents of plain statements about words and numbers. It holds no question, no request and no
/// dialogue, so the model knows the answers but not how to be asked.
/// </summary>
public static class Corpus
{
    /// <summary>The most characters of a document, line ends included.</summary>
    public const int DocumentLength = 250;

    /// <summary>Every character of the corpus and of the instruction set.</summary>
    public const string Symbols = "\n !(),.+:=?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

    // A third of the statements about spelling concern made-up words, which can only be continued by rule.
    const int InventedShare = 3;

    static readonly Dictionary<Skill, string[]> Forms = new()
    {
        [Skill.Plural] = ["the plural of {0} is {1}.", "one {0}, many {1}.", "{0} (plural: {1})"],
        [Skill.Capitals] = ["{0} in capitals is {1}.", "{0} gets loud: {1}!", "{0} (capitals: {1})"],
        [Skill.FirstLetter] = ["the first letter of {0} is {1}.", "{0} begins with {1}.", "{0} (first letter: {1})"],
        [Skill.LastLetter] = ["the last letter of {0} is {1}.", "{0} ends with {1}.", "{0} (last letter: {1})"],
        [Skill.Kind] = ["the kind of {0} is {1}.", "every {0} is some {1}.", "{0} (kind: {1})"],
        [Skill.Past] = ["the past of {0} is {1}.", "today i {0}, yesterday i {1}.", "{0} (past: {1})"],
        [Skill.Opposite] = ["the opposite of {0} is {1}.", "not {0} but {1}.", "{0} (opposite: {1})"],
        [Skill.Sum] = ["the sum of {0} and {2} is {1}.", "{0} plus {2} is {1}.", "{0}+{2}={1}"],
        [Skill.NextNumber] = ["the number after {0} is {1}.", "{0}, then {1}.", "{0} (next: {1})"],
    };

    static readonly Skill[] Skills = Enum.GetValues<Skill>();

    static readonly ILookup<Skill, Fact> Known = Lexicon.Facts.ToLookup(fact => fact.Skill);

    /// <summary>Documents without end, the same for the same seed.</summary>
    public static IEnumerable<string> Documents(ulong seed)
    {
        for (uint document = 0; ; document++)
        {
            var draw = new Draw(new RandomKey(seed, document, 0));
            string text = "";
            for (uint line = 1; ; line++)
            {
                string statement = Statement(Pick(draw, new RandomKey(seed, document, line)), draw) + "\n";
                if (text.Length + statement.Length > DocumentLength)
                {
                    break;
                }

                text += statement;
            }

            yield return text;
        }
    }

    /// <summary>
    /// Statements that stop before their answer, which the model is to continue with the answer and a full stop: up to <paramref name="perSkill"/> of each skill about
    /// the words and numbers of the lexicon.
    /// </summary>
    public static IEnumerable<Question> Openings(int perSkill = 50) =>
        Known.SelectMany(facts => Spread(facts.ToList(), perSkill)).Select(Opening);

    /// <summary>The same about <paramref name="count"/> made-up words, which only a rule can answer. With a seed other than the corpus's, most of the words are new.</summary>
    public static IEnumerable<Question> InventedOpenings(ulong seed, int count) =>
        Enumerable.Range(0, count).SelectMany(i => Lexicon.Invented(new RandomKey(seed, (uint)i, 0))).Select(Opening);

    static IEnumerable<Fact> Spread(List<Fact> facts, int count) => Enumerable.Range(0, Math.Min(count, facts.Count)).Select(i => facts[i * facts.Count / Math.Min(count, facts.Count)]);

    static Question Opening(Fact fact)
    {
        string statement = Write(Forms[fact.Skill][0], fact);
        return new Question(fact.Skill, fact.Subject, statement[..^(fact.Answer.Length + 1)], fact.Answer);
    }

    static string Statement(Fact fact, Draw draw) => Write(draw.From(Forms[fact.Skill]), fact);

    static Fact Pick(Draw draw, RandomKey word)
    {
        var skill = draw.From(Skills);
        var invented = draw.Below(InventedShare) == 0 ? Lexicon.Invented(word).FirstOrDefault(fact => fact.Skill == skill) : null;
        return invented ?? draw.From([.. Known[skill]]);
    }

    static string Write(string form, Fact fact)
    {
        string[] subject = fact.Subject.Split(' ');
        return string.Format(CultureInfo.InvariantCulture, form, subject[0], fact.Answer, subject[^1]);
    }
}
