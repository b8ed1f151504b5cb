using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Runs that go wrong: what they keep of what was learned, and what they say of it.</summary>
public sealed class TrainerFailureTests : IDisposable
{
    readonly TempFolder temp = new();
    readonly HostBackend<float> backend = new();
    readonly CausalLm model;
    readonly AdapterSet adapter;

    public TrainerFailureTests()
    {
        model = PretrainedModel.Load(TinyModels.Write(temp), backend);
        adapter = new AdapterSet(model, new LoraConfig { Rank = 2 }, 3);
    }

    string Output => temp.File("run");

    SftOptions Options => new() { MaxSteps = 6, LearningRate = 0.01, OutputFolder = Output, SaveEvery = int.MaxValue };

    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    public void Dispose()
    {
        adapter.Dispose();
        model.Dispose();
        backend.Dispose();
        temp.Dispose();
    }

    [Fact]
    public async Task Loss_thatIsNotFiniteOverGoodWeights_leavesACheckpointThatContinuesBitForBit()
    {
        float[] norm = backend.ReadFloats(model.Norm.Value);
        var problem = await Fails(Options, after: 3, () => backend.Fill(model.Norm.Value, double.NaN));

        Assert.StartsWith($"Trainer: the loss of step 4 is NaN, expected a finite number. The weights before it are saved in {Path.Combine(Output, "checkpoint-3")}. A run with other settings can start from there",
            problem.Message, StringComparison.Ordinal);
        Assert.Contains(" Something overflowed: lower learning_rate, or look for a reward, a row or a weight", problem.Message, StringComparison.Ordinal);
        backend.Write(norm, model.Norm.Value);
        var resumed = await Train(Options, from: Path.Combine(Output, "checkpoint-3"));
        Assert.Equal([4, 5, 6], resumed.Select(step => step.Step));
        Assert.Equal(await Whole(), File.ReadAllBytes(Path.Combine(Output, PeftFiles.WeightsName)));
    }

    [Fact]
    public async Task Checkpoint_ofAFailure_displacesNone()
    {
        var problem = await Fails(Options with { SaveEvery = 2, KeepCheckpoints = 1 }, after: 3, () => backend.Fill(model.Norm.Value, double.NaN));

        Assert.Contains("checkpoint-3", problem.Message, StringComparison.Ordinal);
        Assert.Equal(["checkpoint-2", "checkpoint-3"], Directory.GetDirectories(Output).Select(Path.GetFileName).Order());
    }

