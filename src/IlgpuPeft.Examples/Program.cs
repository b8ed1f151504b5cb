namespace IlgpuPeft.Examples;

static class Program
{
    static readonly (string Name, string What, Func<Workspace, CancellationToken, Task> RunAsync)[] Examples =
    [
        ("supervised", "fine-tune the 4-bit base on questions and answers", SupervisedExample.RunAsync),
        ("reward", "train a reward model on pairs of answers, and score with it", RewardModelExample.RunAsync),
        ("ppo", "train a policy on a reward model and a C# function", PpoExample.RunAsync),
        ("dpo", "train on pairs of answers directly", DpoExample.RunAsync),
        ("kto", "train on answers that somebody liked or did not", KtoExample.RunAsync),
        ("orpo", "train on pairs of answers from the base on, in one stage and without a reference", OrpoExample.RunAsync),
        ("grpo", "train a policy on a reward that a C# function computes", GrpoExample.RunAsync),
        ("generate", "stream one answer, and generate many at once, with an adapter and without", GenerateExample.RunAsync),
    ];

    static async Task<int> Main(string[] args)
    {
        using var cancel = new CancellationTokenSource();
        Console.CancelKeyPress += (_, press) =>
        {
            press.Cancel = !cancel.IsCancellationRequested; // the second Ctrl-C ends the process at once
            cancel.Cancel();
        };
        return await RunAsync(args, Console.Out, cancel.Token);
    }

    internal static async Task<int> RunAsync(string[] args, TextWriter output, CancellationToken cancel)
    {
        var example = Examples.FirstOrDefault(example => args.Length is 1 or 2 && example.Name == args[0]);
        if (example.RunAsync is null)
        {
            output.WriteLine("usage: examples NAME [FOLDER]   FOLDER (examples-output) receives models and adapters; later examples go on from those of earlier ones");
            foreach (var (name, what, _) in Examples)
            {
                output.WriteLine($"  {name,-11} {what}");
            }

            return args.Length == 0 ? 0 : 1;
        }

        try
        {
            using var work = new Workspace(args.ElementAtOrDefault(1) ?? "examples-output", output);
            await example.RunAsync(work, cancel);
            return 0;
        }
        catch (OperationCanceledException cancelled)
        {
            output.WriteLine(cancelled.Message);
            return 130;
        }
    }
}
