using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;

namespace IlgpuPeft.Text;

/// <summary>Unicode normalisation form C (Unicode Standard Annex 15). Tokens must not depend on the machine, and <see cref="string.Normalize()"/> returns its input
/// unchanged where a program runs without ICU (invariant globalisation), so the tables are our own.</summary>
static class Nfc
{
    const int HangulFirst = 0xAC00, LeadFirst = 0x1100, VowelFirst = 0x1161, TrailBase = 0x11A7;
    const int Leads = 19, Vowels = 21, Trails = 28;

    // No character below this one takes part in a composition as its second half, and all of them are in form C by themselves.
    const char FirstCombining = '\u0300';

    static readonly Lazy<Tables> Data = new(Tables.Parse);

    /// <summary>The text in form C; the same instance when nothing can change. A lone surrogate stays as it is.</summary>
    public static string Normalize(string text)
    {
        if (text.AsSpan().IndexOfAnyInRange(FirstCombining, '\uFFFF') < 0)
        {
            return text;
        }

        Tables tables = Data.Value;
        var codePoints = new List<int>(text.Length);
        for (int i = 0; i < text.Length; i++)
        {
            bool pair = i + 1 < text.Length && char.IsSurrogatePair(text[i], text[i + 1]);
            tables.Decompose(pair ? char.ConvertToUtf32(text[i], text[i + 1]) : text[i], codePoints);
            i += pair ? 1 : 0;
        }

        Order(CollectionsMarshal.AsSpan(codePoints), tables);
        return Compose(codePoints, tables);
    }

    // Stable sort of every run of combining marks by class. Sorting, because a hostile run can be as long as the text.
    static void Order(Span<int> codePoints, Tables tables)
    {
        for (int start = 0; start < codePoints.Length; start++)
        {
            int end = start;
            while (end < codePoints.Length && tables.Class(codePoints[end]) != 0)
            {
                end++;
            }

            if (end - start > 1)
            {
                Span<int> run = codePoints[start..end];
                var keys = new long[run.Length];
                for (int i = 0; i < keys.Length; i++)
                {
                    keys[i] = ((long)tables.Class(run[i]) << 32) | (uint)i;
                }

                keys.AsSpan().Sort(run);
            }

            start = end;
        }
    }

    static string Compose(List<int> codePoints, Tables tables)
    {
        var composed = new List<int>(codePoints.Count);
        int starter = -1;
        int previous = -1; // class of the last mark kept after the starter; -1 when the starter is the last code point
        foreach (int codePoint in codePoints)
        {
            int combining = tables.Class(codePoint);
            if (starter >= 0 && previous < combining && tables.Compose(composed[starter], codePoint) is int joined)
            {
                composed[starter] = joined;
                continue;
            }

            composed.Add(codePoint);
            previous = combining == 0 ? -1 : combining;
            starter = combining == 0 ? composed.Count - 1 : starter;
        }

        var text = new StringBuilder(composed.Count);
        foreach (int codePoint in composed)
        {
            _ = codePoint <= 0xFFFF ? text.Append((char)codePoint) : text.Append(char.ConvertFromUtf32(codePoint));
        }

        return text.ToString();
    }

    sealed class Tables
    {
        readonly Dictionary<int, (int First, int Second)> decompositions = []; // Second 0: a single code point
        readonly Dictionary<(int First, int Second), int> compositions = [];
        readonly Dictionary<int, int> classes = [];

        public static Tables Parse()
        {
            var tables = new Tables();
            int codePoint = 0;
            foreach (string item in NfcTables.Decompositions.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries))
            {
                if (item[0] == '@')
                {
                    codePoint = Hex(item[1..]);
                    continue;
                }

                string[] parts = item.TrimStart('!').Split('.');
                (int, int) pair = (Hex(parts[0]), parts.Length == 2 ? Hex(parts[1]) : 0);
                if (parts.Length == 2 && item[0] != '!')
                {
                    tables.compositions.Add(pair, codePoint);
                }

                tables.decompositions.Add(codePoint++, pair);
            }

            foreach (string item in NfcTables.CombiningClasses.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries))
            {
                string[] parts = item.Split('-', ':');
                for (int c = Hex(parts[0]); c <= Hex(parts[^2]); c++)
                {
                    tables.classes.Add(c, int.Parse(parts[^1]));
                }
            }

            return tables;
        }

        public int Class(int codePoint) => codePoint < FirstCombining ? 0 : classes.GetValueOrDefault(codePoint);

        public void Decompose(int codePoint, List<int> into)
        {
            int syllable = codePoint - HangulFirst;
            if (syllable >= 0 && syllable < Leads * Vowels * Trails)
            {
                into.Add(LeadFirst + (syllable / (Vowels * Trails)));
                into.Add(VowelFirst + (syllable / Trails % Vowels));
                if (syllable % Trails != 0)
                {
                    into.Add(TrailBase + (syllable % Trails));
                }
            }
            else if (decompositions.TryGetValue(codePoint, out var pair))
            {
                Decompose(pair.First, into);
                if (pair.Second != 0)
                {
                    Decompose(pair.Second, into);
                }
            }
            else
            {
                into.Add(codePoint);
            }
        }

        public int? Compose(int first, int second)
        {
            (int lead, int vowel) = (first - LeadFirst, second - VowelFirst);
            if (lead is >= 0 and < Leads && vowel is >= 0 and < Vowels)
            {
                return HangulFirst + (((lead * Vowels) + vowel) * Trails);
            }

            (int syllable, int trail) = (first - HangulFirst, second - TrailBase);
            if (syllable is >= 0 and < Leads * Vowels * Trails && syllable % Trails == 0 && trail is > 0 and < Trails)
            {
                return first + trail;
            }

            return compositions.TryGetValue((first, second), out int joined) ? joined : null;
        }

        static int Hex(string digits) => int.Parse(digits, NumberStyles.HexNumber);
    }
}
