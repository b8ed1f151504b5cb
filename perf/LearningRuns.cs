using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Preferences;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Text;
using IlgpuPeft.Training;

namespace IlgpuPeft.Perf;

/// <summary>
/// Whether methods learn: each on real preferences or with a rule that can be checked, over a small trained model in NF4, once for each of several seeds, which draw initial values, order and
/// samples. What is asked of a method stands beside what came out.
/// </summary>
sealed class LearningRuns : IDisposable
{
    const int HeldOut = 200, SequenceLength = 80;
    const double KlTarget = 6;

    static readonly LoraConfig Lora = new() { Rank = 8, Alpha = 16 };

    // How stories begin. Small enough that every update asks each once.
    static readonly string[] Beginnings =
    [
        "Once upon a time", "One day", "There was a little girl", "There was a little boy", "Tom and", "Lily", "A dog", "The cat", "In the park", "Mom said", "A big bear", "Ben", "It was a sunny day",
        "The bird", "Sam", "Mia",
    ];

    readonly HostBackend<float> backend = new();
    readonly CausalLm model;
    readonly Tokenizer tokenizer;
    readonly string folder;
    readonly IReadOnlyList<PreferencePair> pairs;

    LearningRuns(string stories, string preferences)
    {
        folder = stories;
        tokenizer = Tokenizer.Load(stories);
        model = PretrainedModel.Load(stories, backend, WeightStorage.Nf4Double);
        var source = new DatasetSource { Path = preferences, Type = DatasetType.PromptCompletion, FieldInstruction = "instruction" }; // Alpaca's preamble is longer than most answers
        var dataset = Dataset.LoadPairs([source], new DatasetOptions { SequenceLength = SequenceLength }, tokenizer);
        pairs = dataset.Items;
        Console.WriteLine($"{string.Join('\n', dataset.Reports)}; sequence_len is {SequenceLength}, {HeldOut} pairs are held out");
    }

    /// <param name="args">MODEL PREFERENCES [SEEDS [METHOD]]: a model's folder, a file of rows with instruction, input, chosen and rejected, how many seeds, and one method of the four.</param>
    public static int Run(Arguments args)
    {
        int seeds = args.Number("SEEDS", 5);
        string? only = args["METHOD"] is null ? null : args.OneOf("METHOD", ["reward", "dpo", "ppo", "grpo"], "");
        using var runs = new LearningRuns(args["MODEL"]!, args["PREFERENCES"]!);
        foreach (var (name, asked, run) in new (string, string, Func<ulong, (double Before, double After, string More)>)[]
        {
            ("reward", "held-out accuracy above 0.8", runs.Reward),
            ("dpo", "a held-out margin that grows from 0", runs.Dpo),
            ("ppo", $"a mean reward that rises within 60 updates, while the divergence stays under its target of {KlTarget} nats an answer", runs.Ppo),
            ("grpo", "a mean reward that rises", runs.Grpo),
        })
        {
            if (only is not null && only != name)
            {
                continue;
            }

            Console.WriteLine($"{name}: {asked}");
            List<(double Before, double After)> outcomes = [];
            for (int seed = 1; seed <= seeds; seed++)
            {
                var (before, after, more) = run((ulong)seed);
                outcomes.Add((before, after));
                Console.WriteLine(FormattableString.Invariant($"  seed {seed}: {before:0.000} -> {after:0.000}  {more}"));
            }

            Console.WriteLine(FormattableString.Invariant(
                $"  over {seeds} seeds: {outcomes.Average(x => x.Before):0.000} -> {outcomes.Average(x => x.After):0.000}, after from {outcomes.Min(x => x.After):0.000} to {outcomes.Max(x => x.After):0.000}"));
        }

        return 0;
    }

    /// <inheritdoc />
    public void Dispose()
    {
        model.Dispose();
        backend.Dispose();
    }

    (double, double, string) Reward(ulong seed)
    {
        using var adapter = new AdapterSet(model, Lora, seed, scalarHead: true);
        var options = new RewardOptions { LearningRate = 3e-3, CenterRewardsCoefficient = 0.01, MicroBatchSize = 16, Epochs = 2, Seed = seed };
        var (train, held) = Split(seed);
        using var trainer = new RewardTrainer(adapter, folder, train, options, held);
        var result = Finish(trainer);
        return (result.Initial!.Measures!["accuracy"], result.Final!.Measures!["accuracy"], $"{result.Steps} steps, held-out margin {result.Final.Measures["margin"]:0.00}");
    }

