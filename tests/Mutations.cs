using CsCheck;

namespace IlgpuPeft.Tests;

/// <summary>Damaged copies of a valid text, for fuzzing parsers: a few characters deleted, replaced, repeated or moved.</summary>
static class Mutations
{
    const string Hostile = "{}[]\"'\\:,#&*!|>-?%@`\n\r\t \0~=.0189eE+nullé\uFFFE";

    public static Gen<string> Of(string text) => Gen.Select(Gen.Int[0, 3], Gen.Int[0, text.Length - 1], Gen.Int[1, 12], Gen.Int[0, Hostile.Length - 1])
        .List[1, 6].Select(edits => edits.Aggregate(text, (current, edit) => Apply(current, edit.Item1, edit.Item2, edit.Item3, Hostile[edit.Item4])));

    static string Apply(string text, int kind, int at, int length, char c)
    {
        at = Math.Min(at, text.Length);
        int end = Math.Min(at + length, text.Length);
        return kind switch
        {
            0 => text.Remove(at, end - at),
            1 => text[..at] + c + text[Math.Min(at + 1, text.Length)..],
            2 => text.Insert(at, new string(c, length)),
            _ => text.Insert(at, text[at..end]),
        };
    }
}
