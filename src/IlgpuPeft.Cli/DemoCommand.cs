using System.CommandLine;
using System.Diagnostics;
using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;
using IlgpuPeft.Metrics;
using IlgpuPeft.Training;

namespace IlgpuPeft.Cli;

/// <summary>Takes the built-in model from supervised fine-tuning through a reward model to PPO, and shows the same held-out prompts to base, supervised and PPO model.</summary>
static class DemoCommand
{
    const int Shown = 2; // prompts of each skill

    public static Command Create()
    {
        var output = new Option<string>("--out") { Description = "Receives model, data, adapters and reports.", HelpName = "DIR", DefaultValueFactory = _ => "demo-output" };
        var device = Arguments.Device();
        var command = new Command("demo", "Take the built-in model through SFT, a reward model and PPO in about a minute, and compare.") { output, device };
        command.SetAction((parse, cancel) => RunAsync(parse.GetRequiredValue(output), parse.GetRequiredValue(device), new Screen(parse.InvocationConfiguration), cancel));
        return command;
    }

    static async Task RunAsync(string folder, string device, Screen screen, CancellationToken cancel)
    {
        long started = Stopwatch.GetTimestamp();
        AtomicFile.RequireWritable(folder);
        var demonstration = Demonstration.Prepare(folder, device);
        AtomicFile.WriteText(Path.Combine(folder, "own-model.yaml"), Demonstration.OwnModelYaml);

        IReadOnlyList<Reply> untaught, taught, pleasing;
        TrainingResult result;
        using (var run = SftRun.Open(demonstration.Supervised, cancel: cancel))
        {
            Introduce(run, screen.Out);
            run.Adapter!.Disable();
            untaught = Ask(run, cancel);
            run.Adapter.Enable();
            result = await screen.FollowAsync(run, cancel: cancel);
            taught = Ask(run, cancel);
            screen.Out.WriteLine($"""
                1. Supervised fine-tuning: {run.Weights.Parameters.Count:N0} of {run.Model.ParameterCount:N0} weights, {(double)run.Weights.Parameters.Count / run.Model.ParameterCount:0.00 %}, held-out loss {result.Initial!.Loss:0.000} before, {result.Final!.Loss:0.000} after {result.Steps} steps
                """);
        }

        using (var run = RewardRun.Open(demonstration.RewardModel, cancel: cancel))
        {
            result = await screen.FollowAsync(run, cancel: cancel);
            screen.Out.WriteLine($"""
                2. Reward model of {run.Rows.Train} preferences: prefers the friendly answer in {result.Final!.Measures!["accuracy"]:0.0 %} of {run.Rows.Validation} held-out pairs (before training {result.Initial!.Measures!["accuracy"]:0.0 %})
                """);
        }

        using (var run = PpoRun.Open(demonstration.Policy, cancel: cancel))
        {
            result = await screen.FollowAsync(run, cancel: cancel);
            pleasing = Ask(run, cancel);
            var rows = MetricsFile.Read(run.Folder.MetricsPath);
            screen.Out.WriteLine($"""
                3. PPO: mean reward {rows[0]["objective/scores"]:0.00} in the first update, {rows[^1]["objective/scores"]:0.00} in the last, {rows[^1]["objective/kl"]:0.00} nats an answer away from the supervised model
                   memory of policy, reference, reward and value model: {run.Model.Backend.Memory}
                """);
        }

        var table = Compare(untaught, taught, pleasing, screen);
        WriteReport(folder, table, demonstration.Policy);
        Farewell(folder, Stopwatch.GetElapsedTime(started), screen.Out);
    }

    static IReadOnlyList<Reply> Ask(TrainingRun run, CancellationToken cancel) => Quiz.Take(run.Model, run.Tokenizer!, Instructions.HeldOut, cancel: cancel);

    static void Introduce(SftRun run, TextWriter output) => output.WriteLine($"""
        The built-in model has {run.Model.ParameterCount:N0} weights. It has read statements such as "the plural of cat is cats.",
        and no request in its life. QLoRA teaches it to answer {Instructions.Train.Count:N0} requests: its linear layers stay frozen in 4 bits, and a
        few new weights are trained. A reward model then learns from pairs which answers people preferred: the friendly ones, of which
        there are a quarter. PPO trains the policy to please it. All three are adapters over the one frozen model.

        """);

    static string[] Compare(IReadOnlyList<Reply> untaught, IReadOnlyList<Reply> taught, IReadOnlyList<Reply> pleasing, Screen screen)
    {
        var shown = Enumerable.Range(0, taught.Count).GroupBy(i => taught[i].Question.Skill).SelectMany(indices => indices.Take(Shown));
        string[] totals =
        [
            $"right over {taught.Count} held-out prompts: base {Quiz.Accuracy(untaught):0.0 %}, SFT {Quiz.Accuracy(taught):0.0 %}, PPO {Quiz.Accuracy(pleasing):0.0 %}",
            $"friendly: base {Friendly(untaught):0.0 %}, SFT {Friendly(taught):0.0 %}, PPO {Friendly(pleasing):0.0 %}",
        ];
        screen.Out.WriteLine();
        screen.Table(["held-out prompt", "base", "SFT", "PPO", ""], shown.Select(i => (IReadOnlyList<string>)
            [taught[i].Question.Prompt.Split('\n')[0], Visible(untaught[i].Text), Visible(taught[i].Text), Visible(pleasing[i].Text), pleasing[i].IsRight ? "right" : $"wrong: {pleasing[i].Question.Answer}"]));
        screen.Out.WriteLine();
        foreach (string total in totals)
        {
            screen.Out.WriteLine(total);
        }

        return totals;
    }

    static double Friendly(IReadOnlyList<Reply> replies) => (double)replies.Count(reply => reply.IsFriendly) / replies.Count;

    static void WriteReport(string folder, string[] totals, RunConfig policy)
    {
        var rows = MetricsFile.Read(new RunFolder(policy.OutputDir).MetricsPath);
        var report = new Report("From a base model to a policy that pleases a judge");
        report.AddText("Held-out prompts", string.Join('\n', totals));
        report.AddPlot(Plot.Svg("PPO: reward", "update", "score per answer", [MetricsFile.Series(rows, "objective/scores", "mean score")]));
        report.AddPlot(Plot.Svg("PPO: divergence from the supervised model", "update", "nats per answer", [MetricsFile.Series(rows, "objective/kl", "divergence")]));
        report.AddText("The runs", "sft/report.html, reward/report.html and ppo/report.html, beside this file, are the reports of the three runs.");
        report.Write(Path.Combine(folder, "report.html"));
    }

    static void Farewell(string folder, TimeSpan time, TextWriter output)
    {
        string own = Path.Combine(folder, "own-model.yaml");
        output.WriteLine($"""
            time: {Screen.Duration(time)}
            adapters: {folder}/sft, {folder}/reward, {folder}/ppo (PEFT format); reports: report.html there and in {folder}
            configurations: {folder}/sft.yaml, reward.yaml, ppo.yaml

            Ask it yourself:
              ilgpu-peft generate --model {Path.Combine(folder, "base")} --base nf4-double --adapter {Path.Combine(folder, "ppo")} --prompt $'User: Give the plural of fox.\nAssistant: '
            The same with your own model: fill in the two paths in {own}, then
              ilgpu-peft train {own}
            """);
    }

    static string Visible(string text) => text.Replace("\n", "\\n", StringComparison.Ordinal);
}
