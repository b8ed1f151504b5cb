using System.Runtime.InteropServices;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Preferences;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;

namespace IlgpuPeft.Tests;

/// <summary>A tiny random model with a policy and a reference over it, preferences that can be learned, and the methods that learn them.</summary>
sealed class PreferenceGround : IDisposable
{
    public const double Beta = 0.3, DesirableWeight = 1.3, UndesirableWeight = 0.7;

    readonly TempFolder temp = new();

    /// <param name="device">One of <see cref="TestDevices"/>.</param>
    /// <param name="deviation">Of the policy's B, drawn at random; 0 leaves the policy equal to the base.</param>
    /// <param name="storage">Of the base.</param>
    public PreferenceGround(string device, double deviation = 0, WeightStorage storage = WeightStorage.AsStored)
    {
        Backend = TestDevices.Open(device);
        Model = PretrainedModel.Load(TinyModels.Write(temp), Backend, storage);
        Reference = Adapter(seed: 8, 0.3);
        Policy = Adapter(seed: 3, deviation);
    }

    public Backend Backend { get; }

    public CausalLm Model { get; }

    public AdapterSet Policy { get; }

    /// <summary>An adapter that is not the base, for the methods that are held to one.</summary>
    public AdapterSet Reference { get; }

    public double[] Weights
    {
        get => Backend.ReadDoubles(Policy.Parameters.Values);
        set => Backend.Upload(MemoryMarshal.AsBytes<double>(value), Policy.Parameters.Values); // of a backend in double
    }

    public double[] Gradient => Backend.ReadDoubles(Policy.Parameters.Gradients);

    /// <summary>Pairs whose chosen responses are of other tokens than the rejected ones. Prompts and lengths differ.</summary>
    public static PreferencePair[] Pairs(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(i => new PreferencePair(Draw(3, 3, 20), Draw(1, 20, 30), Draw(1, 30, TinyModels.Vocabulary), 0, "pairs.jsonl", i + 1))];

        int[] Draw(int least, int first, int end) => [.. Enumerable.Range(0, least + random.Next(3)).Select(_ => random.Next(first, end)), 2];
    }

    /// <summary>Both responses of each pair, one after the other.</summary>
    public static LabelledResponse[] Labelled(IEnumerable<PreferencePair> pairs) => [.. pairs.SelectMany(pair => new LabelledResponse[]
    {
        new(pair.Prompt, pair.Chosen, true, pair.File, pair.Line),
        new(pair.Prompt, pair.Rejected, false, pair.File, pair.Line),
    })];

    public Trainer Open(string method, Run run, PreferencePair[] train, PreferencePair[]? validation = null, AdapterSet? reference = null, string baseModel = "base") => method switch
    {
        "dpo" => new DpoTrainer(Policy, baseModel, train, Options(new DpoOptions { Beta = Beta }, run), validation, reference),
        "orpo" => new OrpoTrainer(Policy, baseModel, train, Options(new OrpoOptions { Beta = Beta }, run), validation),
        _ => new KtoTrainer(Policy, baseModel, Labelled(train), Options(new KtoOptions { Beta = Beta, DesirableWeight = DesirableWeight, UndesirableWeight = UndesirableWeight }, run),
            Labelled(validation ?? []), reference),
    };

    public static TOptions Options<TOptions>(TOptions options, Run run) where TOptions : TrainingOptions => (TOptions)((TrainingOptions)options with
    {
        MaxSteps = run.Steps,
        MicroBatchSize = run.MicroBatch,
        GradientAccumulation = run.Accumulation,
        LearningRate = run.Rate,
        Schedule = ScheduleKind.Constant,
        OutputFolder = run.Folder,
        SaveEvery = run.Folder is null ? 0 : 1,
    });

    public void Dispose()
    {
        Policy.Dispose();
        Reference.Dispose();
        Model.Dispose();
        Backend.Dispose();
        temp.Dispose();
    }

    AdapterSet Adapter(ulong seed, double deviation)
    {
        var adapter = new AdapterSet(Model, new LoraConfig { Rank = 3, Alpha = 6, Dropout = 0.1 }, seed);
        foreach (var (_, update) in adapter.Updates)
        {
            var key = new RandomKey(seed, (uint)update.B.Count, 0);
            Backend.Write([.. Enumerable.Range(0, (int)update.B.Count).Select(i => (float)(deviation * key.Normal((ulong)i)))], update.B.Value);
        }

        return adapter;
    }

    /// <summary>How a run is cut up, and how long it is. With a folder, there is a checkpoint of every step.</summary>
    public sealed record Run(int Steps, int MicroBatch, int Accumulation, double Rate, string? Folder = null);
}
