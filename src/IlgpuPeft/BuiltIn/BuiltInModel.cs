using System.Reflection;
using IlgpuPeft.Checkpoints;

namespace IlgpuPeft.BuiltIn;

/// <summary>The small base model that is part of this assembly. <see cref="Pretraining"/> made it.</summary>
public static class BuiltInModel
{
    const string Prefix = "IlgpuPeft.BuiltIn.model/";

    static readonly Assembly Home = typeof(BuiltInModel).Assembly;

    /// <summary>Names of its files.</summary>
    public static IReadOnlyList<string> Files { get; } =
        [.. Home.GetManifestResourceNames().Where(name => name.StartsWith(Prefix, StringComparison.Ordinal)).Select(name => name[Prefix.Length..]).Order(StringComparer.Ordinal)];

    /// <summary>Writes the model as a Hugging Face folder.</summary>
    /// <param name="folder">Created if absent; files of the same names are replaced.</param>
    /// <exception cref="IOException">The folder cannot be written to.</exception>
    public static void Unpack(string folder)
    {
        foreach (string name in Files)
        {
            using var resource = Home.GetManifestResourceStream(Prefix + name)!;
            AtomicFile.Write(Path.Combine(folder, name), resource.CopyTo, resource.Length);
        }
    }
}
