namespace IlgpuPeft.Checkpoints;

/// <summary>Whether two paths lead to one folder.</summary>
static class FolderPath
{
    const int MostLinks = 40; // as many as Linux follows in one path; a path with more, such as a circle, leads nowhere

    static readonly StringComparison Comparison =
        OperatingSystem.IsWindows() || OperatingSystem.IsMacOS() ? StringComparison.OrdinalIgnoreCase : StringComparison.Ordinal; // as the file system usually compares

    /// <summary>Whether two paths lead to one folder, through links in any part of them. Neither needs to exist.</summary>
    public static bool AreSame(string first, string second) => Resolve(first).Equals(Resolve(second), Comparison);

    static string Resolve(string path)
    {
        string full = Path.GetFullPath(path), resolved = Path.GetPathRoot(full)!;
        Stack<string> parts = new(Parts(full[resolved.Length..]).Reverse());
        for (int links = 0; parts.TryPop(out string? part);)
        {
            string next = Path.GetFullPath(part, resolved); // the target of a link may begin at the root, or go up
            if (part == ".." || links == MostLinks || new DirectoryInfo(next).LinkTarget is not { } target)
            {
                resolved = next;
                continue;
            }

            links++;
            resolved = Path.IsPathRooted(target) ? Path.GetPathRoot(Path.GetFullPath(target, resolved))! : resolved;
            foreach (string inner in Parts(target[(Path.GetPathRoot(target)?.Length ?? 0)..]).Reverse())
            {
                parts.Push(inner);
            }
        }

        return Path.TrimEndingDirectorySeparator(resolved);
    }

    static string[] Parts(string path) => path.Split([Path.DirectorySeparatorChar, Path.AltDirectorySeparatorChar], StringSplitOptions.RemoveEmptyEntries);
}
