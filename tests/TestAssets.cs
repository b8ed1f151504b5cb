using System.Runtime.CompilerServices;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Finds the folder of models, data and golden numbers that other people's code produced. It lies beside the checkout, not in it.</summary>
static class TestAssets
{
    static readonly string? Root = FindRoot();

    /// <summary>The full path of <paramref name="relative"/>, for example <c>assets/stories260k-hf</c>; skips the calling test where it is absent.</summary>
    public static string Path(string relative)
    {
        if (Root is null)
        {
            Assert.Skip($"needs ../shared/{relative} beside the checkout, and there is no such folder");
        }

        string path = System.IO.Path.Combine(Root, relative);
        if (!File.Exists(path) && !Directory.Exists(path))
        {
            Assert.Skip($"needs ../shared/{relative}, which is absent");
        }

        return path;
    }

    /// <summary>The root of the checkout, for tests that read the project's own files.</summary>
    public static string Checkout([CallerFilePath] string here = "") => System.IO.Path.GetFullPath(System.IO.Path.Combine(System.IO.Path.GetDirectoryName(here)!, ".."));

    static string? FindRoot()
    {
        string beside = System.IO.Path.GetFullPath(System.IO.Path.Combine(Checkout(), "..", "shared"));
        return Directory.Exists(beside) ? beside : null;
    }
}
