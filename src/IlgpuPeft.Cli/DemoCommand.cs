using System.CommandLine;
using System.Diagnostics;
using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;
using IlgpuPeft.Kernels;
using IlgpuPeft.Training;

namespace IlgpuPeft.Cli;

/// <summary>Fine-tunes the built-in model and shows the same held-out prompts before and after.</summary>
static class DemoCommand
{
    const int Shown = 2; // prompts of each skill

    public static Command Create()
    {
        var output = new Option<string>("--out") { Description = "Receives model, data, adapter and report.", HelpName = "DIR", DefaultValueFactory = _ => "demo-output" };
        var device = Arguments.Device();
        var command = new Command("demo", "Fine-tune the built-in model with QLoRA, in under a minute, and compare before and after.") { output, device };
        command.SetAction((parse, cancel) => RunAsync(parse.GetRequiredValue(output), parse.GetRequiredValue(device), new Screen(parse.InvocationConfiguration), cancel));
        return command;
    }

    static async Task RunAsync(string folder, string device, Screen screen, CancellationToken cancel)
    {
        long started = Stopwatch.GetTimestamp();
        AtomicFile.RequireWritable(folder);
        var config = Demonstration.Prepare(folder, device);
        AtomicFile.WriteText(Path.Combine(folder, "own-model.yaml"), Demonstration.OwnModelYaml);
        using var run = SftRun.Open(config);
        var tokenizer = run.Data.Tokenizer!;
        Introduce(run, screen.Out);

        run.Adapter!.Disable();
        var before = Quiz.Take(run.Model, tokenizer, Instructions.HeldOut, cancel: cancel);
        run.Adapter.Enable();
        var result = await screen.FollowAsync(config.LoggingSteps, progress => run.RunAsync(progress, cancel: cancel));
        var after = Quiz.Take(run.Model, tokenizer, Instructions.HeldOut, cancel: cancel);

        Compare(before, after, screen);
        Summarise(run, result, Stopwatch.GetElapsedTime(started), folder, screen.Out);
    }

    static void Introduce(SftRun run, TextWriter output)
    {
        output.WriteLine($"""
            The built-in model has {run.Model.ParameterCount:N0} weights. It has read statements such as "the plural of cat is cats.",
            and no request in its life. QLoRA teaches it to answer {Instructions.Train.Count:N0} requests: its linear layers stay frozen
            in 4 bits, and {run.Weights.Parameters.Count:N0} new weights are trained. Then it is asked about words, sums and numbers
            that no training row asks about.

            """);
    }

    static void Compare(IReadOnlyList<Reply> before, IReadOnlyList<Reply> after, Screen screen)
    {
        var shown = before.Zip(after).GroupBy(pair => pair.First.Question.Skill).SelectMany(pairs => pairs.Take(Shown));
        screen.Out.WriteLine();
        screen.Table(["held-out prompt", "before", "after", ""], shown.Select(pair => (IReadOnlyList<string>)
            [pair.First.Question.Prompt.Split('\n')[0], Visible(pair.First.Text), Visible(pair.Second.Text), pair.Second.IsRight ? "right" : $"wrong: {pair.Second.Question.Answer}"]));
        screen.Out.WriteLine();
        var skills = after.GroupBy(reply => reply.Question.Skill).Select(replies => $"{replies.Key} {replies.Count(reply => reply.IsRight)}/{replies.Count()}");
        screen.Out.WriteLine($"exact matches over {before.Count} held-out prompts: {Quiz.Accuracy(before):0.0 %} before, {Quiz.Accuracy(after):0.0 %} after");
        screen.Out.WriteLine($"after, by skill: {string.Join(", ", skills)}");
    }

    static void Summarise(SftRun run, TrainingResult result, TimeSpan time, string folder, TextWriter output)
    {
        var (memory, trained) = (run.Model.Backend.Memory, run.Weights.Parameters.Count);
        string own = Path.Combine(folder, "own-model.yaml");
        output.WriteLine($"""
            trained: {trained:N0} of {run.Model.ParameterCount:N0} weights, {(double)trained / run.Model.ParameterCount:0.00 %}
            held-out loss: {result.Initial?.Loss:0.000} before, {result.Final?.Loss:0.000} after {result.Steps} steps
            memory: {memory}; at most {MemoryAccount.Format(memory.Peak)}
            time: {Screen.Duration(time)} on {run.Model.Backend.Name}
            adapter: {Path.Combine(folder, PeftFiles.WeightsName)} (PEFT format)
            report: {Path.Combine(folder, "report.html")}

            Ask it yourself:
              ilgpu-peft generate --model {Path.Combine(folder, "base")} --base nf4-double --adapter {folder} --prompt $'User: Give the plural of fox.\nAssistant: '
            The same with your own model: fill in the two paths in {own}, then
              ilgpu-peft train {own}
            """);
    }

    static string Visible(string text) => text.Replace("\n", "\\n", StringComparison.Ordinal);
}
