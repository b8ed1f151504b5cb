using System.CommandLine;
using System.Diagnostics;
using IlgpuPeft.BuiltIn;
using IlgpuPeft.Kernels;
using IlgpuPeft.Training;

namespace IlgpuPeft.Cli;

/// <summary><c>ilgpu-peft pretrain</c>: makes the built-in base model anew.</summary>
static class PretrainCommand
{
    public static Command Create()
    {
        var output = new Option<string>("--out") { Description = "Where the model goes.", Required = true };
        var steps = new Option<int>("--steps") { Description = "Optimizer steps.", DefaultValueFactory = _ => Pretraining.DefaultSteps };
        var seed = new Option<ulong>("--seed") { Description = "Of corpus, initial weights and order.", DefaultValueFactory = _ => 1 };
        var device = new Option<string>("--device") { Description = "auto or cpu.", DefaultValueFactory = _ => "auto" };
        var command = new Command("pretrain", "Train the built-in base model from nothing, on text that this program writes itself.") { output, steps, seed, device };
        command.SetAction((arguments, cancel) => RunAsync(
            arguments.GetRequiredValue(output), arguments.GetValue(steps), arguments.GetValue(seed), arguments.GetValue(device)!, cancel));
        return command;
    }

    static async Task<int> RunAsync(string folder, int steps, ulong seed, string device, CancellationToken cancel)
    {
        long started = Stopwatch.GetTimestamp();
        using var backend = Device.Open(device);
        var result = await Pretraining.RunAsync(folder, backend, steps, seed, new Lines(), cancel).ConfigureAwait(false);
        Console.WriteLine($"{folder}: loss {result.Last!.Loss:0.000} after {result.Steps} steps, {Stopwatch.GetElapsedTime(started).TotalSeconds:0} s");
        return 0;
    }

    sealed class Lines : IProgress<StepMetrics>
    {
        public void Report(StepMetrics value)
        {
            if (value.Step % 20 == 0 || value.Step == value.TotalSteps)
            {
                Console.Error.WriteLine($"step {value.Step} of {value.TotalSteps}  loss {value.Loss:0.000}  {value.TokensPerSecond:0} tokens/s");
            }
        }
    }
}
