using System.Globalization;
using IlgpuPeft.Optim;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Group relative policy optimization raises rewards that can be checked.</summary>
public class GrpoLearningTests(ITestOutputHelper output)
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task RandomModel_learnsToWriteATokenAndToEnd(ulong seed)
    {
        using var setup = new GrpoSetup("cpu", isMoved: false);
        var rewards = new RewardSum([(RewardRules.Create("regex", new Dictionary<string, string> { ["pattern"] = @"\b7\b" }), 1), (RewardRules.Create("ended"), 1)]);
        using var trainer = setup.Trainer(new GrpoOptions
        {
            MaxSteps = 50, MicroBatchSize = 5, MaxCompletionLength = 8, LearningRate = 0.02, Schedule = ScheduleKind.Constant, TokensPerPass = 2048, Seed = seed,
        }, rewards);
        var steps = new Steps();

        await trainer.RunAsync(steps, cancel: TestContext.Current.CancellationToken);

        double first = steps.All.Take(3).Average(step => step["reward"]), last = steps.All.TakeLast(5).Average(step => step["reward"]);
        output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"seed {seed}: mean reward of 2 from {first:0.00} in the first three steps to {last:0.00} in the last five"));
        Assert.True(first < 0.8 && last > 1.6, $"the reward goes from {first:0.00} to {last:0.00} of 2, expected from less than 0.8 to more than 1.6");
    }
}
