using IlgpuPeft.Adapters;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Tensors;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The gradients and the order of PPO's optimizer steps.</summary>
public class PpoUpdateTests
{
    public static TheoryData<string> Devices => TestDevices.All.Rows();

    [Theory]
    [InlineData(false, false)]
    [InlineData(false, true)]
    [InlineData(true, false)]
    [InlineData(true, true)]
    public void Gradient_ofPolicyAndValues_isThatOfTheLoss(bool trlCompatible, bool ofValues)
    {
        using var setup = Disturbed("cpu-f64");
        var options = PpoSetup.Options with { MiniBatches = 1, PpoEpochs = 1, TrlCompatible = trlCompatible, EntropyCoefficient = 0.3 };
        var rollout = setup.Collect(options);
        var trained = ofValues ? setup.Value : setup.Policy;
        var (_, gradient) = LossAndGradient(setup, options, rollout, trained);

        double[] start = setup.Backend.ReadDoubles(trained.Parameters.Values);
        FiniteDifference.Check(ofValues ? "values" : "policy", 1, start, gradient, values =>
        {
            setup.Backend.Write(values, trained.Parameters.Values);
            return LossAndGradient(setup, options, rollout, trained).Loss;
        });
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(6, 0)]
    [InlineData(1, 24)]
    public void Gradient_ofAnyGroupingIntoPasses_isTheSame(int microBatch, int tokens)
    {
        using var setup = Disturbed("cpu-f64");
        var options = PpoSetup.Options with { MiniBatches = 1, PpoEpochs = 1 };
        var rollout = setup.Collect(options);
        foreach (var trained in new[] { setup.Policy, setup.Value })
        {
            double[] expected = LossAndGradient(setup, options, rollout, trained).Gradient;

            double[] actual = LossAndGradient(setup, options with { MicroBatchSize = microBatch, GradientAccumulation = 6, TokensPerPass = tokens }, rollout, trained).Gradient;

            Compare.Close(expected, actual, 1e-12, "the gradient of another grouping");
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public void FirstMiniBatch_hasRatioOne(string device)
    {
        using var setup = Disturbed(device);
        var options = PpoSetup.Options with { PpoEpochs = 1 };
        var rollout = setup.Collect(options, prompts: 4);
        using var roles = setup.NewRoles(options);

        var result = new PpoUpdate(roles, options).Run(rollout, _ => { });

        Assert.Equal(2, result.MiniBatches.Count);
        Assert.All(result.MiniBatches, batch => Assert.Equal(0, batch.RatioMinusOne)); // no weight has changed, and the passes are those of the scores
        Assert.All(result.MiniBatches, batch => Assert.Equal(0, batch.ClipFraction));
    }

    [Theory]
    [InlineData(6, 0, 6)]
    [InlineData(3, 0, 2)]
    [InlineData(1, 40, 3)]
    public void FirstEpoch_inAnyOrder_findsTheVeryNumbersOfTheScores(int microBatch, int tokens, int miniBatches)
    {
        foreach (string device in TestDevices.WithKernels.Where(device => device.EndsWith("bf16", StringComparison.Ordinal))) // which rounds the sums of few rows otherwise than those of many
        {
            using var setup = Disturbed(device);
            var options = PpoSetup.Options with { MicroBatchSize = microBatch, GradientAccumulation = 6 / microBatch, TokensPerPass = tokens, MiniBatches = miniBatches, PpoEpochs = 1, ClipRangeValue = 1e-12 };
            using var roles = setup.NewRoles(options);
            using var collector = new RolloutCollector(roles, null, PpoSetup.LowIds, options);
            var samples = collector.Draw([.. PpoSetup.Prompts.Take(6)], 5);
            Assert.True(samples.Min(sample => sample.Prompt.Ids.Length + sample.Response.Length) < 16 && samples.Sum(sample => sample.Prompt.Ids.Length + sample.Response.Length) > 32, "no pass would have few rows, or none many");
            for (ulong seed = 0; seed < 4; seed++)
            {
                var result = new PpoUpdate(roles, options).Run(collector.Score(samples, 0.05, seed), _ => { });

                Assert.All(result.MiniBatches, batch => Assert.Equal((0, 0, 0), (batch.RatioMinusOne, batch.ApproximateKl, batch.ValueClipFraction))); // no log-probability and no value differs
            }
        }
    }

    [Fact]
    public void FirstMiniBatch_ofAPolicyThatHasChanged_isRefused()
    {
        using var setup = Disturbed("cpu");
        var rollout = setup.Collect(PpoSetup.Options);
        using var roles = setup.NewRoles(PpoSetup.Options);
        setup.Disturb(setup.Policy, 8, 0.12);

        var problem = Assert.Throws<InvalidOperationException>(() => new PpoUpdate(roles, PpoSetup.Options).Run(rollout, _ => Assert.Fail("a step was taken")));

        Assert.Contains("mean |ratio - 1|", problem.Message);
    }

    [Fact]
    public void Epochs_haveOrdersOfTheirOwn_thatTheSeedDecides()
    {
        using var setup = Disturbed("cpu-f64");
        var options = PpoSetup.Options with { PpoEpochs = 3, MiniBatches = 6 };
        var rollout = setup.Collect(options);
        using var roles = setup.NewRoles(options);

        double[] losses = Run(3), same = Run(3), other = Run(4);

        Compare.Same(losses, same);
        Assert.NotEqual(losses, other);
        double[][] epochs = [.. losses.Chunk(6)];
        Assert.NotEqual(epochs[0], epochs[1]);
        Assert.Equal(epochs[0].Order().Select(x => Math.Round(x, 10)), epochs[1].Order().Select(x => Math.Round(x, 10)));

        double[] Run(ulong seed)
        {
            List<double> losses = [];
            new PpoUpdate(roles, options).Run(rollout with { OrderSeed = seed }, losses.Add);
            return [.. losses];
        }
    }

    [Fact]
    public void Epochs_endWhenThePolicyHasMovedFarEnough()
    {
        using var setup = Disturbed("cpu");
        var options = PpoSetup.Options with { PpoEpochs = 4, MiniBatches = 2, EpochKlLimit = 1e-3 };
        var rollout = setup.Collect(options);
        using var roles = setup.NewRoles(options);
        int steps = 0;

        var result = new PpoUpdate(roles, options).Run(rollout, _ => setup.Disturb(setup.Policy, 3, ++steps > 2 ? 0.2 : 0.1));

        Assert.Equal((2, 4), (result.Epochs, result.MiniBatches.Count));
    }

    [Fact]
    public void Epochs_endByTheDivergenceOfTheLastAlone()
    {
        using var setup = Disturbed("cpu");
        var options = PpoSetup.Options with { PpoEpochs = 3, MiniBatches = 1 };
        var rollout = setup.Collect(options);
        using var roles = setup.NewRoles(options);

        var free = Run(0);
        double second = free.MiniBatches[1].ApproximateKl;
        var limited = Run(0.75 * second); // more than the mean over the first, which has none, and the second

        Assert.Equal(0, free.MiniBatches[0].ApproximateKl);
        Assert.Equal((3, 2), (free.Epochs, limited.Epochs));
        Assert.Equal(second, limited.MiniBatches[1].ApproximateKl);

        PpoUpdateResult Run(double limit)
        {
            setup.Disturb(setup.Policy, 3);
            return new PpoUpdate(roles, options with { EpochKlLimit = limit }).Run(rollout, _ => setup.Disturb(setup.Policy, 3, 0.15));
        }
    }

    static PpoSetup Disturbed(string device)
    {
        var setup = new PpoSetup(device);
        setup.Disturb(setup.Policy, 3);
        setup.Disturb(setup.Value, 4);
        return setup;
    }

    static (double Loss, double[] Gradient) LossAndGradient(PpoSetup setup, PpoOptions options, Rollout rollout, AdapterSet trained)
    {
        using var roles = setup.NewRoles(options);
        double[] gradient = [];
        double loss = new PpoUpdate(roles, options).Run(rollout, _ => gradient = setup.Backend.ReadDoubles(trained.Parameters.Gradients)).Loss;
        return (loss, gradient);
    }
}
