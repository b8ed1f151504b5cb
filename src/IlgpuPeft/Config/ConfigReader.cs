namespace IlgpuPeft.Config;

/// <summary>A configuration that can be run.</summary>
/// <param name="Config">The values, with defaults filled in and paths made absolute.</param>
/// <param name="Notes">Keys that were accepted but change nothing, each with the reason: one line each, to be shown to the user.</param>
public sealed record LoadedConfig(RunConfig Config, IReadOnlyList<string> Notes);

/// <summary>Reads a run's YAML file. Strict: a key that is not known, a value that cannot be, or keys that contradict each other are errors, all reported at once.</summary>
public static class ConfigReader
{
    const int MostBytes = 1 << 20;

    /// <summary>Reads a file and applies overrides.</summary>
    /// <param name="path">The YAML file. Relative paths in it, and in overrides, start at its folder.</param>
    /// <param name="overrides">
    /// Assignments <c>key=value</c> that replace what the file says. Inner values are named with dots, <c>datasets.0.path=x</c>; the value is YAML, so
    /// <c>lora_target_modules=[q_proj, v_proj]</c> is a list.
    /// </param>
    /// <exception cref="ConfigException">Holds every problem found. A file that cannot be opened is a problem too.</exception>
    public static LoadedConfig Read(string path, IEnumerable<string> overrides)
    {
        string folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
        var findings = new ConfigFindings(folder);
        var root = Root(path, findings.Problems);
        foreach (string assignment in overrides)
        {
            Override(root, assignment, findings.Problems);
        }

        var config = new RunConfig { OutputDir = Path.Combine(folder, "model-out") };
        config = RunKeys.Table.Read(root, config, "", findings);
        config = ConfigRules.Apply(config, path, findings);
        return findings.Problems.Count == 0
            ? new LoadedConfig(config, findings.Notes)
            : throw new ConfigException([.. findings.Problems.OrderBy(problem => problem.Line)]);
    }

    static YamlMap Root(string path, List<ConfigProblem> problems)
    {
        string text;
        try
        {
            long bytes = new FileInfo(path).Length;
            text = bytes <= MostBytes ? File.ReadAllText(path) : throw new IOException($"the file has {bytes} bytes, expected a configuration of at most {MostBytes}");
        }
        catch (Exception cause) when (cause is IOException or UnauthorizedAccessException)
        {
            throw new ConfigException([new ConfigProblem(path, 0, "", $"cannot be read: {cause.Message.TrimEnd('.')}. Give the path of a YAML file.")]);
        }

        var value = YamlTree.Parse(text, path, hasLines: true, problems);
        if (value is null && problems.Count > 0)
        {
            throw new ConfigException(problems);
        }

        return value switch
        {
            YamlMap map => map,
            null or YamlScalar { IsBlank: true } => new YamlMap(path, 1, [], []),
            _ => throw new ConfigException([new ConfigProblem(path, value.Line, "", $"expected keys and values such as \"base_model: models/tiny\", got {value.Shown}. Start each line with a key.")]),
        };
    }

    static void Override(YamlMap root, string assignment, List<ConfigProblem> problems)
    {
        string source = $"--set {assignment}";
        string[] parts = assignment.Split('=', 2);
        string[] names = parts[0].Trim().Split('.');
        if (parts.Length < 2 || names.Contains(""))
        {
            problems.Add(new ConfigProblem(source, 0, "", "expected key=value, such as lora_r=16 or datasets.0.path=data.jsonl."));
            return;
        }

        int before = problems.Count;
        var value = YamlTree.Parse(parts[1], source, hasLines: false, problems) ?? new YamlScalar(source, 0, "", Plain: true);
        if (problems.Count == before && !Assign(root, names, value))
        {
            problems.Add(new ConfigProblem(source, 0, parts[0].Trim(), "there is no such place in the configuration: a list's elements are numbered from 0, and a plain value has no parts."));
        }
    }

    static bool Assign(YamlValue target, ReadOnlySpan<string> names, YamlValue value)
    {
        string name = names[0];
        if (target is YamlMap map)
        {
            if (names.Length > 1 && map.Values.TryGetValue(name, out var inner) && !inner.IsBlank)
            {
                return Assign(inner, names[1..], value);
            }

            map.Keys[name] = value.Line;
            map.Values[name] = names.Length == 1 ? value : Build(names[1..], value);
            return true;
        }

        if (target is not YamlList list || !int.TryParse(name, out int index) || index < 0 || index > list.Items.Count)
        {
            return false;
        }

        if (names.Length > 1 && index < list.Items.Count)
        {
            return Assign(list.Items[index], names[1..], value);
        }

        var item = names.Length == 1 ? value : Build(names[1..], value);
        if (index == list.Items.Count)
        {
            list.Items.Add(item);
        }
        else
        {
            list.Items[index] = item;
        }

        return true;
    }

    // The groups and lists around a value that the file does not have: "0" starts a list.
    static YamlValue Build(ReadOnlySpan<string> names, YamlValue value)
    {
        var inner = names.Length == 1 ? value : Build(names[1..], value);
        return names[0] == "0"
            ? new YamlList(value.File, value.Line, [inner])
            : new YamlMap(value.File, value.Line, new() { [names[0]] = inner }, new() { [names[0]] = value.Line });
    }
}
