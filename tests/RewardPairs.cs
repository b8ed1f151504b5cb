using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Preferences;

namespace IlgpuPeft.Tests;

/// <summary>Random pairs in which the response with a marker token is the preferred one, and a tiny model to learn that.</summary>
static class RewardPairs
{
    const int Marker = 7, Eos = 2;

    public static readonly LoraConfig Lora = new() { Rank = 4, Alpha = 8 };

    /// <summary>Prompts of 2 to 4 tokens, responses of 3 to 6 with their end; both responses are drawn alike but for the marker somewhere before the last two tokens.</summary>
    public static List<PreferencePair> Marked(int count, int seed, double margin = 0)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(i =>
        {
            int[] chosen = Response(), rejected = Response();
            chosen[random.Next(chosen.Length - 2)] = Marker;
            return new PreferencePair(Draw(2 + random.Next(3)), chosen, rejected, margin * i, "pairs", i + 1);
        })];

        int[] Response() => [.. Draw(2 + random.Next(4)), Eos];

        int[] Draw(int length) => [.. Enumerable.Range(0, length).Select(_ => Eos + 1 + random.Next(TinyModels.Vocabulary - Eos - 1)).Select(id => id == Marker ? Marker + 1 : id)];
    }
}

/// <summary>A tiny base over which a reward model is trained.</summary>
sealed class RewardSubject : IDisposable
{
    public RewardSubject(string device = "cpu", WeightStorage storage = WeightStorage.AsStored)
    {
        Folder = TinyModels.Write(Temp);
        Backend = TestDevices.Open(device);
        Model = PretrainedModel.Load(Folder, Backend, storage);
        Adapter = new AdapterSet(Model, RewardPairs.Lora, seed: 3, scalarHead: true);
    }

    public TempFolder Temp { get; } = new();

    public string Folder { get; }

    public Backend Backend { get; }

    public CausalLm Model { get; }

    public AdapterSet Adapter { get; }

    public RewardTrainer Trainer(IReadOnlyList<PreferencePair> train, RewardOptions options, IReadOnlyList<PreferencePair>? validation = null) =>
        new(Adapter, Folder, train, options, validation);

    public void Dispose()
    {
        Adapter.Dispose();
        Model.Dispose();
        Backend.Dispose();
        Temp.Dispose();
    }
}
