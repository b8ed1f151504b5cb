using IlgpuPeft.BuiltIn;
using IlgpuPeft.Config;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Supervised fine-tuning of the built-in model in kernels: the CPU's loss curve, and what a step asks of the device.</summary>
public sealed class DeviceTrainingTests(ITestOutputHelper output) : IDisposable
{
    const int Steps = 6, Rows = 4;

    readonly TempFolder temp = new();

    public static TheoryData<string> Devices => TestDevices.WithKernels.Rows();

    public void Dispose() => temp.Dispose();

    [Theory, MemberData(nameof(Devices))]
    public async Task BuiltInModel_inKernels_followsTheCpuCurveWithTheSameLaunchesEachStep(string device)
    {
        double[] expected = await Losses("cpu", "auto", null);
        List<long> launches = [], allocations = [];

        string[] parts = device.Split('-');
        double[] losses = await Losses(parts[0], parts[1], kernels =>
        {
            launches.Add(kernels.Launches);
            allocations.Add(kernels.Buffers.Allocations);
        });

        Compare.Close(expected, losses, TestDevices.Tolerance(device), "loss curve");
        Assert.True(expected[^1] < 0.8 * expected[0], $"the loss goes from {expected[0]:0.00} to {expected[^1]:0.00}: following so flat a curve shows nothing");
        long[] perStep = [.. launches.Zip(launches.Skip(1), (before, after) => after - before)];
        output.WriteLine($"{device}: {perStep[^1]} kernels a step, {allocations[^1]} allocations in all");
        Assert.Single(perStep[1..].Distinct());
        Assert.Equal(allocations[1], allocations[^1]);
    }

    async Task<double[]> Losses(string device, string dtype, Action<KernelDevice>? afterStep)
    {
        string folder = temp.File(device + dtype), few = Path.Combine(folder, "few.jsonl");
        var config = Demonstration.Prepare(folder, device).Supervised with
        {
            Dtype = dtype,
            Datasets = [new DatasetSource { Path = few, Type = DatasetType.PromptCompletion }], // every step sees all rows, so that the curve falls from the first
            MaxSteps = Steps,
            MicroBatchSize = Rows,
            WarmupSteps = 0,
            TestDatasets = [],
        };
        File.WriteAllLines(few, File.ReadLines(Path.Combine(folder, "train.jsonl")).Take(Rows));
        using var run = SftRun.Open(config, cancel: TestContext.Current.CancellationToken);
        var steps = new Steps(_ =>
        {
            if (TestDevices.DeviceOf(run.Model.Backend) is { } kernels)
            {
                afterStep?.Invoke(kernels);
            }
        });
        await run.RunAsync(steps, cancel: TestContext.Current.CancellationToken);
        return steps.Losses;
    }
}
