namespace IlgpuPeft.Training;

/// <summary>Compares what two runs depend on: settings and digests in words, separated by commas.</summary>
static class Fingerprint
{
    const int Longest = 120; // some settings are lists with an entry for each row

    /// <summary>The settings that differ, for people.</summary>
    /// <param name="found">Of the run that wrote a checkpoint.</param>
    /// <param name="expected">Of the run that wants to continue.</param>
    public static string Difference(string found, string expected)
    {
        string[] there = Parts(found), here = Parts(expected);
        if (there.Length == here.Length)
        {
            return string.Join("; ", there.Zip(here).Where(pair => pair.First != pair.Second).Select(pair => $"found [{Short(pair.First)}], expected [{Short(pair.Second)}]"));
        }

        return $"found [{Others(there, here)}], expected [{Others(here, there)}]";
    }

    static string Others(string[] parts, string[] without) => string.Join(", ", parts.Except(without).Select(Short));

    // Records print themselves in braces, which belong to none of their settings.
    static string[] Parts(string fingerprint) => [.. fingerprint.Split(", ").Select(part => part.TrimEnd(' ', '}'))];

    static string Short(string part) => part.Length <= Longest ? part : part[..Longest] + "...";
}
