using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Models;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// Training where the numbers of a step arrive late, as from a GPU: they are read while the next step runs, and nothing else may come of it. The emulator's reads are made late for this.
/// </summary>
public sealed class LateNumbersTests : IDisposable
{
    const int Steps = 6;

    readonly TempFolder temp = new();

    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    static SftOptions Options => new() { MaxSteps = Steps, LearningRate = 0.01, Shuffle = false };

    public void Dispose() => temp.Dispose();

    [Fact]
    public async Task Numbers_areReadAfterTheNextStepIsQueued()
    {
        long[] queued = (await Train(late: false, Options)).Launches; // until the end of each step
        var run = await Train(late: true, Options);

        Assert.Equal(Steps, queued.Distinct().Count());
        // Of each step the loss and the norm. The first and the last are read at once: by then gradients are checked, and there is no next step.
        long[] expected = [queued[0], queued[2], queued[3], queued[4], queued[5], queued[5]];
        Assert.Equal(expected.SelectMany(launches => new[] { launches, launches }), run.Waits);
        Assert.Equal([1, 2, 3, 4, 5, 6], run.Metrics.Select(step => step.Step));
        Assert.Single(run.Downloads.Distinct()); // nor does anything else wait
    }

    [Fact]
    public async Task Run_isTheSameAsWithoutDelay()
    {
        var options = Options with { SaveEvery = 4, EvaluateEvery = 3 };
        var expected = await Train(late: false, options with { OutputFolder = temp.File("ordinary") }, validate: true);
        var run = await Train(late: true, options with { OutputFolder = temp.File("late") }, validate: true);

        Assert.Equal(expected.Metrics.Select(Numbers), run.Metrics.Select(Numbers));
        Assert.Equal([false, false, true, false, false, true], run.Metrics.Select(step => step.EvaluationLoss is not null));
        foreach (string part in new[] { "", "checkpoint-4", "checkpoint-6" })
        {
            Assert.Equal(Weights("ordinary", part), Weights("late", part));
        }

        Assert.Equal([1, 2, 3, 4, 5, 6], Rows("late"));
    }

    [Fact]
    public async Task Cancel_reportsAndSavesTheStepThatIsUnderWay()
    {
        await Train(late: false, Options with { OutputFolder = temp.File("whole") });
        var options = Options with { OutputFolder = temp.File("cut") };
        using var source = new CancellationTokenSource();

        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Train(late: true, options, onStep: (step, _) => (step == 2 ? source.CancelAsync() : Task.CompletedTask).Wait(), cancel: source.Token));

