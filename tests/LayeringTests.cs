using System.Text.RegularExpressions;
using System.Xml.Linq;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The order of the project's parts, and the length of its files, as the sources themselves have them.</summary>
public partial class LayeringTests
{
    const int LongestFile = 600;

    // A file of one folder may use that folder and those before it.
    static readonly string[] Folders =
        ["Tensors", "Models", "Adapters", "Text", "Data", "Optim", "Losses", "Checkpoints", "Generation", "Planning", "Metrics", "Training", "Rewards", "Preferences", "Reinforcement", "Config", "BuiltIn"];

    // Which projects a project may refer to.
    static readonly Dictionary<string, string[]> References = new()
    {
        ["IlgpuPeft.Kernels"] = ["IlgpuPeft.PtxEmulator"],
        ["IlgpuPeft"] = ["IlgpuPeft.Kernels"],
        ["IlgpuPeft.Cli"] = ["IlgpuPeft"],
        ["IlgpuPeft.Examples"] = ["IlgpuPeft"],
        ["IlgpuPeft.PtxEmulator"] = [],
        ["IlgpuPeft.Tests"] = ["IlgpuPeft.Perf", "IlgpuPeft.Cli", "IlgpuPeft.Examples", "IlgpuPeft.PtxEmulator"],
        ["IlgpuPeft.Perf"] = ["IlgpuPeft", "IlgpuPeft.Kernels", "IlgpuPeft.PtxEmulator"],
    };

    static string Root => TestAssets.Checkout();

    static string Library => Path.Combine(Root, "src", "IlgpuPeft");

    [Fact]
    public void Library_everyFile_usesOnlyFoldersBeforeItsOwn()
    {
        Assert.Empty(Directory.EnumerateFiles(Library, "*.cs")); // every file lies in a folder
        List<string> found = [.. Directory.EnumerateDirectories(Library).Select(path => Path.GetFileName(path)).Where(name => name is not ("bin" or "obj"))];
        Assert.All(found, name => Assert.Contains(name, Folders));

        var violations = found.SelectMany(folder => Sources(Path.Combine(Library, folder)).SelectMany(file => BackwardUses(File.ReadAllLines(file), folder).Select(use => $"{Relative(file)}:{use}")));

        AssertNone(violations);
    }

    [Fact]
    public void Kernels_everyFile_usesNothingAboveIt()
    {
        var uses = Sources(Path.Combine(Root, "kernels")).SelectMany(file => File.ReadLines(file).Index()
            .Where(line => Uses(line.Item).Any(folder => folder is not ("Kernels" or "PtxEmulator"))).Select(line => $"{Relative(file)}:{line.Index + 1}: {line.Item.Trim()}"));

        AssertNone(uses);
    }

    [Fact]
    public void Projects_refer_oneWay()
    {
        List<string> projects = [.. Directory.EnumerateFiles(Root, "*.csproj", SearchOption.AllDirectories)];
        Assert.Equal(References.Keys.Order(), projects.Select(path => Path.GetFileNameWithoutExtension(path)!).Order());
        Assert.All(projects, path => Assert.All(
            XDocument.Load(path).Descendants("ProjectReference").Select(reference => Path.GetFileNameWithoutExtension(reference.Attribute("Include")!.Value.Replace('\\', '/'))),
            name => Assert.Contains(name, References[Path.GetFileNameWithoutExtension(path)])));
    }

    [Fact]
    public void Sources_everyFile_isShortEnoughToRead()
    {
        var sources = new[] { "kernels", "src", "tests", "perf" }.SelectMany(folder => Sources(Path.Combine(Root, folder)));
        List<(string File, int Lines)> files = [.. sources.Select(file => (Relative(file), File.ReadLines(file).Count()))];

        Assert.True(files.Count > 100, $"only {files.Count} sources found under {Root}");
        AssertNone(files.Where(file => file.Lines > LongestFile).Select(file => $"{file.File} has {file.Lines} lines, expected at most {LongestFile}"));
    }

    [Theory]
    [InlineData("using IlgpuPeft.Training;", "1: using IlgpuPeft.Training;")]
    [InlineData("using IlgpuPeft.Models;", null)]
    [InlineData("using IlgpuPeft.Kernels;", null)]
    [InlineData("using Pass = IlgpuPeft.Training.LanguageModelPass;", "1: using Pass = IlgpuPeft.Training.LanguageModelPass;")]
    [InlineData("\n    var x = new IlgpuPeft.Generation.Generator(model);", "2: var x = new IlgpuPeft.Generation.Generator(model);")]
    [InlineData("    Training.LanguageModelPass pass;", "1: Training.LanguageModelPass pass;")]
    [InlineData("    var x = options.Training.LanguageModelPass;", null)]
    [InlineData("    var x = Training.Steps;", null)]
    [InlineData("// as IlgpuPeft.Training does", null)]
    public void BackwardUses_ofALineInCheckpoints_areFound(string text, string? expected) =>
        Assert.Equal(expected is null ? [] : [expected], BackwardUses(text.Split('\n'), "Checkpoints"));

    static IEnumerable<string> BackwardUses(string[] lines, string folder)
    {
        int own = Array.IndexOf(Folders, folder);
        return lines.Index().Where(line => Uses(line.Item).Any(used => Array.IndexOf(Folders, used) > own)).Select(line => $"{line.Index + 1}: {line.Item.Trim()}");
    }

    // Folder names that a line of code uses as namespaces. Without the root before it, a name counts where a file of that folder's follows: Config.Layers is a property.
    static IEnumerable<string> Uses(string line)
    {
        string code = Comment().Replace(line, "");
        var whole = Qualified().Matches(code).Select(match => match.Groups[1].Value);
        var partial = Unqualified().Matches(code).Where(match => File.Exists(Path.Combine(Library, match.Groups[1].Value, match.Groups[2].Value + ".cs"))).Select(match => match.Groups[1].Value);
        return whole.Concat(partial);
    }

    static void AssertNone(IEnumerable<string> violations)
    {
        string list = string.Join('\n', violations);
        Assert.True(list.Length == 0, list);
    }

    static IEnumerable<string> Sources(string folder) => Directory.EnumerateFiles(folder, "*.cs", SearchOption.AllDirectories)
        .Where(path => !path.Contains($"{Path.DirectorySeparatorChar}obj{Path.DirectorySeparatorChar}", StringComparison.Ordinal)).Order(StringComparer.Ordinal);

    static string Relative(string file) => Path.GetRelativePath(Root, file);

    [GeneratedRegex("//.*")]
    private static partial Regex Comment();

    [GeneratedRegex(@"\bIlgpuPeft\.(\w+)")]
    private static partial Regex Qualified();

    [GeneratedRegex(@"(?<![\w.])([A-Z]\w+)\.([A-Z]\w+)")]
    private static partial Regex Unqualified();
}
