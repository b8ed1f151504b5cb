namespace IlgpuPeft.Config;

/// <summary>One mistake in a configuration.</summary>
/// <param name="File">The YAML file, or the <c>--set</c> override that the value came from.</param>
/// <param name="Line">Line in the file, from 1; 0 where there is none.</param>
/// <param name="Key">The key with its path, such as <c>datasets.0.type</c>; empty where the problem is not one key's.</param>
/// <param name="Message">What was expected, what was found, and what to do.</param>
public sealed record ConfigProblem(string File, int Line, string Key, string Message)
{
    /// <summary><c>file:line: key: message</c>.</summary>
    public override string ToString() => (Line > 0 ? $"{File}:{Line}: " : $"{File}: ") + (Key.Length > 0 ? $"{Key}: {Message}" : Message);
}

/// <summary>A configuration that cannot be run. Holds every problem found, and its message prints them all, one a line.</summary>
public sealed class ConfigException : Exception
{
    /// <summary>Creates the exception from at least one problem.</summary>
    public ConfigException(IReadOnlyList<ConfigProblem> problems) : base(string.Join('\n', problems)) => Problems = problems;

    /// <summary>The problems, in the order of their lines.</summary>
    public IReadOnlyList<ConfigProblem> Problems { get; }
}
