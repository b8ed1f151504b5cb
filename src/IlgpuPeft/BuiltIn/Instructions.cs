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

    static readonly Dictionary<Skill, string[]> Requests = new()
    {
        [Skill.Plural] = ["Give the plural of {0}.", "What is the plural of {0}?", "Make {0} plural."],
        [Skill.Capitals] = ["Write {0} in capitals.", "Put {0} in capitals.", "What is {0} in capitals?"],
        [Skill.FirstLetter] = ["Give the first letter of {0}.", "What is the first letter of {0}?", "Which letter begins {0}?"],
        [Skill.LastLetter] = ["Give the last letter of {0}.", "What is the last letter of {0}?", "Which letter ends {0}?"],
        [Skill.Kind] = ["Name the kind of {0}.", "What kind is {0}?", "Which kind of thing is {0}?"],
        [Skill.Past] = ["Give the past of {0}.", "What is the past of {0}?", "Put {0} in the past."],
        [Skill.Opposite] = ["Give the opposite of {0}.", "What is the opposite of {0}?", "Name the opposite of {0}."],
        [Skill.Sum] = ["Give the sum of {0} and {1}.", "What is {0} plus {1}?", "Add {0} and {1}."],
        [Skill.NextNumber] = ["Give the number after {0}.", "Which number is after {0}?", "Name the number after {0}."],
    };

    static readonly HashSet<string> HeldOutSubjects = ChooseHeldOut();

    /// <summary>Rows to train on: every way to ask for every fact that is not held out.</summary>
    public static IReadOnlyList<Question> Train { get; } =
        [.. Lexicon.Facts.Where(fact => !HeldOutSubjects.Contains(fact.Subject)).SelectMany(fact => Requests[fact.Skill].Select(request => Ask(fact, request)))];

    /// <summary>Rows to judge by: up to 16 facts of each skill, asked for in one of the ways.</summary>
    public static IReadOnlyList<Question> HeldOut { get; } =
        [.. Lexicon.Facts.Where(fact => HeldOutSubjects.Contains(fact.Subject)).GroupBy(fact => fact.Skill)
            .SelectMany(facts => facts.Take(HeldOutPerSkill).Select((fact, i) => Ask(fact, Requests[fact.Skill][i % Requests[fact.Skill].Length])))];

    static Question Ask(Fact fact, string request) =>
        new(fact.Skill, fact.Subject, $"User: {string.Format(CultureInfo.InvariantCulture, request, fact.Subject.Split(' '))}\nAssistant: ", fact.Answer);

    static HashSet<string> ChooseHeldOut()
    {
        var key = new RandomKey(Seed, 0, 0);
        return [.. Lexicon.Facts.Select(fact => fact.Subject).Distinct().Where((_, i) => key.Uniform((ulong)i) < HeldOutShare)];
    }
}
