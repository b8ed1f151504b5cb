using IlgpuPeft.Kernels;
using IlgpuPeft.Rewards;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What an update of PPO asks of the device once it is warm.</summary>
public class PpoSteadyStateTests(ITestOutputHelper output)
{
    const int Responses = 3;

    public static TheoryData<string> Devices => TestDevices.WithKernels.Where(device => device.EndsWith("f32", StringComparison.Ordinal)).Rows();

    [Theory, MemberData(nameof(Devices))]
    public async Task Update_afterTheFirst_allocatesNothingAndLaunchesAndWaitsAsOften(string device)
    {
        var shorter = await MeasureAsync(device, responseLength: 1, updates: 3);
        var longer = await MeasureAsync(device, responseLength: 9, updates: 4);

        output.WriteLine($"{device}: {shorter} for a token a response, {longer} for 9");
        const int Generating = 2; // ids and log-probabilities of the first tokens
        const int Scoring = 3; // log-probabilities of policy and reference, and values
        const int Learning = 3 + 1; // log-probabilities, entropies and values of the one mini-batch; then the norm of the value model's gradient
        Assert.Equal(Generating + Scoring + Learning, shorter.Downloads);
        Assert.Equal(shorter.Downloads + 2, longer.Downloads); // ids and log-probabilities of 8 passes: a quarter of a download for each token of all sequences
        Assert.Equal(0, (longer.Launches - shorter.Launches) % 8);
        Assert.True(longer.Launches > shorter.Launches);
        Assert.Equal((0, 0), (shorter.Allocations, longer.Allocations));
    }

    /// <summary>What each update costs between two judgements, the first left out, whose weights learn for the first time.</summary>
    static async Task<Cost> MeasureAsync(string device, int responseLength, int updates)
    {
        using var setup = new PpoSetup(device);
        var meter = new Meter(TestDevices.DeviceOf(setup.Backend)!, setup.Backend.Memory);
        var options = PpoSetup.Options with
        {
            MicroBatchSize = Responses, GradientAccumulation = 1, MiniBatches = 1, PpoEpochs = 1, MaxSteps = updates, ResponseLength = responseLength, StopIds = [],
            MissingEosPenalty = 0, LearningRate = 1e-4,
        };
        using var trainer = setup.NewTrainer(options, new RewardSum([(meter, 1)]), [.. PpoSetup.Prompts.Where(prompt => prompt.Ids.Length == 4)]);
        await trainer.RunAsync(cancel: TestContext.Current.CancellationToken);

        var costs = meter.Readings.Zip(meter.Readings.Skip(1), (before, after) => after - before).Skip(1).ToList();
        Assert.Equal(updates - 2, costs.Count);
        return Assert.Single(costs.Distinct());
    }

    readonly record struct Cost(long Launches, long Allocations, long Downloads)
    {
        public static Cost operator -(Cost after, Cost before) => new(after.Launches - before.Launches, after.Allocations - before.Allocations, after.Downloads - before.Downloads);
    }

    /// <summary>Pays the same for all, and reads the device's counters at the same point of every update.</summary>
    sealed class Meter(KernelDevice device, MemoryAccount memory) : Reward("meter")
    {
        public List<Cost> Readings { get; } = [];

        public override IReadOnlyList<Judgement> Judge(IReadOnlyList<Sample> samples)
        {
            Readings.Add(new Cost(device.Launches, device.Buffers.Allocations + memory.Allocations, device.Transfers.Downloads));
            return [.. samples.Select((_, i) => new Judgement(i % 2))];
        }
    }
}
