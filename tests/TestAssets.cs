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

    /// <summary>The root of the checkout, for tests that read the project's own files; skips the calling test where the tests run without one.</summary>
    public static string Checkout()
    {
        if (FindCheckout() is not { } root)
        {
            Assert.Skip("needs the checkout that the tests were built in, and runs outside of it");
            throw new InvalidOperationException("not reached: Skip throws");
        }

        return root;
    }

    static string? FindRoot()
    {
        string? beside = FindCheckout() is { } root ? System.IO.Path.GetFullPath(System.IO.Path.Combine(root, "..", "shared")) : null;
        return Directory.Exists(beside) ? beside : null;
    }

    // From the built program upwards: paths that the compiler noted are rewritten in a deterministic build.
    static string? FindCheckout()
    {
        string? folder = AppContext.BaseDirectory;
        while (folder is not null && !File.Exists(System.IO.Path.Combine(folder, "IlgpuPeft.sln")))
        {
            folder = System.IO.Path.GetDirectoryName(folder);
        }

        return folder;
    }
}