    (double, double, string) Dpo(ulong seed)
    {
        using var policy = new AdapterSet(model, Lora, seed);
        var options = new DpoOptions { LearningRate = 1e-3, MicroBatchSize = 8, MaxSteps = 24, WarmupRatio = 0.1, Seed = seed };
        var (train, held) = Split(seed);
        using var trainer = new DpoTrainer(policy, folder, train, options, held);
        var result = Finish(trainer);
        return (result.Initial!.Measures!["rewards/margins"], result.Final!.Measures!["rewards/margins"], $"{result.Steps} steps, held-out accuracy {result.Final.Measures["rewards/accuracies"]:0.00}");
    }

    // Stories that mention happiness: some do by themselves, so that there is something to build on.
    (double, double, string) Ppo(ulong seed)
    {
        using var policy = new AdapterSet(model, Lora, seed);
        using var value = ValueModel.Create(model, Lora, seed);
        var options = new PpoOptions
        {
            LearningRate = 3e-4,
            ValueLearningRate = 2e-3,
            MicroBatchSize = Beginnings.Length,
            GradientAccumulation = 2,
            MaxSteps = 60,
            ResponseLength = 40,
            Temperature = 1,
            StopIds = [],
            KlCoefficient = 0.15,
            AdaptiveKlTarget = KlTarget,
            AdaptiveKlHorizon = 320,
            MiniBatches = 2,
            PpoEpochs = 2,
            TokensPerPass = 4096,
            Seed = seed,
        };
        using var trainer = new PpoTrainer(policy, value, folder, tokenizer, Prompts(copies: 2), new RewardSum([(Mentions("happy"), 1)]), options);
        var steps = new Steps();
        Finish(trainer, steps);
        return (steps.First("objective/scores"), steps.Last("objective/scores"), $"60 updates, divergence {steps.Last("objective/kl"):0.00}, at most {steps.Most("objective/kl"):0.00}");
    }

    (double, double, string) Grpo(ulong seed)
    {
        using var policy = new AdapterSet(model, Lora, seed);
        var options = new GrpoOptions
        {
            LearningRate = 1e-3,
            MicroBatchSize = Beginnings.Length,
            MaxSteps = 40,
            NumGenerations = 8,
            MaxCompletionLength = 40,
            StopIds = [],
            TokensPerPass = 4096,
            Seed = seed,
        };
        using var trainer = new GrpoTrainer(policy, folder, tokenizer, Prompts(copies: 1), new RewardSum([(Mentions("happy"), 1)]), options);
        var steps = new Steps();
        Finish(trainer, steps);
        return (steps.First("reward"), steps.Last("reward"), $"40 steps, at last {steps.Last("frac_reward_zero_std"):0.00} of the groups agree");
    }

    (IReadOnlyList<PreferencePair> Train, IReadOnlyList<PreferencePair> Held) Split(ulong seed)
    {
        var (train, held) = DataOrder.Split(pairs.Count, HeldOut, seed);
        return ([.. train.Select(i => pairs[i])], [.. held.Select(i => pairs[i])]);
    }

    static Reward Mentions(string word) => RewardRules.Create("contains", new Dictionary<string, string> { ["text"] = word });

    IReadOnlyList<Prompt> Prompts(int copies) => [.. Enumerable.Repeat(Beginnings, copies).SelectMany(texts => texts)
        .Select((text, i) => new Prompt(tokenizer.Encode(text), text, new Dictionary<string, string>(), "beginnings", i + 1))];

    static TrainingResult Finish(Trainer trainer, IProgress<StepMetrics>? progress = null) => trainer.RunAsync(progress).GetAwaiter().GetResult();

    /// <summary>The measures of a run's steps; its first and last are means over five.</summary>
    sealed class Steps : IProgress<StepMetrics>
    {
        const int Averaged = 5;

        readonly List<StepMetrics> all = [];

        public void Report(StepMetrics value) => all.Add(value);

        public double First(string measure) => all.Take(Averaged).Average(step => step[measure]);

        public double Last(string measure) => all.TakeLast(Averaged).Average(step => step[measure]);

        public double Most(string measure) => all.Max(step => step[measure]);
    }
}
