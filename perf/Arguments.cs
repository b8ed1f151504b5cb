using System.Globalization;

namespace IlgpuPeft.Perf;

/// <summary>What follows a command: words by their place, options by their name, each with a value. What the command does not take is refused.</summary>
sealed class Arguments
{
    readonly Dictionary<string, string> values = new(StringComparer.Ordinal);

    /// <summary>Reads a command line.</summary>
    /// <param name="usage">As <see cref="Verb.Usage"/>.</param>
    /// <param name="args">What was given.</param>
    /// <exception cref="ArgumentException">A word or an option is unknown, missing or given twice, or an option has no value.</exception>
    public Arguments(string usage, string[] args)
    {
        string[] parts = usage.Split(' ', StringSplitOptions.RemoveEmptyEntries);
        string[] words = [.. parts.TakeWhile(part => !IsOption(part))], options = [.. parts.Where(IsOption).Select(part => part.Trim('[', ']'))];
        string expected = usage.Length == 0 ? "nothing" : usage;
        int place = 0;
        for (int i = 0; i < args.Length; i++)
        {
            string name = args[i];
            if (!name.StartsWith("--", StringComparison.Ordinal))
            {
                Expect(place < words.Length, $"expected {expected}, got '{name}' too.");
                values.Add(words[place++].Trim('[', ']'), name);
                continue;
            }

            Expect(options.Contains(name), $"expected {expected}, got the option '{name}'.");
            Expect(i + 1 < args.Length && !args[i + 1].StartsWith("--", StringComparison.Ordinal), $"{name}: expected a value behind it, got none.");
            Expect(values.TryAdd(name, args[++i]), $"{name}: expected it once, got it twice.");
        }

        int required = words.Count(word => word[0] != '[');
        Expect(place >= required, $"expected {expected}, got {(place == 0 ? "nothing" : $"only '{string.Join(' ', args)}'")}.");
    }

    /// <summary>A word or an option; null where it was left out.</summary>
    public string? this[string name] => values.GetValueOrDefault(name);

    /// <summary>A whole number above 0.</summary>
    /// <param name="name">A word or an option.</param>
    /// <param name="otherwise">What it is where it was left out.</param>
    /// <param name="least">The smallest that is allowed.</param>
    /// <exception cref="ArgumentException">It is something else.</exception>
    public int Number(string name, int otherwise, int least = 1) => this[name] is not { } text ? otherwise
        : int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int number) && number >= least ? number
        : throw new ArgumentException($"{name}: expected a whole number from {least} on, got '{text}'.");

    /// <summary>One of a list.</summary>
    /// <param name="name">A word or an option.</param>
    /// <param name="known">The list.</param>
    /// <param name="otherwise">What it is where it was left out.</param>
    /// <exception cref="ArgumentException">It is not in the list.</exception>
    public string OneOf(string name, IEnumerable<string> known, string otherwise) => this[name] is not { } text ? otherwise
        : known.Contains(text) ? text
        : throw new ArgumentException($"{name}: expected one of {string.Join(", ", known)}, got '{text}'.");

    static bool IsOption(string part) => part.TrimStart('[').StartsWith("--", StringComparison.Ordinal);

    static void Expect(bool condition, string problem)
    {
        if (!condition)
        {
            throw new ArgumentException(problem);
        }
    }
}
