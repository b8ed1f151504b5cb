using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Tests;

/// <summary>A tiny model, a policy over it, and prompts of random tokens.</summary>
sealed class GrpoSetup : IDisposable
{
    readonly TempFolder temp = new();

    public GrpoSetup(string device = "cpu-f64", bool isMoved = true)
    {
        Backend = TestDevices.Open(device);
        Model = PretrainedModel.Load(TinyModels.Write(temp), Backend);
        Policy = NewAdapter(9, isMoved);
    }

    public Backend Backend { get; }

    public CausalLm Model { get; }

    public AdapterSet Policy { get; }

    public static IReadOnlyList<Prompt> Prompts { get; } =
        [.. Enumerable.Range(0, 5).Select(i => new Prompt([1, 3 + i, 20 - i, 7 * i % 41], $"prompt {i}", new Dictionary<string, string> { ["answer"] = "5" }, "prompts.jsonl", i + 1))];

    /// <summary>Pays for even tokens, and a little for length.</summary>
    public static RewardSum Rewards { get; } = new([(Reward.Of("even", sample => sample.Response.Count(id => id % 2 == 0)), 1), (RewardRules.Create("length", new Dictionary<string, string> { ["target"] = "6" }), 0.5)]);

    public string Output(string name) => temp.File(name);

    /// <summary>An adapter of every layer; a moved one changes what the model says.</summary>
    public AdapterSet NewAdapter(ulong seed, bool isMoved)
    {
        var adapter = new AdapterSet(Model, new LoraConfig { Rank = 2, Alpha = 4, Dropout = 0.3 }, seed);
        foreach (var (_, update) in adapter.Updates)
        {
            var key = new RandomKey(seed, (uint)update.B.Count, 0);
            Backend.Write([.. Enumerable.Range(0, (int)update.B.Count).Select(i => isMoved ? (float)(0.2 * key.Normal((ulong)i)) : 0)], update.B.Value);
        }

        return adapter;
    }

    public GrpoTrainer Trainer(GrpoOptions options, RewardSum? rewards = null, AdapterSet? reference = null, IReadOnlyList<Prompt>? validation = null) =>
        new(Policy, "base", null, Prompts, rewards ?? Rewards, options, reference, validation);

    public double[] Weights() => Backend.ReadDoubles(Policy.Parameters.Values);

    public void Dispose()
    {
        Policy.Dispose();
        Model.Dispose();
        Backend.Dispose();
        temp.Dispose();
    }
}
