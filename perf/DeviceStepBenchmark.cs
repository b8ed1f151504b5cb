using System.Diagnostics;
using System.Globalization;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Generation;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;

namespace IlgpuPeft.Perf;

/// <summary>A whole QLoRA step and decoding on a device that runs kernels: tokens a second, launches, new memory, peak. A row goes to a CSV file.</summary>
static class DeviceStepBenchmark
{
    const int Sequences = 4, Prompt = 32, Decoded = 32;

    /// <param name="args">--device NAME (--shape SHAPE | --model FOLDER) [--tokens N] [--rounds R] [--csv FILE].</param>
    public static int Run(Arguments args)
    {
        string device = DeviceArguments.Device(args), shape = args.OneOf("--shape", ModelShapes.All.Keys, "llama3.2-1b");
        string? folder = args["--model"];
        int tokens = args.Number("--tokens", 2048, least: Sequences), rounds = args.Number("--rounds", 15);
        using var backend = Device.Open(device);
        var kernels = DeviceArguments.KernelsOf(backend);
        using CaseMemory weights = new(backend, "weights");
        using var model = folder is null ? RandomNf4Model.OfShape(shape, weights) : PretrainedModel.Load(folder, backend, WeightStorage.Nf4Double);
        string name = folder ?? shape;
        Console.WriteLine($"{device}: {DeviceArguments.Describe(device)}, {backend.Activation} activations; {name}, {tokens} tokens of {Sequences} sequences, NF4 with double quantisation, LoRA rank {TrainingStep.Rank}");

        double step = Step(model, kernels, tokens, rounds, out long launches, out long allocations);
        long peak = backend.Memory.Peak + backend.ScratchBytes;
        Console.WriteLine($"step {step * 1e3:F1} ms, {tokens / step:F0} tokens/s, {launches} launches, {allocations} device allocations; peak {MemoryAccount.Format(peak)}, now {backend.Memory}");
        double token = Token(model);
        Console.WriteLine($"decoding {1 / token:F1} tokens/s, {token * 1e3:F2} ms a token");
        if (args["--csv"] is { } csv)
        {
            using var rows = DeviceArguments.Append(csv, "date,commit,device,who,shape,tokens,step_ms,tokens_per_s,decode_tokens_per_s,launches,allocations,peak_bytes");
            rows.WriteLine(string.Create(CultureInfo.InvariantCulture,
                $"{DeviceArguments.Origin(device)},ilgpu-peft,\"{name}\",{tokens},{step * 1e3:F3},{tokens / step:F1},{1 / token:F1},{launches},{allocations},{peak}"));
        }

        return allocations == 0 ? 0 : 1;
    }

    /// <summary>Median seconds of a warm step, with the launches and the new device memory of the last.</summary>
    static double Step(CausalLm model, KernelDevice kernels, int tokens, int rounds, out long launches, out long allocations)
    {
        using var step = new TrainingStep(model, tokens, Sequences);
        Console.WriteLine($"first step, with compilation: {step.Run():F2} s");
        step.Run();
        using var process = Process.GetCurrentProcess();
        List<double> seconds = [];
        var processor = process.TotalProcessorTime;
        (launches, allocations) = (0, 0);
        for (int round = 0; round < rounds; round++)
        {
            (launches, allocations) = (kernels.Launches, kernels.Buffers.Allocations);
            seconds.Add(step.Run());
            (launches, allocations) = (kernels.Launches - launches, kernels.Buffers.Allocations - allocations);
        }

        process.Refresh();
        Console.WriteLine($"{rounds} steps: best {seconds.Min() * 1e3:F1} ms; {(process.TotalProcessorTime - processor).TotalSeconds / rounds:F3} s of the host's processors a step");
        return seconds.Order().ElementAt(rounds / 2);
    }

    static double Token(CausalLm model)
    {
        using var generator = new Generator(model);
        int[] prompt = [.. Enumerable.Range(3, Prompt).Select(i => i % model.Config.Vocabulary)];
        var options = new GenerationOptions { MaxTokens = Decoded, StopIds = [] };
        DecodeBenchmark.SecondsPerToken(generator, prompt, options);
        return DecodeBenchmark.SecondsPerToken(generator, prompt, options);
    }
}