    [Fact]
    public async Task Loss_thatIsNotFinite_rightAfterACheckpoint_namesIt()
    {
        var problem = await Fails(Options with { SaveEvery = 2 }, after: 2, () => backend.Fill(model.Norm.Value, double.NaN));

        Assert.Contains($"{Path.Combine(Output, "checkpoint-2")} has the weights after step 2.", problem.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(int.MaxValue, "there is no checkpoint of this run, which save_steps would make")]
    [InlineData(2, "the last checkpoint is ")]
    public async Task Weights_thatAreNotFinite_areNotSaved(int saveEvery, string said)
    {
        var problem = await Fails(Options with { SaveEvery = saveEvery }, after: 3, () => backend.Fill(adapter.Updates.First().Update.B.Value, double.NaN));

        Assert.Contains($"The weights are not finite any more; {said}", problem.Message, StringComparison.Ordinal);
        Assert.Equal(saveEvery == 2 ? ["checkpoint-2"] : [], Directory.GetDirectories(Output).Select(Path.GetFileName));
    }

    [Fact]
    public async Task GradientNorm_thatIsNotFinite_endsTheRun()
    {
        using var large = new AdapterSet(model, new LoraConfig { Rank = 2, Alpha = 1e6 }, 3);
        backend.Fill(large.Updates.First().Update.A.Value, 1e36); // of no weight in the loss, as B is zero, but of some in B's gradient
        using var trainer = new SftTrainer(large, "base", TinyModels.Rows(8, 1), Options);

        var problem = await Assert.ThrowsAsync<InvalidOperationException>(() => trainer.RunAsync(cancel: Cancel));

        Assert.StartsWith("Trainer: the gradient norm of step 1 is ", problem.Message, StringComparison.Ordinal);
        Assert.Contains("there is no checkpoint of this run", problem.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Run_withoutAFolder_saysThatItsWeightsAreInMemory()
    {
        var problem = await Fails(Options with { OutputFolder = null }, after: 3, () => backend.Fill(model.Norm.Value, double.NaN));

        Assert.Contains("The weights before it are still in memory.", problem.Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Watchdog_savesWhereItStops()
    {
        var problem = await Assert.ThrowsAsync<InvalidOperationException>(() => Train(Options with { LossWatchdogThreshold = 0.01, LossWatchdogPatience = 3 }));

        Assert.StartsWith("Trainer: the loss was above 0.01 for 3 steps in a row, ", problem.Message, StringComparison.Ordinal);
        Assert.Contains($"at step 3. The weights after step 3 are saved in {Path.Combine(Output, "checkpoint-3")}.", problem.Message, StringComparison.Ordinal);
        await Train(Options, from: Path.Combine(Output, "checkpoint-3"));
        Assert.Equal(await Whole(), File.ReadAllBytes(Path.Combine(Output, PeftFiles.WeightsName)));
    }

    [Fact]
    public async Task Update_thatFailsHalfway_savesWhatIsFinite()
    {
        using var setup = new PpoSetup();
        var options = PpoSetup.Options with { LearningRate = 1, Optimizer = new AdamWOptions { WeightDecay = 1e30 }, WarmupSteps = 1, OutputFolder = setup.PathOf("run") }; // a first step of rate 0
        using var trainer = setup.NewTrainer(options);

        var problem = await Assert.ThrowsAsync<InvalidOperationException>(() => trainer.RunAsync(cancel: Cancel));

        Assert.Contains("the loss of step 2 is NaN", problem.Message, StringComparison.Ordinal);
        Assert.Contains($"The weights, which it has changed in part, are saved in {Path.Combine(options.OutputFolder!, "checkpoint-1")}.", problem.Message, StringComparison.Ordinal);
        Assert.Equal(6, ResumeState.Load(Path.Combine(options.OutputFolder!, "checkpoint-1")).Method["episodes"]); // of the first update, not of the one that is repeated
    }

    [Fact]
    public async Task Trainer_runsOnce()
    {
        var trainer = new SftTrainer(adapter, "base", TinyModels.Rows(8, 1), Options);
        await trainer.RunAsync(cancel: Cancel);
        float[] after = backend.ReadFloats(adapter.Parameters.Values);

        Assert.Contains("SftTrainer: it has run already", (await Assert.ThrowsAsync<InvalidOperationException>(() => trainer.RunAsync(cancel: Cancel))).Message, StringComparison.Ordinal);
        trainer.Dispose();
        await Assert.ThrowsAsync<ObjectDisposedException>(() => trainer.RunAsync(cancel: Cancel));
        Assert.Equal(after, backend.ReadFloats(adapter.Parameters.Values));
    }

    [Fact]
    public async Task Run_cancelledBeforeItsFirstStep_hasNoCheckpoint()
    {
        await Train(Options);
        using var trainer = new SftTrainer(adapter, "base", TinyModels.Rows(8, 1), Options);

        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => trainer.RunAsync(cancel: new CancellationToken(canceled: true)));

        Assert.Null(trainer.LastCheckpoint);
        Assert.Equal(6, File.ReadLines(Path.Combine(Output, "metrics.jsonl")).Count());
    }

    Task<InvalidOperationException> Fails(SftOptions options, int after, Action harm) =>
        Assert.ThrowsAsync<InvalidOperationException>(() => Train(options, step => (step.Step == after ? harm : () => { })()));

    async Task<List<StepMetrics>> Train(SftOptions options, Action<StepMetrics>? onStep = null, string? from = null)
    {
        var steps = new Steps(onStep);
        using var trainer = new SftTrainer(adapter, "base", TinyModels.Rows(8, 1), options);
        await trainer.RunAsync(steps, from, Cancel);
        return steps.All;
    }

    // The adapter of a run in which nothing went wrong.
    async Task<byte[]> Whole()
    {
        using var fresh = new AdapterSet(model, new LoraConfig { Rank = 2 }, 3);
        using var trainer = new SftTrainer(fresh, "base", TinyModels.Rows(8, 1), Options with { OutputFolder = temp.File("whole") });
        await trainer.RunAsync(cancel: Cancel);
        return File.ReadAllBytes(Path.Combine(temp.File("whole"), PeftFiles.WeightsName));
    }
}
