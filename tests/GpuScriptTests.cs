using System.Diagnostics;
using System.Reflection;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The script that runs once on a borrowed GPU leaves out no test that would run there, and loses nothing to a kernel that takes its process along.</summary>
public class GpuScriptTests
{
    static string Script => Path.Combine(TestAssets.Checkout(), "perf", "run-on-gpu.sh");

    [Fact]
    public void Classes_ofTheScript_areThoseWithRowsForEveryDevice()
    {
        string[] listed = File.ReadAllText(Script).Split("classes=(")[1].Split(')')[0].Split((char[])[' ', '\n', '\\'], StringSplitOptions.RemoveEmptyEntries);

        Assert.Equal(ClassesOnDevices().Order(StringComparer.Ordinal), listed.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Script_goesOnBehindFaults_withEachClassInAProcessOfItsOwn()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/env") && !OperatingSystem.IsWindows(), "needs a shell");
        using var temp = new TempFolder();
        File.Copy(Script, temp.File("run-on-gpu.sh"));
        File.WriteAllText(temp.File("commit"), "abc");

        // kernels and outputs: three operations, of which the second takes the process along, the third is wrong.
        Stub(temp, "perf", """
            echo "perf $* blocking=${CUDA_LAUNCH_BLOCKING-no}" >> "$calls"
            while [ $# -gt 1 ]; do [ "$1" = --progress ] && progress=$2; shift; done
            [ -n "${progress-}" ] || exit 0
            for item in one two three; do
              grep -qx $item "$progress" 2> /dev/null && continue
              echo $item >> "$progress"
              echo "row $item"
              [ $item = two ] && kill -9 $$
            done
            exit 0
            """);
        Stub(temp, "ilgpu-peft", "echo 'emulator yes'");
        Stub(temp, "IlgpuPeft.Tests", """
            echo "tests $* blocking=${CUDA_LAUNCH_BLOCKING-no}" >> "$calls"
            case "$*" in *.OpTests*) exit 3 ;; esac
            """);

        var (code, output) = Run(temp, "results", "kernels", "device", "tests");

        string[] calls = File.ReadAllLines(temp.File("calls"));
        Assert.Equal(1, code);
        Assert.Equal(2, calls.Count(call => call.StartsWith("perf kernels ", StringComparison.Ordinal)));
        Assert.All(calls.Where(call => !call.StartsWith("perf device ", StringComparison.Ordinal)), call => Assert.EndsWith("blocking=1", call, StringComparison.Ordinal));
        Assert.All(calls.Where(call => call.StartsWith("perf device ", StringComparison.Ordinal)), call => Assert.EndsWith("blocking=no", call, StringComparison.Ordinal));
        Assert.Equal(["row one", "row two", "row three"], File.ReadAllLines(temp.File("results/kernels.log")).Where(line => line.StartsWith("row", StringComparison.Ordinal)));
        Assert.Contains("ended in: two", File.ReadAllText(temp.File("results/kernels.log")), StringComparison.Ordinal);
        Assert.Equal(ClassesOnDevices().Count(), calls.Count(call => call.StartsWith("tests -class IlgpuPeft.Tests.", StringComparison.Ordinal)));

        string[] summary = File.ReadAllLines(temp.File("results/summary.txt"));
        Assert.Contains(summary, line => line.StartsWith("FAILED kernels", StringComparison.Ordinal));
        Assert.Contains(summary, line => line.StartsWith("FAILED tests-OpTests", StringComparison.Ordinal));
        Assert.Contains(summary, line => line.StartsWith("ok     tests-CopyTests", StringComparison.Ordinal));
        Assert.Contains("failed: 3 (kernels device tests-OpTests)", output, StringComparison.Ordinal);
    }

    [Fact]
    public void Script_withAnUnknownPart_namesThoseThereAre()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/env") && !OperatingSystem.IsWindows(), "needs a shell");
        using var temp = new TempFolder();
        File.Copy(Script, temp.File("run-on-gpu.sh"));

        var (code, output) = Run(temp, "results", "kernel");

        Assert.Equal(1, code);
        Assert.Contains("expected parts out of kernels outputs tests device steps ppo peers, got 'kernel'", output, StringComparison.Ordinal);
    }

    static void Stub(TempFolder temp, string name, string body)
    {
        File.WriteAllText(temp.File(name), $"#!/usr/bin/env bash\ncalls={temp.File("calls")}\n{body}\n");
        if (!OperatingSystem.IsWindows())
        {
            File.SetUnixFileMode(temp.File(name), UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
    }

    static (int Code, string Output) Run(TempFolder temp, string results, params string[] parts)
    {
        var start = new ProcessStartInfo("bash", [temp.File("run-on-gpu.sh"), temp.File(results), .. parts]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["DEVICE"] = "emulator";
        start.Environment.Remove("CUDA_LAUNCH_BLOCKING");
        using var process = Process.Start(start)!;
        var error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output + error.GetAwaiter().GetResult());
    }

    /// <summary>Classes of tests whose code asks for the devices that this machine has: by themselves, or for the rows of a theory.</summary>
    static IEnumerable<string> ClassesOnDevices() => typeof(GpuScriptTests).Assembly.GetTypes()
        .Where(type => type.GetMethods().Any(method => method.IsDefined(typeof(FactAttribute))))
        .Where(type => IlReferences.Of(type).Any(reference => NamesDevices(reference.Method)) || type.GetMethods().SelectMany(method => method.GetCustomAttributes<MemberDataAttribute>()).Any(
            data => data.MemberType?.GetProperty(data.MemberName)?.GetMethod is { } rows && (NamesDevices(rows) || IlReferences.Of(rows).Any(reference => NamesDevices(reference.Method)))))
        .Select(type => type.Name);

    static bool NamesDevices(MethodBase method) => method.DeclaringType == typeof(Oracle) && method.Name is "get_Devices" or "get_MatrixDevices"
        || method.DeclaringType == typeof(TestDevices) && method.Name.StartsWith("get_", StringComparison.Ordinal);
}
