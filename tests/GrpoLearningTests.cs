using System.Globalization;
using IlgpuPeft.Adapters;
using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Text;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Group relative policy optimization raises rewards that can be checked, on prompts that it trains on and on others.</summary>
public sealed class GrpoLearningTests(ITestOutputHelper output) : IDisposable
{
    readonly TempFolder temp = new();

    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    public void Dispose() => temp.Dispose();

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task RandomModel_learnsToWriteATokenAndToEnd(ulong seed)
    {
        using var setup = new GrpoSetup("cpu", isMoved: false);
        var rewards = new RewardSum([(RewardRules.Create("regex", new Dictionary<string, string> { ["pattern"] = @"\b7\b" }), 1), (RewardRules.Create("ended"), 1)]);
        using var trainer = setup.Trainer(new GrpoOptions
        {
            MaxSteps = 40, MicroBatchSize = 4, MaxCompletionLength = 8, LearningRate = 0.02, Schedule = ScheduleKind.Constant, TokensPerPass = 2048, Seed = seed,
        }, rewards);
        var steps = new Steps();

        await trainer.RunAsync(steps, cancel: Cancel);

        double first = steps.All.Take(3).Average(step => step["reward"]), last = steps.All.TakeLast(5).Average(step => step["reward"]);
        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"seed {seed}: mean reward of 2 from {first:0.00} in the first three steps to {last:0.00} in the last five"));
        Assert.True(first < 0.8 && last > 1.5, $"the reward goes from {first:0.00} to {last:0.00} of 2, expected from less than 0.8 to more than 1.5");
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(4)]
    [InlineData(5)]
    public async Task BuiltInModel_halfTaught_learnsTheRestFromExactMatches(ulong seed)
    {
        const int TaughtSteps = 50;
        BuiltInModel.Unpack(temp.Path);
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(temp.Path, backend, WeightStorage.Nf4);
        var tokenizer = Tokenizer.Load(temp.Path);
        using var policy = new AdapterSet(model, new LoraConfig { Rank = 2, Alpha = 8 }, seed);
        IReadOnlyList<Prompt> train = [.. Instructions.Train.Select(Ask)], heldOut = [.. Instructions.HeldOut.Select(Ask)];
        var clock = System.Diagnostics.Stopwatch.StartNew(); // TEMP
        List<Example> rows = [.. Instructions.Train.Select((question, i) => Example.Of(train[i].Ids, [.. tokenizer.Encode(question.Answer, addSpecialTokens: false), model.Config.EosIds[0]], "train", i + 1))];
        using (var sft = new SftTrainer(model, TrainedWeights.Of(policy, "base"), rows, new SftOptions { MaxSteps = TaughtSteps, MicroBatchSize = 24, LearningRate = 5e-3, Seed = seed }))
        {
            await sft.RunAsync(cancel: Cancel);
        }

        output.WriteLine($"sft {clock.Elapsed.TotalSeconds:0.0} s");
        var exact = new RewardSum([(RewardRules.Create("exact-match"), 1)]);
        using var trainer = new GrpoTrainer(policy, "base", tokenizer, train, exact, new GrpoOptions
        {
            MaxSteps = 20, MicroBatchSize = 8, NumGenerations = 8, MaxCompletionLength = 10, LearningRate = 2e-3, TokensPerPass = 4096, Seed = seed,
        }, validation: heldOut);
        var result = await trainer.RunAsync(new Steps(step =>
        {
            if (step.Step % 5 == 1)
            {
                output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{step.Step}: reward {step["reward"]:0.00} zero {step["frac_reward_zero_std"]:0.00} entropy {step["entropy"]:0.00} generate {step["time/generate"]:0.00} update {step["time/update"]:0.00}"));
            }
        }), cancel: Cancel);

        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"seed {seed}: held-out exact matches {result.Initial!.Measures!["reward"]:0.0 %} to {result.Final!.Measures!["reward"]:0.0 %}, {clock.Elapsed.TotalSeconds:0.0} s"));
        Assert.InRange(result.Initial.Measures["reward"], 0.1, 0.7);
        Assert.True(result.Final.Measures["reward"] > result.Initial.Measures["reward"] + 0.1);

        Prompt Ask(Question question) => new(tokenizer.Encode(question.Prompt), question.Prompt, new Dictionary<string, string> { ["answer"] = question.Answer }, "questions", 1);
    }
}
