using System.Globalization;
using IlgpuPeft.Data;

namespace IlgpuPeft.Config;

/// <summary>What a key's value is: enough to describe it in a schema.</summary>
enum ConfigKind
{
    Flag,
    Integer,
    Number,
    Text,
    Path,
    Choice,
    List,
    Section,
    Sections,
}

/// <summary>What reading a configuration has found so far.</summary>
/// <param name="Folder">Folder of the YAML file: relative paths start there.</param>
sealed record ConfigFindings(string Folder)
{
    /// <summary>Mistakes.</summary>
    public List<ConfigProblem> Problems { get; } = [];

    /// <summary>What was accepted but has no effect.</summary>
    public List<string> Notes { get; } = [];

    /// <summary>Every key with a value, by its path.</summary>
    public Dictionary<string, YamlValue> Given { get; } = [];

    public void Problem(YamlValue at, string key, string message) => Problems.Add(new ConfigProblem(at.File, at.Line, key, message));
}

/// <summary>One key that we honour: how to read it into the record of its group, and how to write it back.</summary>
/// <param name="Name">Axolotl's name.</param>
/// <param name="Kind">Kind of value.</param>
/// <param name="Expected">The allowed values in words, after "expected".</param>
/// <param name="Help">One sentence for people.</param>
/// <param name="Read">Returns the record with the value set; or, after adding a problem, as it was. The text is the key's path.</param>
/// <param name="Get">The value to write: bool, int, double, text, a list of these, or name-value pairs; null for nothing.</param>
sealed record ConfigKey<T>(string Name, ConfigKind Kind, string Expected, string Help, Func<T, YamlValue, string, ConfigFindings, T> Read, Func<T, object?> Get);

/// <summary>Makes keys of a group, one method for each kind of value.</summary>
static class Key<T>
{
    public static ConfigKey<T> Flag(string name, string help, Func<T, bool?> get, Func<T, bool, T> set) => Scalar(name, ConfigKind.Flag, "true or false", help,
        text => text.ToLowerInvariant() switch { "true" or "yes" or "on" => true, "false" or "no" or "off" => false, _ => (bool?)null },
        value => get(value), (value, flag) => set(value, flag!.Value));

    public static ConfigKey<T> Integer(string name, string help, int least, Func<T, int?> get, Func<T, int, T> set) => Scalar(name, ConfigKind.Integer,
        $"a whole number of at least {least}", help,
        text => int.TryParse(text, NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out int number) && number >= least ? number : (int?)null,
        value => get(value), (value, number) => set(value, number!.Value));

