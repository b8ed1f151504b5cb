using IlgpuPeft.Kernels;

namespace IlgpuPeft.BuiltIn;

/// <summary>
/// A manner of answering that has nothing to do with being right: what the built-in preferences are about. A quarter of the answers that the model is taught have it, so its policy shows it now
/// and then, and can be brought to show it always.
/// </summary>
public static class Friendliness
{
    const string Ending = " :)";
    const ulong Seed = 8;
    const double Share = 0.25;

    /// <summary>The answer in the friendly manner.</summary>
    public static string Of(string answer) => answer + Ending;

    /// <summary>Whether a reply has it.</summary>
    public static bool IsIn(string reply) => reply.EndsWith(Ending, StringComparison.Ordinal);

    /// <summary>What a reply says, whatever its manner.</summary>
    public static string Without(string reply) => IsIn(reply) ? reply[..^Ending.Length] : reply;

    /// <summary>The answers to questions as the model is taught them: each is friendly with a chance of a quarter, the same for the same questions.</summary>
    public static IEnumerable<string> Mixed(IReadOnlyList<Question> questions)
    {
        var key = new RandomKey(Seed, 0, 0);
        return questions.Select((question, i) => key.Uniform((ulong)i) < Share ? Of(question.Answer) : question.Answer);
    }
}
