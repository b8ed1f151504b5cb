using IlgpuPeft.Optim;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Tensors;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What changes from update to update of a run of PPO: draws, orders, the weight of the divergence, and the value model's learning rate.</summary>
public class PpoRunTests
{
    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Draws_andOrder_ofTheSamePromptInTheNextUpdate_areOthers()
    {
        using var setup = new PpoSetup("cpu-f64");
        setup.Disturb(setup.Policy, 3);
        List<Rollout> rollouts = [];
        var options = PpoSetup.Options with { MaxSteps = 2, MicroBatchSize = 1, GradientAccumulation = 1, MiniBatches = 1, PpoEpochs = 1, LearningRate = 0, StopIds = [], MissingEosPenalty = 0 };
        using var trainer = setup.NewTrainer(options, prompts: [PpoSetup.Prompts[1]]);

        await trainer.RunAsync(new Steps(_ => rollouts.Add(trainer.LastRollout!)), cancel: Cancel);

        Assert.Equal(2, rollouts.Count);
        Assert.NotEqual(rollouts[0].Samples[0].Response, rollouts[1].Samples[0].Response); // by weights that have not changed
        Assert.NotEqual(rollouts[0].OrderSeed, rollouts[1].OrderSeed);
    }

    [Fact]
    public async Task KlWeight_followsTheDivergencesThatAreReported()
    {
        const double Target = 0.4, Horizon = 15;
        const int Responses = 6;
        using var setup = new PpoSetup();
        var steps = new Steps();
        using var trainer = setup.NewTrainer(PpoSetup.Options with { MaxSteps = 6, LearningRate = 0.02, Schedule = ScheduleKind.Constant, KlCoefficient = 0.3, AdaptiveKlTarget = Target, AdaptiveKlHorizon = Horizon });

        await trainer.RunAsync(steps, cancel: Cancel);

        double weight = 0.3;
        List<double> errors = [];
        foreach (var step in steps.All)
        {
            Assert.Equal(weight, step["objective/kl_coef"], 1e-12);
            errors.Add(Math.Max(-0.2, Math.Min(0.2, step["objective/kl"] / Target - 1)));
            weight *= 1 + errors[^1] * Responses / Horizon;
        }

        Assert.True(errors.SkipLast(1).Contains(-0.2) && errors.SkipLast(1).Contains(0.2), $"the errors {string.Join(' ', errors)} are on one side of the target, which other numbers than the divergence could be too");
    }

    [Fact]
    public async Task ValueRate_hasTheScheduleOfThePolicys()
    {
        const double Peak = 0.01;
        double[] together = await ValuesAfter(null), same = await ValuesAfter(Peak), faster = await ValuesAfter(2 * Peak);

        Compare.Same(together, same);
        Assert.NotEqual(together, faster);

        static async Task<double[]> ValuesAfter(double? valueRate)
        {
            using var setup = new PpoSetup();
            using var trainer = setup.NewTrainer(PpoSetup.Options with { MaxSteps = 3, LearningRate = Peak, ValueLearningRate = valueRate, Schedule = ScheduleKind.Linear });
            await trainer.RunAsync(cancel: Cancel);
            return setup.Backend.ReadDoubles(setup.Value.Parameters.Values);
        }
    }
}
