using IlgpuPeft.Adapters;
using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;

namespace IlgpuPeft.Perf;

/// <summary>
/// Updates of PPO and GRPO by phase, as the trainers measure them. Prompts are random tokens and no token ends a response, so that every update has the same lengths. A rule judges.
/// </summary>
static class PolicyBenchmark
{
    const string BuiltIn = "built-in", Time = "time/";

    /// <param name="args">[SHAPE [UPDATES [DEVICE]]]; SHAPE may be <c>built-in</c>.</param>
    public static int Ppo(Arguments args) => Run(args, (model, prompts, rewards, size, steps) =>
    {
        var policy = new AdapterSet(model, Lora);
        var value = ValueModel.Create(model, Lora);
        return new PpoTrainer(policy, value, "random", null, prompts, rewards, new PpoOptions
        {
            MaxSteps = steps, MicroBatchSize = size.Prompts, ResponseLength = size.Response, StopIds = [], TokensPerPass = size.TokensPerPass, LearningRate = 1e-5,
        });
    });

    /// <param name="args">As <see cref="Ppo"/>. As many completions as PPO has prompts, in groups of 4.</param>
    public static int Grpo(Arguments args) => Run(args, (model, prompts, rewards, size, steps) => new GrpoTrainer(new AdapterSet(model, Lora), "random", null, prompts, rewards, new GrpoOptions
    {
        MaxSteps = steps, MicroBatchSize = size.Prompts / 4, NumGenerations = 4, Beta = 0.04, MaxCompletionLength = size.Response, StopIds = [], TokensPerPass = size.TokensPerPass, LearningRate = 1e-5,
    }));

    static LoraConfig Lora => new() { Rank = TrainingStep.Rank, Alpha = 32 };

    static int Run(Arguments args, Func<CausalLm, IReadOnlyList<Prompt>, RewardSum, RolloutSize, int, Trainer> newTrainer)
    {
        string shape = args.OneOf("SHAPE", [BuiltIn, .. ModelShapes.All.Keys], "smollm2-135m"), device = args["DEVICE"] ?? "cpu";
        int updates = args.Number("UPDATES", 3, least: 2); // counters are read between two warm ones

        var size = RolloutSize.For(device, shape == BuiltIn);
        using var backend = Device.Open(device);
        using CaseMemory weights = new(backend, "weights");
        using var model = Model(shape, weights);
        var meter = new Meter(backend, model.Config.Vocabulary);
        List<StepMetrics> steps = [];
        using var trainer = newTrainer(model, Prompts(size, model.Config.Vocabulary), new RewardSum([(meter, 1)]), size, updates + 1);
        trainer.RunAsync(new Listener(steps)).GetAwaiter().GetResult();

        Console.WriteLine($"{device}: {DeviceArguments.Describe(device)}, {backend.Activation} activations; {shape}, NF4 with double quantisation, LoRA rank {TrainingStep.Rank} on all linear layers");
        Console.WriteLine($"{size.Prompts} responses of {size.Response} tokens to prompts of {size.Prompt}; medians of {updates} updates after a first");
        Print(steps);
        Console.WriteLine($"memory: {backend.Memory}, kernels' scratch {MemoryAccount.Format(backend.ScratchBytes)}; peak {MemoryAccount.Format(backend.Memory.Peak)}");
        var (before, after) = (meter.Readings[^2], meter.Readings[^1]);
        string launches = backend.IsHost ? "" : $"{after.Launches - before.Launches} launches and ";
        Console.WriteLine($"{launches}{after.Allocations - before.Allocations} device allocations an update");
        return after.Allocations == before.Allocations ? 0 : 1;
    }

    static void Print(IReadOnlyList<StepMetrics> steps)
    {
        const string Speed = "tokens_per_second/";
        string[] phases = [.. steps[0].Measures!.Keys.Where(name => name.StartsWith(Time, StringComparison.Ordinal)).Select(name => name[Time.Length..])];
        double whole = Median(step => phases.Sum(phase => step[Time + phase]));
        Console.WriteLine($"an update {whole * 1e3,10:F1} ms");
        foreach (string phase in phases)
        {
            double seconds = Median(step => step[Time + phase]);
            string speed = steps[0].Measures!.ContainsKey(Speed + phase) ? $", {Median(step => step[Speed + phase]),8:F0} tokens/s" : "";
            Console.WriteLine($"{phase,-9} {seconds * 1e3,10:F1} ms, {seconds / whole,6:P0} of it{speed}");
        }

        double Median(Func<StepMetrics, double> measure) => steps.Skip(1).Select(measure).Order().ElementAt((steps.Count - 1) / 2);
    }

    static CausalLm Model(string shape, CaseMemory weights)
    {
        if (shape != BuiltIn)
        {
            return RandomNf4Model.OfShape(shape, weights);
        }

        string folder = Path.Combine(Path.GetTempPath(), "ilgpu-peft-perf", BuiltIn);
        BuiltInModel.Unpack(folder);
        return PretrainedModel.Load(folder, weights.Backend, WeightStorage.Nf4Double);
    }

    static IReadOnlyList<Prompt> Prompts(RolloutSize size, int vocabulary)
    {
        var random = new Random(1);
        return [.. Enumerable.Range(0, size.Prompts).Select(i =>
            new Prompt([.. Enumerable.Range(0, size.Prompt).Select(_ => random.Next(vocabulary))], $"prompt {i}", new Dictionary<string, string>(), "random", i + 1))];
    }

    /// <summary>A rule that pays for low token ids, and reads the device's counters at the same point of every update.</summary>
    sealed class Meter(Backend backend, int vocabulary) : Reward("low ids")
    {
        readonly KernelDevice? kernels = backend.IsHost ? null : DeviceArguments.KernelsOf(backend);

        public List<(long Launches, long Allocations)> Readings { get; } = [];

        public override IReadOnlyList<Judgement> Judge(IReadOnlyList<Rewards.Sample> samples)
        {
            Readings.Add((kernels?.Launches ?? 0, kernels?.Buffers.Allocations ?? backend.Memory.Allocations));
            return [.. samples.Select(sample => new Judgement(sample.Response.Average(id => id < vocabulary / 2 ? 1.0 : 0)))];
        }
    }

    /// <summary>Keeps every update's measures on the training thread, where <see cref="Progress{T}"/> would queue.</summary>
    sealed class Listener(List<StepMetrics> steps) : IProgress<StepMetrics>
    {
        public void Report(StepMetrics value)
        {
            steps.Add(value);
            double seconds = value.Measures!.Keys.Where(name => name.StartsWith(Time, StringComparison.Ordinal)).Sum(name => value[name]);
            Console.WriteLine(FormattableString.Invariant($"update {value.Step}: {seconds * 1e3:F1} ms"));
        }
    }
}

/// <summary>What an update is asked: little where it would take minutes.</summary>
/// <param name="Prompts">Prompts, a multiple of 4.</param>
/// <param name="Prompt">Tokens of each.</param>
/// <param name="Response">Tokens of each response.</param>
/// <param name="TokensPerPass">Of scoring and learning.</param>
readonly record struct RolloutSize(int Prompts, int Prompt, int Response, int TokensPerPass)
{
    public static RolloutSize For(string device, bool isSmallModel) => (device, isSmallModel) switch
    {
        ("emulator", _) => new(4, 8, 8, 64),
        ("cpu", false) => new(4, 32, 32, 256),
        ("cpu", true) => new(64, 32, 32, 4096),
        _ => new(64, 128, 128, 4096),
    };
}