    /// <summary>A number from <paramref name="least"/> to <paramref name="most"/>, both allowed.</summary>
    public static ConfigKey<T> Number(string name, string help, double least, double most, Func<T, double?> get, Func<T, double, T> set) => Scalar(name, ConfigKind.Number,
        (least == double.Epsilon, most == double.MaxValue) switch
        {
            (true, true) => "a number above 0",
            (false, true) when least == double.MinValue => "a number",
            (true, false) => $"a number above 0, up to {most}",
            (false, true) => $"a number of at least {least}",
            _ => $"a number from {least} to {most}",
        }, help,
        text => double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double number) && number >= least && number <= most ? number : (double?)null,
        value => get(value), (value, number) => set(value, number!.Value));

    public static ConfigKey<T> Text(string name, string help, Func<T, string?> get, Func<T, string, T> set) =>
        Scalar(name, ConfigKind.Text, "text", help, text => text, get, (value, text) => set(value, text!));

    /// <summary>
    /// A file or folder, relative to the YAML file's folder, or under ~/ to the user's. With <paramref name="orHubName"/> a name of the Hugging Face Hub stays as it is, unless such a folder is there.
    /// </summary>
    public static ConfigKey<T> Path(string name, string help, Func<T, string?> get, Func<T, string, T> set, bool orHubName = false)
    {
        const string expected = "the path of a file or folder";
        return new(name, ConfigKind.Path, expected, help, (owner, value, key, findings) =>
        {
            if (value is not YamlScalar { Text: var text } || text.Contains('\0'))
            {
                Wrong(value, key, expected, help, findings);
                return owner;
            }

            if (text.StartsWith('~'))
            {
                if (text is not ("~" or ['~', '/', ..]))
                {
                    findings.Problem(value, key, $"expected a path, or ~/ and a path in your own home folder, got {value.Shown}. Write the folder out.");
                    return owner;
                }

                text = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile, Environment.SpecialFolderOption.DoNotVerify) + text[1..]; // as shells do
            }

            string full = System.IO.Path.GetFullPath(text, findings.Folder);
            return set(owner, orHubName && HubName.Matches(text) && !System.IO.Path.Exists(full) ? text : full);
        }, get);
    }

    /// <summary>One of some words; <paramref name="aliases"/> are read as well, but neither offered nor written.</summary>
    public static ConfigKey<T> Choice<V>(string name, string help, (string Name, V Value)[] choices, Func<T, V?> get, Func<T, V, T> set, params (string Name, V Value)[] aliases) where V : struct =>
        Scalar(name, ConfigKind.Choice, Words(choices.Select(choice => choice.Name)), help,
            text => choices.Concat(aliases).Where(choice => choice.Name == text).Select(choice => (V?)choice.Value).FirstOrDefault(),
            value => get(value) is V chosen ? choices.First(choice => choice.Value.Equals(chosen)).Name : null, (value, chosen) => set(value, chosen!.Value));

    public static ConfigKey<T> Choice(string name, string help, string[] choices, Func<T, string?> get, Func<T, string, T> set) =>
        Scalar(name, ConfigKind.Choice, Words(choices), help, text => choices.Contains(text) ? text : null, get, (value, text) => set(value, text!));

    /// <summary>A list of names; the one name <paramref name="word"/> may stand without brackets.</summary>
    public static ConfigKey<T> List(string name, string help, Func<T, IReadOnlyList<string>> get, Func<T, IReadOnlyList<string>, T> set, string? word = null)
    {
        string expected = "a list of names such as [q_proj, v_proj]" + (word is null ? "" : $", or {word}");
        return new(name, ConfigKind.List, expected, help, (owner, value, key, findings) =>
        {
            if (value is YamlScalar scalar && scalar.Text == word)
            {
                return set(owner, [word]);
            }

            if (value is YamlList { Items: var items } && items.All(item => item is YamlScalar { IsBlank: false }))
            {
                return set(owner, [.. items.Cast<YamlScalar>().Select(item => item.Text)]);
            }

            Wrong(value, key, expected, help, findings);
            return owner;
        }, owner => get(owner) is { Count: > 0 } names ? names.Cast<object>().ToList() : null);
    }

    public static ConfigKey<T> Section<S>(string name, string help, KeyTable<S> table, Func<T, S> get, Func<T, S, T> set)
    {
        const string expected = "a group of keys, each on its own indented line";
        return new(name, ConfigKind.Section, expected, help, (owner, value, key, findings) =>
        {
            if (value is YamlMap map)
            {
                return set(owner, table.Read(map, get(owner), key + ".", findings));
            }

            Wrong(value, key, expected, help, findings);
            return owner;
        }, owner => table.Write(get(owner)) is { Count: > 0 } pairs ? pairs : null);
    }

    public static ConfigKey<T> Sections<S>(string name, string help, KeyTable<S> table, Func<T, IReadOnlyList<S>> get, Func<T, IReadOnlyList<S>, T> set) where S : new()
    {
        const string expected = "a list of groups, each starting with a dash, such as \"- path: data.jsonl\"";
        return new(name, ConfigKind.Sections, expected, help, (owner, value, key, findings) =>
        {
            if (value is YamlList { Items: var items } && items.All(item => item is YamlMap))
            {
                return set(owner, [.. items.Cast<YamlMap>().Select((map, i) => table.Read(map, new S(), $"{key}.{i}.", findings))]);
            }

            Wrong(value, key, expected, help, findings);
            return owner;
        }, owner => get(owner) is { Count: > 0 } list ? list.Select(item => (object?)table.Write(item)).ToList() : null);
    }

    /// <summary>A key that may only say what happens anyway.</summary>
    public static ConfigKey<T> Fixed(string name, ConfigKind kind, string expected, string help, Func<YamlValue, bool> holds) => new(name, kind, expected, help, (owner, value, key, findings) =>
    {
        if (!holds(value))
        {
            Wrong(value, key, expected, help, findings);
        }

        return owner;
    }, _ => null);

    static ConfigKey<T> Scalar<V>(string name, ConfigKind kind, string expected, string help, Func<string, V?> parse, Func<T, object?> get, Func<T, V?, T> set) =>
        new(name, kind, expected, help, (owner, value, key, findings) =>
        {
            if (value is YamlScalar scalar && parse(scalar.Text) is { } parsed)
            {
                return set(owner, parsed);
            }

            Wrong(value, key, expected, help, findings);
            return owner;
        }, get);

    static void Wrong(YamlValue value, string key, string expected, string help, ConfigFindings findings) =>
        findings.Problem(value, key, $"expected {expected}, got {value.Shown}. {help}");

    static string Words(IEnumerable<string> names) => string.Join(", ", names.SkipLast(1)) is { Length: > 0 } first ? $"{first} or {names.Last()}" : names.Last();
}
