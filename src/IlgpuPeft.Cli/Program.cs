using System.CommandLine;
using System.CommandLine.Invocation;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;
using IlgpuPeft.Kernels;
using IlgpuPeft.Training;

namespace IlgpuPeft.Cli;

/// <summary>The tool <c>ilgpu-peft</c>: its commands, and the one place where exceptions become exit codes.</summary>
static class Program
{
    const int Done = 0, Usage = 1, Failed = 2, Cancelled = 130;

    static async Task<int> Main(string[] args)
    {
        using var cancel = new CancellationTokenSource();
        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, Stop);
        using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, Stop);
        return await RunAsync(args, Console.Out, Console.Error, cancel.Token);

        // The first signal lets the work under way end in order; a second one ends the process at once.
        void Stop(PosixSignalContext signal)
        {
            signal.Cancel = !cancel.IsCancellationRequested;
            if (signal.Cancel)
            {
                Console.Error.WriteLine("stopping; once more stops at once");
                cancel.Cancel();
            }
        }
    }

    /// <summary>Runs one command line. Data goes to <paramref name="output"/>, everything said to people to <paramref name="error"/>.</summary>
    internal static async Task<int> RunAsync(string[] args, TextWriter output, TextWriter error, CancellationToken cancel = default)
    {
        var parse = Commands().Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null }); // a prompt may begin with @
        if (parse.Action is ParseErrorAction mistake)
        {
            mistake.ShowHelp = args.Length == 0;
            var said = new StringWriter();
            parse.Invoke(new InvocationConfiguration { Output = said, Error = said });
            error.WriteLine($"error: {string.Join(Environment.NewLine, said.ToString().Split(Environment.NewLine, StringSplitOptions.RemoveEmptyEntries))}");
            return Usage;
        }

        try
        {
            // Exceptions and signals are handled here, not by the parser.
            var streams = new InvocationConfiguration { Output = output, Error = error, EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null };
            await parse.InvokeAsync(streams, cancel);
            return Done;
        }
        catch (Exception cause)
        {
            var (code, message) = Explain(cause);
            error.WriteLine(message);
            return code;
        }
    }

    static RootCommand Commands() => new("Fine-tunes Hugging Face language models with low-rank adapters over frozen 4-bit weights.")
    {
        DemoCommand.Create(),
        TrainCommand.Create(),
        PreprocessCommand.Create(),
        GenerateCommand.Create(),
        ChatCommand.Create(),
        ScoreCommand.Create(),
        EvaluateCommand.Create(),
        MergeCommand.Create(),
        QuantizeCommand.Create(),
        InspectCommand.Create(),
        DevicesCommand.Create(),
        LadderCommand.Create(),
        PretrainCommand.Create(),
    };

    // What this project throws says what to do, and needs no stack; what the runtime throws at us is a defect, and needs one.
    internal static (int Code, string Message) Explain(Exception cause) => cause switch
    {
        OperationCanceledException => (Cancelled, "cancelled"),
        ConfigException config => (Usage, string.Join(Environment.NewLine, config.Problems.Select(problem => $"error: {problem}"))),
        ArgumentException caller when IsOurs(cause) => (Usage, $"error: {WithoutParameter(caller)}"),
        CheckpointException or RewardException or DeviceMemoryException or KernelException or InvalidDataException or IOException or UnauthorizedAccessException
            or RegexMatchTimeoutException => (Failed, $"error: {cause.Message}"),
        InvalidOperationException or NotSupportedException when IsOurs(cause) => (Failed, $"error: {cause.Message}"),
        _ => (Failed, $"error: unexpected {cause}"),
    };

    static bool IsOurs(Exception cause) => cause.Source is "IlgpuPeft" or "IlgpuPeft.Kernels" or "ilgpu-peft";

    static string WithoutParameter(ArgumentException cause) =>
        cause.ParamName is { } name ? cause.Message.Replace($" (Parameter '{name}')", "", StringComparison.Ordinal).Split('\n')[0].TrimEnd() : cause.Message;
}
