using System.Runtime.InteropServices;
using IlgpuPeft.Data;

namespace IlgpuPeft.Preferences;

/// <summary>What must hold of preference data before a run starts. Every error names the first row that is wrong and says how many are.</summary>
static class PreferenceRows
{
    /// <summary>Checks pairs.</summary>
    /// <exception cref="ArgumentException">There is none to train on, one lacks a prompt or a response or is too long, its responses are equal, or a token is outside the vocabulary.</exception>
    public static void Check(
        string trainer, IReadOnlyList<PreferencePair> train, IReadOnlyList<PreferencePair> validation, int maxLength, Action<string, IEnumerable<int>> requireInVocabulary)
    {
        RequireSome(trainer, train.Count);
        List<PreferencePair> pairs = [.. train, .. validation];
        Refuse(pairs, pair => pair.Prompt.Length == 0 || pair.Chosen.Length == 0 || pair.Rejected.Length == 0, Where, pair =>
            $"prompt, chosen and rejected response have {pair.Prompt.Length}, {pair.Chosen.Length} and {pair.Rejected.Length} tokens, expected at least 1 each. Drop such rows");
        Refuse(pairs, pair => pair.Chosen.AsSpan().SequenceEqual(pair.Rejected), Where, pair =>
            $"the chosen and the rejected response are the same {pair.Chosen.Length} tokens, expected two that differ: equal ones express no preference. Drop such rows");
        Refuse(pairs, pair => pair.Length > maxLength, Where, pair => TooLong(pair.Length, maxLength));
        pairs.ForEach(pair => requireInVocabulary(Where(pair), [.. pair.Prompt, .. pair.Chosen, .. pair.Rejected]));
    }

    /// <summary>Checks labelled responses.</summary>
    /// <exception cref="ArgumentException">There is none to train on, one lacks a prompt or a response or is too long, those to train on have one label only, or a token is outside the vocabulary.</exception>
    public static void Check(
        string trainer, IReadOnlyList<LabelledResponse> train, IReadOnlyList<LabelledResponse> validation, int maxLength, Action<string, IEnumerable<int>> requireInVocabulary)
    {
        RequireSome(trainer, train.Count);
        List<LabelledResponse> rows = [.. train, .. validation];
        Refuse(rows, row => row.Prompt.Length == 0 || row.Response.Length == 0, Where, row =>
            $"prompt and response have {row.Prompt.Length} and {row.Response.Length} tokens, expected at least 1 each. Drop such rows");
        Refuse(rows, row => row.Length > maxLength, Where, row => TooLong(row.Length, maxLength));
        rows.ForEach(row => requireInVocabulary(Where(row), [.. row.Prompt, .. row.Response]));
        int desirable = train.Count(row => row.IsDesirable);
        if (desirable == 0 || desirable == train.Count)
        {
            throw new ArgumentException($"{trainer}: {desirable} of {train.Count} rows to train on are desirable, expected both labels: one alone is learned by saying more, or less, of everything.");
        }
    }

    /// <summary>A fingerprint of pairs.</summary>
    public static DataDigest Digest(IReadOnlyList<PreferencePair> pairs)
    {
        var digest = new DataDigest();
        foreach (var pair in pairs)
        {
            digest.Add(pair.Prompt);
            digest.Add(pair.Chosen);
            digest.Add(pair.Rejected);
        }

        return digest;
    }

    /// <summary>A fingerprint of the margins of pairs.</summary>
    public static DataDigest MarginDigest(IReadOnlyList<PreferencePair> pairs)
    {
        var digest = new DataDigest();
        digest.Add(MemoryMarshal.Cast<double, int>(pairs.Select(pair => pair.Margin).ToArray()));
        return digest;
    }

    /// <summary>A fingerprint of labelled responses.</summary>
    public static DataDigest Digest(IReadOnlyList<LabelledResponse> rows)
    {
        var digest = new DataDigest();
        foreach (var row in rows)
        {
            digest.Add(row.Prompt);
            digest.Add(row.Response);
            digest.Add([row.IsDesirable ? 1 : 0]);
        }

        return digest;
    }

    static void RequireSome(string trainer, int rows)
    {
        if (rows == 0)
        {
            throw new ArgumentException($"{trainer}: there are no rows to train on.");
        }
    }

    static void Refuse<TRow>(List<TRow> rows, Func<TRow, bool> isWrong, Func<TRow, string> where, Func<TRow, string> problem)
    {
        List<TRow> wrong = [.. rows.Where(isWrong)];
        if (wrong.Count > 0)
        {
            throw new ArgumentException($"{where(wrong[0])}: {problem(wrong[0])}; {wrong.Count} of {rows.Count} rows are so.");
        }
    }

    static string TooLong(int length, int maxLength) => $"the row has {length} tokens, expected at most max_length = {maxLength}. Raise max_length or drop such rows";

    static string Where(PreferencePair pair) => $"{pair.File}:{pair.Line}";

    static string Where(LabelledResponse row) => $"{row.File}:{row.Line}";
}
