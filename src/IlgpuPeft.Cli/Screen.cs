using System.CommandLine;
using System.Diagnostics;
using IlgpuPeft.Config;
using IlgpuPeft.Training;
using Spectre.Console;

namespace IlgpuPeft.Cli;

/// <summary>What a command shows: data on standard output, talk on standard error, and a progress bar where somebody watches.</summary>
sealed class Screen
{
    readonly TextWriter error;
    readonly bool watched;

    public Screen(InvocationConfiguration streams)
    {
        (Out, error) = (streams.Output, streams.Error);
        watched = ReferenceEquals(error, Console.Error) && !Console.IsErrorRedirected && Environment.GetEnvironmentVariable("TERM") != "dumb";
    }

    /// <summary>Receives data.</summary>
    public TextWriter Out { get; }

    /// <summary>Says a line to people.</summary>
    public void Say(string text) => error.WriteLine(text);

    /// <summary>Says something without ending the line, as a prompt.</summary>
    public void Ask(string text) => error.Write(text);

    /// <summary>Says what does not stop the command but may surprise.</summary>
    public void Warn(string text) => error.WriteLine($"note: {text}");

    /// <summary>Writes rows in columns. Columns whose cells all start with a digit are set flush right.</summary>
    public void Table(IReadOnlyList<string> headers, IEnumerable<IReadOnlyList<string>> rows)
    {
        List<IReadOnlyList<string>> body = [.. rows], all = [headers, .. body];
        int[] widths = [.. headers.Select((_, column) => all.Max(row => row[column].Length))];
        bool[] numbers = [.. headers.Select((_, column) => body.Count > 0 && body.All(row => row[column] is [>= '0' and <= '9', ..]))];
        foreach (var row in all)
        {
            Out.WriteLine(string.Join("  ", row.Select((cell, column) => numbers[column] ? cell.PadLeft(widths[column]) : cell.PadRight(widths[column]))).TrimEnd());
        }
    }

    /// <summary>Runs what a configuration describes, and shows its steps.</summary>
    public Task<TrainingResult> FollowAsync(TrainingRun run, string? resumeFrom = null, CancellationToken cancel = default) =>
        FollowAsync(run.Config.LoggingSteps, run.Headline, progress => run.RunAsync(progress, resumeFrom, cancel));

    /// <summary>Shows the steps of a run while it goes on: as a bar to a person, else a line every <paramref name="every"/> steps and for each validation.</summary>
    public async Task<TrainingResult> FollowAsync(int every, IReadOnlyList<string> headline, Func<IProgress<StepMetrics>, Task<TrainingResult>> run)
    {
        if (!watched)
        {
            var pace = new Pace();
            return await run(new ImmediateProgress<StepMetrics>(step =>
            {
                string left = pace.Left(step);
                if (step.Step % every == 0 || step.Step == step.TotalSteps || step.EvaluationLoss is not null)
                {
                    Say($"step {step.Step}/{step.TotalSteps}  {Describe(step, headline)}  {left} left");
                }
            }));
        }

        var console = AnsiConsole.Create(new AnsiConsoleSettings { Out = new AnsiConsoleOutput(error) });
        var progress = console.Progress().Columns(new ProgressBarColumn { Width = 20 }, new TaskDescriptionColumn { Alignment = Justify.Left });
        return await progress.StartAsync(async context =>
        {
            var task = context.AddTask("first step", maxValue: double.MaxValue);
            var pace = new Pace();
            double? evaluation = null;
            return await run(new ImmediateProgress<StepMetrics>(step =>
            {
                evaluation = step.EvaluationLoss ?? evaluation;
                task.MaxValue = step.TotalSteps;
                task.Value = step.Step;
                task.Description = Markup.Escape($"{step.Step}/{step.TotalSteps}  {Losses(step.Loss, evaluation)}{Measures(step, headline)}  {step.TokensPerSecond:N0} tok/s  {pace.Left(step)} left");
            }));
        });
    }

    /// <summary>A length of time as people say it.</summary>
    public static string Duration(TimeSpan time) => time.TotalHours >= 1 ? $"{(int)time.TotalHours}h{time.Minutes:00}m"
        : time.TotalMinutes >= 1 ? $"{time.Minutes}m{time.Seconds:00}s" : time.TotalSeconds >= 10 ? $"{time.TotalSeconds:0}s" : $"{time.TotalSeconds:0.0}s";

    static string Describe(StepMetrics step, IReadOnlyList<string> headline) =>
        $"{Losses(step.Loss, step.EvaluationLoss)}{Measures(step, headline)}  grad_norm {step.GradientNorm:0.000}  lr {step.LearningRate:0.00e+0}  {step.TokensPerSecond:N0} tokens/s";

    /// <summary>Some measures of a step, and what they were on rows set aside, as far as it has them; each after two blanks.</summary>
    public static string Measures(StepMetrics step, IReadOnlyList<string> headline) =>
        string.Concat(headline.Concat(headline.Select(name => "eval_" + name)).Where(name => step.Measures?.ContainsKey(name) == true).Select(name => $"  {name} {step[name]:0.000}"));

    static string Losses(double loss, double? evaluation) => $"loss {loss:0.0000}{(evaluation is { } measured ? $"  eval_loss {measured:0.0000}" : "")}";

    /// <summary>Estimates what is left from all steps since the first that it saw.</summary>
    sealed class Pace
    {
        readonly long started = Stopwatch.GetTimestamp();
        int first = -1;

        public string Left(StepMetrics step)
        {
            first = first < 0 ? step.Step - 1 : first;
            return Duration(Stopwatch.GetElapsedTime(started) / (step.Step - first) * (step.TotalSteps - step.Step));
        }
    }
}
