using System.Diagnostics;
using IlgpuPeft.Cli;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>A signal ends every command, with exit code 130 and nothing half done.</summary>
public sealed class CliCancelTests : IDisposable
{
    readonly TempFolder temp = new();
    readonly TinyRun tiny = new();

    public void Dispose()
    {
        temp.Dispose();
        tiny.Dispose();
    }

    [Theory]
    [InlineData("preprocess")]
    [InlineData("train")]
    public async Task Signal_before_the_data_is_read_ends_the_command_before_it_is(string command)
    {
        using var signal = new CancellationTokenSource();
        using StringWriter output = new(), error = new SignallingWriter("bf16 is ignored", signal);
        File.AppendAllText(tiny.Config, "\nbf16: auto");
        Assert.Equal(130, await Program.RunAsync([command, tiny.Config], output, error, signal.Token));
        Assert.Equal("", output.ToString());
        Assert.DoesNotContain("data: ", error.ToString(), StringComparison.Ordinal);
        Assert.EndsWith("cancelled" + Environment.NewLine, error.ToString(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("merge", "--adapter", "{adapter}", "--out", "{out}")]
    [InlineData("quantize", "--out", "{out}")]
    [InlineData("inspect")]
    [InlineData("ladder", "--size", "64")]
    [InlineData("evaluate", "--data", "{rows}")]
    [InlineData("score", "--data", "{rows}")]
    [InlineData("generate", "--tokens", "1")]
    public async Task Signal_ends_a_command_that_works_without_asking(string command, params string[] options)
    {
        string[] model = command switch { "inspect" => [tiny.Model], "ladder" => [], _ => ["--model", tiny.Model] };
        var places = new Dictionary<string, string> { ["{adapter}"] = tiny.Adapter, ["{rows}"] = tiny.Rows, ["{out}"] = temp.File("out") };
        using var signal = new CancellationTokenSource();
        using StringWriter output = new(), error = new();
        signal.Cancel();
        Assert.Equal(130, await Program.RunAsync([command, .. model, .. options.Select(option => places.GetValueOrDefault(option, option))], output, error, signal.Token));
        Assert.Equal("", output.ToString().Trim());
        Assert.Empty(Directory.EnumerateFiles(temp.Path, "*", SearchOption.AllDirectories));
    }

    [Fact]
    public async Task Signal_ends_a_chat_that_waits_for_a_line()
    {
        Assert.SkipWhen(OperatingSystem.IsWindows(), "sends a Unix signal");
        var start = new ProcessStartInfo(Tool.Executable(), ["chat", "--model", TestAssets.Path("assets/stories260k-hf")])
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true,
        };
        using var chat = Process.Start(start)!;
        try
        {
            using var patience = CancellationTokenSource.CreateLinkedTokenSource(TestContext.Current.CancellationToken);
            patience.CancelAfter(TimeSpan.FromMinutes(2));
            string said = "";
            char[] next = new char[1];
            while (!said.EndsWith("\n> ", StringComparison.Ordinal) && await chat.StandardError.ReadAsync(next, patience.Token) > 0)
            {
                said += next[0];
            }

            Tool.Stop(chat);
            await chat.WaitForExitAsync(patience.Token);
            Assert.Equal(130, chat.ExitCode);
        }
        finally
        {
            chat.Kill();
        }
    }

    /// <summary>Gives a signal when a line with some words is written.</summary>
    sealed class SignallingWriter(string words, CancellationTokenSource signal) : StringWriter
    {
        public override void WriteLine(string? value)
        {
            base.WriteLine(value);
            if (value!.Contains(words, StringComparison.Ordinal))
            {
                signal.Cancel();
            }
        }
    }
}
