using System.CommandLine;
using System.Diagnostics;
using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Text;

namespace IlgpuPeft.Cli;

/// <summary>Makes the built-in model anew.</summary>
static class PretrainCommand
{
    const int LogEvery = 20, PerSkill = 50;

    public static Command Create()
    {
        var output = Arguments.Folder("--out", "Receives the model.");
        var steps = Arguments.Whole("--steps", Pretraining.DefaultSteps, 1, "Optimizer steps.");
        var seed = Arguments.Whole("--seed", 1, 0, "Of corpus, initial weights and order.");
        var device = Arguments.Device();
        var command = new Command("pretrain", "Train the built-in base model from nothing, on text that this program writes itself.") { output, steps, seed, device };
        command.SetAction((parse, cancel) => RunAsync(
            parse.GetRequiredValue(output), parse.GetValue(steps), (ulong)parse.GetValue(seed), parse.GetRequiredValue(device), new Screen(parse.InvocationConfiguration), cancel));
        return command;
    }

    static async Task RunAsync(string folder, int steps, ulong seed, string device, Screen screen, CancellationToken cancel)
    {
        long started = Stopwatch.GetTimestamp();
        AtomicFile.RequireWritable(folder);
        using var backend = Device.Open(device, notice: screen.Warn);
        var result = await screen.FollowAsync(LogEvery, [], progress => Pretraining.RunAsync(folder, backend, steps, seed, progress, cancel));
        screen.Out.WriteLine($"{folder}: loss {result.Last!.Loss:0.000} after {result.Steps} steps and {Screen.Duration(Stopwatch.GetElapsedTime(started))}");

        using var model = PretrainedModel.Load(folder, backend);
        var tokenizer = Tokenizer.Load(folder);
        screen.Table(["skill", "right", "of"],
        [
            .. Rows(Quiz.Take(model, tokenizer, Corpus.Openings(PerSkill), end: ".", cancel), ""),
            .. Rows(Quiz.Take(model, tokenizer, Corpus.InventedOpenings(seed + 1, PerSkill), end: ".", cancel), " of made-up words"),
        ]);
    }

    static IEnumerable<IReadOnlyList<string>> Rows(IReadOnlyList<Reply> replies, string what) => replies.GroupBy(reply => reply.Question.Skill)
        .Select(skill => (IReadOnlyList<string>)[skill.Key + what, $"{skill.Count(reply => reply.IsRight)}", $"{skill.Count()}"]);
}
