using System.Globalization;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.BuiltIn;

/// <summary>A prompt and the one answer that counts as right.</summary>
/// <param name="Skill">What it asks for.</param>
/// <param name="Subject">What it is about: a word, a number, or two with a space between.</param>
/// <param name="Prompt">The text that the model continues.</param>
/// <param name="Answer">The exact continuation.</param>
public sealed record Question(Skill Skill, string Subject, string Prompt, string Answer);

/// <summary>
/// The built-in instruction set: requests of a user and the answers of an assistant, which the corpus holds neither of. It is split by subject, so no training
/// row asks anything about a word, a pair of summands or a number of a held-out row.
/// </summary>
public static class Instructions
{
    const ulong Seed = 7;
    const double HeldOutShare = 0.2;
    const int HeldOutPerSkill = 16;

    static readonly string[] Forms = ["Give the {0}.", "What is the {0}?"];

    static readonly Dictionary<Skill, string> Wanted = new()
    {
        [Skill.Plural] = "plural of {0}",
        [Skill.Capitals] = "capitals of {0}",
        [Skill.FirstLetter] = "first letter of {0}",
        [Skill.LastLetter] = "last letter of {0}",
        [Skill.Kind] = "kind of {0}",
        [Skill.Past] = "past of {0}",
        [Skill.Opposite] = "opposite of {0}",
        [Skill.Sum] = "sum of {0} and {1}",
        [Skill.NextNumber] = "number after {0}",
    };

    static readonly HashSet<string> HeldOutSubjects = ChooseHeldOut();

    /// <summary>Rows to train on: every way to ask for every fact that is not held out.</summary>
    public static IReadOnlyList<Question> Train { get; } =
        [.. Lexicon.Facts.Where(fact => !HeldOutSubjects.Contains(fact.Subject)).SelectMany(fact => Forms.Select(form => Ask(fact, form)))];

    /// <summary>Rows to judge by: up to 16 facts of each skill, asked for in one of the ways.</summary>
    public static IReadOnlyList<Question> HeldOut { get; } =
        [.. Lexicon.Facts.Where(fact => HeldOutSubjects.Contains(fact.Subject)).GroupBy(fact => fact.Skill)
            .SelectMany(facts => facts.Take(HeldOutPerSkill).Select((fact, i) => Ask(fact, Forms[i % Forms.Length])))];

    static Question Ask(Fact fact, string form)
    {
        string wanted = string.Format(CultureInfo.InvariantCulture, Wanted[fact.Skill], fact.Subject.Split(' '));
        return new Question(fact.Skill, fact.Subject, $"User: {string.Format(CultureInfo.InvariantCulture, form, wanted)}\nAssistant: ", fact.Answer);
    }

    static HashSet<string> ChooseHeldOut()
    {
        var key = new RandomKey(Seed, 0, 0);
        return [.. Lexicon.Facts.Select(fact => fact.Subject).Distinct().Where((_, i) => key.Uniform((ulong)i) < HeldOutShare)];
    }
}
