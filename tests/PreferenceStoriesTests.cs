using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;
using IlgpuPeft.Preferences;
using IlgpuPeft.Text;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Preferences that other people wrote, on a model that other people trained.</summary>
public class PreferenceStoriesTests(ITestOutputHelper output)
{
    [Fact]
    public async Task Dpo_onPoliteAnswers_raisesTheHeldOutMargin()
    {
        string folder = TestAssets.Path("assets/stories260k-hf");
        var source = new DatasetSource { Path = TestAssets.Path("assets/data-rasbt/instruction-data-with-preference.json"), Type = DatasetType.Alpaca };
        var pairs = Dataset.LoadPairs([source], new DatasetOptions { SequenceLength = 256 }, Tokenizer.Load(folder)).Items;
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(folder, backend, WeightStorage.Nf4);
        using var policy = new AdapterSet(model, new LoraConfig { Rank = 8, Alpha = 16 }, seed: 1);
        var options = new DpoOptions { LearningRate = 1e-3, Schedule = ScheduleKind.Constant, MicroBatchSize = 4, GradientAccumulation = 2, MaxSteps = 8, Seed = 1 };
        using var trainer = new DpoTrainer(policy, folder, [.. pairs.Take(64)], options, [.. pairs.Skip(64).Take(32)]);

        var result = await trainer.RunAsync(cancel: TestContext.Current.CancellationToken);

        var (before, after) = (result.Initial!, result.Final!);
        output.WriteLine($"loss {before.Loss:0.000} to {after.Loss:0.000}, margin {before.Measures!["rewards/margins"]:0.000} to {after.Measures!["rewards/margins"]:0.000}, " +
            $"accuracy {after.Measures["rewards/accuracies"]:0.00}");
        Assert.Equal(Math.Log(2), before.Loss, 1e-5);
        Assert.True(after.Loss < 0.9 * before.Loss);
        Assert.True(after.Measures["rewards/margins"] > 0.1 && after.Measures["rewards/accuracies"] > 0.6);
    }
}
