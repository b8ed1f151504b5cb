using IlgpuPeft.Text;

namespace IlgpuPeft.Config;

/// <summary>All keys of one group, in three lists. A key in none of them is a mistake.</summary>
/// <param name="Honoured">Keys that do what they say.</param>
/// <param name="Ignored">Axolotl's keys that change nothing here, with the reason; they give a note. A trailing * stands for any ending.</param>
/// <param name="Unsupported">Axolotl's keys that would change the run and cannot, with advice; an error unless blank or off. A trailing * likewise.</param>
sealed record KeyTable<T>(IReadOnlyList<ConfigKey<T>> Honoured, IReadOnlyDictionary<string, string> Ignored, IReadOnlyDictionary<string, string> Unsupported)
{
    /// <summary>Reads every key of <paramref name="map"/> into <paramref name="owner"/>; blank values count as not given.</summary>
    public T Read(YamlMap map, T owner, string prefix, ConfigFindings findings)
    {
        foreach (var (name, value) in map.Values)
        {
            string key = prefix + name;
            var at = value with { Line = map.Keys[name] };
            if (Honoured.FirstOrDefault(candidate => candidate.Name == name) is { } honoured)
            {
                if (!value.IsBlank)
                {
                    findings.Given.Add(key, at);
                    owner = honoured.Read(owner, at, key, findings);
                }
            }
            else if (Find(Ignored, name) is { } reason)
            {
                if (!value.IsBlank)
                {
                    findings.Notes.Add($"{key} is ignored: {reason}.");
                }
            }
            else if (Find(Unsupported, name) is { } advice)
            {
                if (!value.IsBlank && !IsOff(value))
                {
                    findings.Problem(at, key, $"Axolotl's `{name}` is not supported: {advice}.");
                }
            }
            else
            {
                string? near = Spelling.Nearest(name, Honoured.Select(candidate => candidate.Name)) ?? Spelling.Nearest(name, Others);
                string meant = near is null ? "Remove it." : $"Did you mean \"{near}\"?";
                findings.Problem(at, key, $"there is no such key. {meant}");
            }
        }

        return owner;
    }

    /// <summary>The keys that have a value, in the order of the table.</summary>
    public IReadOnlyList<KeyValuePair<string, object>> Write(T owner) =>
        [.. Honoured.Select(key => (key.Name, Value: key.Get(owner))).Where(pair => pair.Value is not null).Select(pair => KeyValuePair.Create(pair.Name, pair.Value!))];

    IEnumerable<string> Others => Ignored.Keys.Concat(Unsupported.Keys).Where(name => !name.EndsWith('*'));

    static string? Find(IReadOnlyDictionary<string, string> names, string name) => names.GetValueOrDefault(name)
        ?? names.FirstOrDefault(entry => entry.Key.EndsWith('*') && name.StartsWith(entry.Key[..^1], StringComparison.Ordinal)).Value;

    static bool IsOff(YamlValue value) => value is YamlScalar { Plain: true, Text: "false" or "False" or "FALSE" or "no" or "off" };
}
