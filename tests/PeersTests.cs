using System.Diagnostics;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The script that times PyTorch beside the kernels, over a torch that only pretends.</summary>
public class PeersTests
{
    [Fact]
    public void Runs_takeTurnsFromCallToCall() => Python("""
        calls = []
        seconds = peers.timer([lambda: calls.append(0), lambda: calls.append(1), lambda: calls.append(2)])
        for repeats in (1, 1, 3):
            seconds(repeats)
        assert calls == [0, 1, 2, 0, 1], calls
        """);

    [Fact]
    public void Steps_withoutTheirLibraries_areLeftOut() => Assert.Contains("time_steps: left out, No module named 'peft'", Python("""
        import builtins
        real = builtins.__import__
        def without(name, *rest):
            if name == "peft":
                raise ModuleNotFoundError("No module named 'peft'")
            return real(name, *rest)
        builtins.__import__ = without
        peers.time_operations = lambda write: write(["row"])
        peers.main("operations.csv", "steps.csv")
        lines = open("operations.csv").read().split("\n")
        assert lines[0] == peers.OPERATIONS_HEADER and lines[1].endswith(",a GPU,row"), lines
        """), StringComparison.Ordinal);

    [Fact]
    public void Headers_areThoseOfTheBenchmarks() => Assert.All(["DeviceBenchmark", "DeviceStepBenchmark"], name =>
    {
        string folder = Path.Combine(TestAssets.Checkout(), "perf"), header = File.ReadAllText(Path.Combine(folder, $"{name}.cs")).Split("Append(csv, \"")[1].Split('"')[0];
        Assert.Contains($"= \"{header}\"", File.ReadAllText(Path.Combine(folder, "peers.py")), StringComparison.Ordinal);
    });

    static string Python(string program)
    {
        using var temp = new TempFolder();
        File.Copy(Path.Combine(TestAssets.Checkout(), "perf", "peers.py"), temp.File("peers.py"));
        Directory.CreateDirectory(temp.File("torch/nn"));
        File.WriteAllText(temp.File("torch/__init__.py"), "class cuda:\n    synchronize = staticmethod(lambda: None)\n    get_device_name = staticmethod(lambda: 'a GPU')\n");
        File.WriteAllText(temp.File("torch/nn/__init__.py"), "");
        File.WriteAllText(temp.File("torch/nn/functional.py"), "");
        File.WriteAllText(temp.File("run.py"), $"import peers\n{program}\n");
        var start = new ProcessStartInfo("python3", ["run.py"]) { WorkingDirectory = temp.Path, RedirectStandardOutput = true, RedirectStandardError = true };
        Process process;
        try
        {
            process = Process.Start(start)!;
        }
        catch (System.ComponentModel.Win32Exception)
        {
            Assert.Skip("needs python3");
            throw;
        }

        using (process)
        {
            var error = process.StandardError.ReadToEndAsync();
            string output = process.StandardOutput.ReadToEnd();
            process.WaitForExit();
            Assert.True(process.ExitCode == 0, error.GetAwaiter().GetResult());
            return output;
        }
    }
}
