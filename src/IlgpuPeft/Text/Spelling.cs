namespace IlgpuPeft.Text;

/// <summary>Finds the name that was probably meant.</summary>
static class Spelling
{
    /// <summary>The nearest of <paramref name="names"/>, the first of equals; null if more than a third of the word would have to change.</summary>
    public static string? Nearest(string word, IEnumerable<string> names)
    {
        var best = names.Select(name => (name, distance: Distance(word, name))).DefaultIfEmpty(("", int.MaxValue)).MinBy(pair => pair.Item2);
        return best.Item2 <= Math.Max(1, word.Length / 3) ? best.Item1 : null;
    }

    /// <summary>
    /// Fewest insertions, deletions, substitutions and swaps of neighbours that turn one word into the other, no part being edited twice
    /// (Damerau 1964; the "optimal string alignment" form).
    /// </summary>
    public static int Distance(string a, string b)
    {
        int[,] d = new int[a.Length + 1, b.Length + 1];
        for (int i = 0; i <= a.Length; i++)
        {
            for (int j = 0; j <= b.Length; j++)
            {
                if (i == 0 || j == 0)
                {
                    d[i, j] = i + j;
                    continue;
                }

                int substitution = d[i - 1, j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
                d[i, j] = Math.Min(substitution, Math.Min(d[i - 1, j], d[i, j - 1]) + 1);
                if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                {
                    d[i, j] = Math.Min(d[i, j], d[i - 2, j - 2] + 1);
                }
            }
        }

        return d[a.Length, b.Length];
    }
}
