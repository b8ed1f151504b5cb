using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text.Json;
using IlgpuPeft.Cli;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What one command line did.</summary>
sealed record ToolRun(int Code, string Out, string Error)
{
    /// <summary>Standard output as the one JSON object that it must be.</summary>
    public JsonElement Json => JsonElement.Parse(Out);

    public ToolRun Succeeds()
    {
        Assert.True(Code == 0, $"exit code {Code}: {Error}");
        return this;
    }

    public ToolRun Fails(int code, string message)
    {
        Assert.Contains(message, Error, StringComparison.Ordinal);
        Assert.DoesNotContain("unexpected", Error, StringComparison.Ordinal);
        Assert.StartsWith("error: ", Error.Split('\n').First(line => line.StartsWith("error", StringComparison.Ordinal)), StringComparison.Ordinal);
        Assert.Equal("", Out);
        Assert.Equal(code, Code);
        return this;
    }
}

/// <summary>Runs the tool in this process, with its standard output and error captured.</summary>
static partial class Tool
{
    public static async Task<ToolRun> RunAsync(params string[] args)
    {
        using StringWriter output = new(), error = new();
        int code = await Program.RunAsync(args, output, error, TestContext.Current.CancellationToken);
        return new ToolRun(code, output.ToString(), error.ToString());
    }

    /// <summary>Asks a process to stop.</summary>
    public static void Stop(Process process) => Assert.Equal(0, Kill(process.Id, Terminate));

    const int Terminate = 15; // handled as an interrupt is, which a shell has its background processes, and so perhaps these tests, ignore

    [LibraryImport("libc", EntryPoint = "kill")]
    private static partial int Kill(int process, int signal);

    /// <summary>The tool's own executable, for tests of signals and standard input; skips where it was not built.</summary>
    public static string Executable()
    {
        string path = Path.Combine(AppContext.BaseDirectory, OperatingSystem.IsWindows() ? "ilgpu-peft.exe" : "ilgpu-peft");
        Assert.SkipUnless(File.Exists(path), $"needs the tool's executable at {path}");
        return path;
    }
}