        Assert.Equal(["checkpoint-3"], Checkpoints("cut")); // the third step was queued when the second was heard of
        Assert.Equal([1, 2, 3], Rows("cut"));
        var resumed = await Train(late: true, options, from: temp.File("cut/checkpoint-3"));
        Assert.Equal([4, 5, 6], resumed.Metrics.Select(step => step.Step));
        Assert.Equal(Weights("whole"), Weights("cut"));
        Assert.Equal([1, 2, 3, 4, 5, 6], Rows("cut"));
    }

    [Theory]
    [InlineData(int.MaxValue, 4, "there is no checkpoint of this run, which save_steps would make. Something overflowed")]
    [InlineData(2, 3, "the last checkpoint is ")]
    public async Task Loss_thatIsNotFinite_isFoundAfterTheWeightsChanged(int saveEvery, int step, string said)
    {
        var options = Options with { OutputFolder = temp.File("run"), SaveEvery = saveEvery };

        var problem = await Assert.ThrowsAsync<InvalidOperationException>(
            () => Train(late: true, options, onStep: (step, model) => (step == 2 ? () => model.Backend.Fill(model.Norm.Value, double.NaN) : (Action)(() => { }))()));

        Assert.Contains($"the loss of step {step} is NaN, expected a finite number. It was read after the update that followed from it, so the weights before it are gone; {said}", problem.Message, StringComparison.Ordinal);
        Assert.Equal(saveEvery == 2 ? ["checkpoint-2"] : [], Checkpoints("run"));
        Assert.Equal(Enumerable.Range(1, step - 1), Rows("run"));
    }

    [Fact]
    public async Task Watchdog_savesTheStepThatIsUnderWay()
    {
        await Train(late: false, Options with { OutputFolder = temp.File("whole") });
        var options = Options with { OutputFolder = temp.File("run") };

        var problem = await Assert.ThrowsAsync<InvalidOperationException>(() => Train(late: true, options with { LossWatchdogThreshold = 0.01, LossWatchdogPatience = 3 }));

        Assert.Contains($"at step 3. The weights after step 4 are saved in {temp.File("run/checkpoint-4")}.", problem.Message, StringComparison.Ordinal);
        Assert.Equal([1, 2, 3, 4], Rows("run"));
        await Train(late: true, options, from: temp.File("run/checkpoint-4"));
        Assert.Equal(Weights("whole"), Weights("run"));
    }

    [Fact]
    public async Task Reward_thatFails_losesNoMeasuresOfTheStepBefore()
    {
        using var setup = new PpoSetup("emulator-f32");
        var transfers = TestDevices.DeviceOf(setup.Backend)!.Transfers;
        var options = PpoSetup.Options with { MicroBatchSize = 2, GradientAccumulation = 1, PpoEpochs = 1, ResponseLength = 2, OutputFolder = temp.File("run") };
        int asked = 0;
        var rewards = new RewardSum([(Reward.Of("moody", _ => ++asked > 4 ? double.NaN : asked), 1)]); // two an update
        using var trainer = setup.NewTrainer(options, rewards);
        transfers.Waiting = () => { };
        try
        {
            await Assert.ThrowsAsync<RewardException>(() => trainer.RunAsync(cancel: Cancel));
        }
        finally
        {
            transfers.Waiting = null;
        }

        Assert.Equal(["checkpoint-2"], Checkpoints("run"));
        Assert.Equal([1, 2], Rows("run"));
    }

    static object Numbers(StepMetrics step) => (step.Step, step.Loss, step.GradientNorm, step.LearningRate, step.Epoch, step.EvaluationLoss);

    byte[] Weights(string run, string part = "") => File.ReadAllBytes(Path.Combine(temp.File(run), part, PeftFiles.WeightsName));

    IEnumerable<string?> Checkpoints(string run) => Directory.GetDirectories(temp.File(run)).Select(Path.GetFileName).Order();

    IEnumerable<int> Rows(string run) => Metrics.MetricsFile.Read(Path.Combine(temp.File(run), "metrics.jsonl")).Select(row => (int)row["step"]);

    async Task<Run> Train(bool late, SftOptions options, string? from = null, bool validate = false, Action<int, CausalLm>? onStep = null, CancellationToken? cancel = null)
    {
        using var backend = TestDevices.Open("emulator-f32");
        using var model = PretrainedModel.Load(TinyModels.Write(temp), backend, WeightStorage.Nf4);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 3, Dropout = 0.1 }, 3);
        using var trainer = new SftTrainer(adapter, "base", TinyModels.Rows(Steps, seed: 4, spread: 0), options, validate ? TinyModels.Rows(2, seed: 5) : null);
        var device = TestDevices.DeviceOf(backend)!;
        long before = device.Launches;
        List<long> waits = [], launches = [], downloads = [];
        var steps = new Steps(step =>
        {
            launches.Add(device.Launches - before);
            downloads.Add(device.Transfers.Downloads);
            onStep?.Invoke(step.Step, model);
        });
        device.Transfers.Waiting = late ? () => waits.Add(device.Launches - before) : null;
        try
        {
            await trainer.RunAsync(steps, from, cancel ?? Cancel);
        }
        finally
        {
            device.Transfers.Waiting = null; // the device serves other tests after this one
        }

        return new Run(steps.All, [.. waits], [.. launches], [.. downloads]);
    }

    /// <param name="Metrics">As reported.</param>
    /// <param name="Waits">Launches before each wait for a late read.</param>
    /// <param name="Launches">Launches before each report.</param>
    /// <param name="Downloads">Downloads before each report.</param>
    sealed record Run(List<StepMetrics> Metrics, long[] Waits, long[] Launches, long[] Downloads);
}
