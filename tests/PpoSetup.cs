using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Tests;

/// <summary>A tiny random base in its roles on one device, prompts of 2 to 5 tokens, and a rule that pays for low token ids.</summary>
sealed class PpoSetup : IDisposable
{
    readonly TempFolder temp = new();

    public PpoSetup(string device = "cpu", ulong seed = 1)
    {
        Backend = TestDevices.Open(device);
        Model = PretrainedModel.Load(TinyModels.Write(temp), Backend);
        Policy = new AdapterSet(Model, Lora, seed);
        Value = new AdapterSet(Model, Lora, seed + 1, scalarHead: true);
    }

    public static LoraConfig Lora => new() { Rank = 4 };

    /// <summary>Six responses of up to six tokens to an update, learned from twice in two mini-batches.</summary>
    public static PpoOptions Options => new()
    {
        MicroBatchSize = 3, GradientAccumulation = 2, MiniBatches = 2, PpoEpochs = 2, MaxSteps = 3, ResponseLength = 6, Temperature = 0.7, LearningRate = 1e-2, ClipRangeValue = 10,
        MissingEosPenalty = 0.5, StopIds = [2, 5, 9, 17, 28, 30],
    };

    public static RewardSum LowIds => new([(Reward.Of("low ids", sample => sample.Response.Average(id => id < TinyModels.Vocabulary / 2 ? 1.0 : 0)), 1)]);

    public static IReadOnlyList<Prompt> Prompts { get; } =
        [.. Enumerable.Range(0, 12).Select(i => new Prompt([.. Enumerable.Range(0, 2 + i % 4).Select(t => (7 * i + 5 * t) % TinyModels.Vocabulary)], $"prompt {i}", new Dictionary<string, string>(), "prompts", i + 1))];

    public Backend Backend { get; }

    public CausalLm Model { get; }

    public AdapterSet Policy { get; }

    public AdapterSet Value { get; }

    public AdapterSet? Reference { get; set; }

    public string PathOf(string name) => temp.File(name);

    /// <summary>One more adapter, changed as by training.</summary>
    public AdapterSet NewAdapter(ulong seed)
    {
        var adapter = new AdapterSet(Model, Lora, seed);
        Disturb(adapter, seed);
        return adapter;
    }

    /// <summary>Gives an adapter an effect: B is not zero any more.</summary>
    public void Disturb(AdapterSet adapter, ulong seed, double deviation = 0.1)
    {
        foreach (var (update, i) in adapter.Updates.Select((x, i) => (x.Update, i)))
        {
            var key = new RandomKey(seed, (uint)i, 77);
            Backend.Write([.. Enumerable.Range(0, (int)update.B.Count).Select(k => (float)(deviation * key.Normal((ulong)k)))], update.B.Value);
        }
    }

    public PpoTrainer NewTrainer(PpoOptions options, RewardSum? rewards = null, IReadOnlyList<Prompt>? prompts = null, IProgress<IReadOnlyList<PolicySample>>? samples = null) =>
        new(Policy, Value, "tiny", null, prompts ?? Prompts, rewards ?? LowIds, options, Reference) { Samples = samples };

    public PpoRoles NewRoles(PpoOptions options) => new(Policy, Value, Reference, options);

    /// <summary>The experience of an update over the first prompts.</summary>
    public Rollout Collect(PpoOptions options, RewardSum? rewards = null, int prompts = 6, ulong seed = 5, ulong orderSeed = 3)
    {
        using var roles = NewRoles(options);
        using var collector = new RolloutCollector(roles, null, rewards ?? LowIds, options);
        return collector.Score(collector.Draw([.. Prompts.Take(prompts)], seed), options.KlCoefficient, orderSeed);
    }

    public void Dispose()
    {
        Policy.Dispose();
        Value.Dispose();
        Reference?.Dispose();
        Model.Dispose();
        Backend.Dispose();
        temp.Dispose();
    }
}
