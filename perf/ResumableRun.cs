namespace IlgpuPeft.Perf;

/// <summary>
/// Operations that are looked at one after the other. A GPU refuses all further work of a process after a fault, so the first operation that fails ends the run; each is noted in a file before
/// it begins, and the same command in a new process goes on behind it, whatever became of the old one.
/// </summary>
/// <param name="file">The file of names, one a line; null where nobody goes on.</param>
sealed class ResumableRun(string? file)
{
    /// <summary>The exit code of a process that an operation ended, with others left.</summary>
    public const int Stopped = 3;

    readonly HashSet<string> begun = file is not null && File.Exists(file) ? [.. File.ReadAllLines(file)] : [];

    /// <summary>Those of a list that no process has begun.</summary>
    public List<T> Left<T>(IEnumerable<T> items, Func<T, string> name) => [.. items.Where(item => !begun.Contains(name(item)))];

    /// <summary>Runs an operation, and returns false after printing why it failed. The device is then not to be used again.</summary>
    public bool Try(string item, Action run)
    {
        if (file is not null)
        {
            File.AppendAllText(file, $"{item}\n");
        }

        try
        {
            run();
            return true;
        }
        catch (Exception error) // of the kernel, of the driver or of a check: what follows is the next operation's turn in any case
        {
            Console.WriteLine($"FAILED {item}: {error.Message}");
            Console.WriteLine(file is null ? "stopped here: a device does nothing more after a fault; with --progress FILE the same command would go on behind it" : "stopped here: the same command goes on behind it");
            return false;
        }
    }
}
