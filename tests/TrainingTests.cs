using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What must not depend on how a run is cut up: into rows, bins, passes, and sessions.</summary>
public class TrainingTests
{
    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public void Gradient_ofAnySplitOfABatch_isTheSame()
    {
        using var temp = new TempFolder();
        string folder = TinyModels.Write(temp);
        var rows = TinyModels.Rows(9, seed: 1);
        int[][][] splits =
        [
            [[0, 1, 2, 3, 4, 5, 6, 7, 8]],
            [[0], [1], [2], [3], [4], [5], [6], [7], [8]],
            [[8, 3], [1, 5, 7], [0], [2, 4, 6]],
            [[7, 8, 6, 5], [4, 3, 2, 1, 0]],
        ];

        double[][] gradients = [.. splits.Select(split => GradientOf(folder, rows, split))];

        foreach (double[] gradient in gradients.Skip(1))
        {
            Compare.Close(gradients[0], gradient, 1e-12, "the gradient of another split");
        }
    }

    [Fact]
    public void Gradient_ofPackedRows_leaksNothingBetweenThem()
    {
        using var temp = new TempFolder();
        string folder = TinyModels.Write(temp);
        var rows = TinyModels.Rows(6, seed: 2);
        double[] alone = GradientOf(folder, rows, [[0]]);

        // The other rows keep their tokens but lose their labels: only through a leak could they change row 0's gradient.
        List<Example> silent = [rows[0], .. rows.Skip(1).Select(row => row with { Labels = [.. row.Labels.Select(_ => Example.Untrained)] })];
        double[] packed = GradientOf(folder, silent, [[3, 0, 5, 1, 2, 4]]);

        Compare.Close(alone, packed, 1e-12, "the gradient of a packed row");
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, false)]
    [InlineData(false, true)]
    public async Task Resume_continuesBitForBit(bool packing, bool eightBit)
    {
        using var temp = new TempFolder();
        string folder = TinyModels.Write(temp);
        var options = Options(packing) with { MaxSteps = 7, SaveEvery = 3, OutputFolder = Path.Combine(temp.Path, "whole") };
        options = options with { Optimizer = options.Optimizer with { EightBit = eightBit } };
        var whole = await Train(folder, options, null, Cancel);

        var cut = options with { OutputFolder = Path.Combine(temp.Path, "cut") };
        await Train(folder, cut, null, Cancel);
        Directory.Delete(Path.Combine(cut.OutputFolder!, "checkpoint-6"), recursive: true);
        Directory.Delete(Path.Combine(cut.OutputFolder!, "checkpoint-7"), recursive: true);
        var resumed = await Train(folder, cut, new RunFolder(cut.OutputFolder!).LatestCheckpoint(), Cancel);

        Assert.Equal([4, 5, 6, 7], resumed.Select(step => step.Step));
        Assert.Equal(whole.Skip(3).Select(step => (step.Loss, step.GradientNorm, step.LearningRate)), resumed.Select(step => (step.Loss, step.GradientNorm, step.LearningRate)));
        Assert.Equal(File.ReadAllBytes(Path.Combine(options.OutputFolder!, PeftFiles.WeightsName)), File.ReadAllBytes(Path.Combine(cut.OutputFolder!, PeftFiles.WeightsName)));
        Assert.Equal(7, File.ReadLines(Path.Combine(cut.OutputFolder!, "metrics.jsonl")).Count());
    }

    [Fact]
    public async Task Cancel_savesACheckpointThatContinuesBitForBit()
    {
        using var temp = new TempFolder();
        string folder = TinyModels.Write(temp);
        var options = Options(packing: false) with { MaxSteps = 5 };
        var whole = await Train(folder, options with { OutputFolder = Path.Combine(temp.Path, "whole") }, null, Cancel);

        var cut = options with { OutputFolder = Path.Combine(temp.Path, "cut") };
        using var source = new CancellationTokenSource();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Train(folder, cut, null, source.Token, step =>
        {
            if (step.Step == 2)
            {
                source.Cancel();
            }
        }));
        string checkpoint = new RunFolder(cut.OutputFolder!).LatestCheckpoint()!;
        Assert.Equal("checkpoint-2", Path.GetFileName(checkpoint));
        Assert.False(File.Exists(Path.Combine(cut.OutputFolder!, PeftFiles.WeightsName)), "an unfinished run leaves no final adapter");

        var resumed = await Train(folder, cut, checkpoint, Cancel);

        Assert.Equal(whole.Skip(2).Select(step => step.Loss), resumed.Select(step => step.Loss));
    }

    [Fact]
    public async Task Resume_withOtherSettings_isRefused()
    {
        using var temp = new TempFolder();
        string folder = TinyModels.Write(temp);
        var options = Options(packing: false) with { MaxSteps = 2, SaveEvery = 1, OutputFolder = Path.Combine(temp.Path, "run") };
        await Train(folder, options, null, Cancel);
        string checkpoint = Path.Combine(options.OutputFolder!, "checkpoint-1");
        SftOptions[] others =
        [
            options with { Seed = 9 },
            options with { WarmupSteps = 1 },
            options with { MinimumLearningRateRatio = 0.1 },
            options with { Optimizer = options.Optimizer with { WeightDecay = 0.5 } },
            options with { Optimizer = options.Optimizer with { Epsilon = 1e-6 } },
            options with { Optimizer = options.Optimizer with { MaxGradientNorm = 2 } },
            options with { Optimizer = options.Optimizer with { EightBit = true } },
        ];
        foreach (var other in others)
        {
            var problem = await Assert.ThrowsAsync<CheckpointException>(() => Train(folder, other, checkpoint, Cancel));
            Assert.Contains("other settings or data", problem.Message);
        }

        await Assert.ThrowsAsync<CheckpointException>(() => Train(folder, options, checkpoint, Cancel, lora: Adapter with { Alpha = 7 }));
        await Assert.ThrowsAsync<CheckpointException>(() => Train(folder, options, checkpoint, Cancel, lora: Adapter with { Dropout = 0.2 }));
    }

    [Fact]
    public async Task FreshRun_inAFolderWithLaterCheckpoints_keepsItsOwn()
    {
        using var temp = new TempFolder();
        string folder = TinyModels.Write(temp);
        var options = Options(packing: false) with { SaveEvery = 2, KeepCheckpoints = 2, OutputFolder = Path.Combine(temp.Path, "run") };
        await Train(folder, options with { MaxSteps = 8 }, null, Cancel);
        string[] earlier = [.. Directory.GetDirectories(options.OutputFolder!).Order()];
        Assert.Equal(["checkpoint-6", "checkpoint-8"], earlier.Select(Path.GetFileName));

        await Train(folder, options with { MaxSteps = 3, SaveEvery = 1 }, null, Cancel);

        Assert.Equal(["checkpoint-2", "checkpoint-3"], Directory.GetDirectories(options.OutputFolder!).Order().Select(Path.GetFileName));
        Assert.Equal("checkpoint-3", Path.GetFileName(new RunFolder(options.OutputFolder!).LatestCheckpoint()));
    }

    [Fact]
    public async Task Resume_ofADamagedCheckpoint_isRefusedAndLeavesItInPlace()
    {
        using var temp = new TempFolder();
        string folder = TinyModels.Write(temp);
        var options = Options(packing: false) with { MaxSteps = 2, SaveEvery = 1, OutputFolder = Path.Combine(temp.Path, "run") };
        await Train(folder, options, null, Cancel);
        string checkpoint = Path.Combine(options.OutputFolder!, "checkpoint-1");
        foreach (string name in new[] { ResumeState.FileName, "optimizer.safetensors", PeftFiles.WeightsName })
        {
            string path = Path.Combine(checkpoint, name);
            byte[] whole = File.ReadAllBytes(path);
            File.WriteAllBytes(path, whole[..(whole.Length / 2)]);
            await Assert.ThrowsAsync<CheckpointException>(() => Train(folder, options, checkpoint, Cancel));
            File.WriteAllBytes(path, whole);
        }

        var resumed = await Train(folder, options, checkpoint, Cancel);
        Assert.Equal([2], resumed.Select(step => step.Step));
    }

    [Fact]
    public void ResumeState_ofMoreThanAMegabyte_isRefusedUnread()
    {
        using var temp = new TempFolder();
        using (var file = File.Create(temp.File(ResumeState.FileName)))
        {
            file.SetLength((1L << 20) + 1);
        }

        Assert.Contains("has 1048577 bytes, expected at most 1048576", Assert.Throws<CheckpointException>(() => ResumeState.Load(temp.Path)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Checkpoints_beyondTheLimit_areRemoved()
    {
        using var temp = new TempFolder();
        var options = Options(packing: false) with { MaxSteps = 6, SaveEvery = 1, KeepCheckpoints = 2, OutputFolder = Path.Combine(temp.Path, "run") };

        await Train(TinyModels.Write(temp), options, null, Cancel);

        Assert.Equal(["checkpoint-5", "checkpoint-6"], Directory.GetDirectories(options.OutputFolder!).Select(Path.GetFileName).Order());
    }

    [Fact]
    public async Task Threads_doNotChangeTheResult()
    {
        using var temp = new TempFolder();
        string folder = TinyModels.Write(temp);
        int before = Workers.Count;
        try
        {
            Workers.Count = 1;
            var one = await Train(folder, Options(packing: true) with { MaxSteps = 4 }, null, Cancel);
            Workers.Count = 5;
            var five = await Train(folder, Options(packing: true) with { MaxSteps = 4 }, null, Cancel);

            Assert.Equal(one.Select(step => (step.Loss, step.GradientNorm)), five.Select(step => (step.Loss, step.GradientNorm)));
        }
        finally
        {
            Workers.Count = before;
        }
    }

    [Fact]
    public async Task FirstStep_whoseGradientReachesNoAdapter_isAnError()
    {
        using var temp = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(TinyModels.Write(temp), backend);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 2 });
        adapter.Disable();
        using var trainer = new SftTrainer(adapter, "base", TinyModels.Rows(4, 1), new SftOptions { MaxSteps = 1 });

        var problem = await Assert.ThrowsAsync<InvalidOperationException>(() => trainer.RunAsync(cancel: Cancel));

        Assert.Contains("lora_B.weight got no gradient", problem.Message);
    }

    [Theory]
    [InlineData(TinyModels.Vocabulary)]
    [InlineData(-1)]
    public void Row_withATokenThatTheModelLacks_isNamed(int id)
    {
        using var temp = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(TinyModels.Write(temp), backend);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 2 });
        List<Example> rows = [new([1, 2, 3], [1, 2, 3], "data.jsonl", 7), new([1, id, 3], [1, id, 3], "data.jsonl", 8)];

        var problem = Assert.Throws<ArgumentException>(() => new SftTrainer(adapter, "base", rows, new SftOptions()));

        Assert.Contains($"data.jsonl:8: token id {id} is out of range, expected 0 to 40", problem.Message);
    }

    [Fact]
    public void Row_whoseLabelsAreWrong_isNamed()
    {
        using var temp = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(TinyModels.Write(temp), backend);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 2 });
        int[] ids = [1, 2, 3];
        foreach (int[] labels in new int[][] { [1, 2], [-100, -100, -100], [3, -100, -100], [1, -1, 3], [1, 2, TinyModels.Vocabulary] })
        {
            var problem = Assert.Throws<ArgumentException>(() => new SftTrainer(adapter, "base", [new Example(ids, labels, "data.jsonl", 8)], new SftOptions()));
            Assert.StartsWith("data.jsonl:8: ", problem.Message);
        }
    }

    [Fact]
    public async Task Loss_thatIsNotFinite_stopsBeforeTheWeightsChange()
    {
        using var temp = new TempFolder();
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(TinyModels.Write(temp), backend);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 2 });
        var update = adapter.Updates.First().Update;
        backend.Fill(update.B.Value, float.NaN);
        float[] before = backend.ReadFloats(update.A.Value);
        using var trainer = new SftTrainer(adapter, "base", TinyModels.Rows(4, 1), new SftOptions { MaxSteps = 1 });

        var problem = await Assert.ThrowsAsync<InvalidOperationException>(() => trainer.RunAsync(cancel: Cancel));

        Assert.Contains("the loss of step 1 is NaN", problem.Message);
        Assert.Equal(before, backend.ReadFloats(update.A.Value));
    }

    static SftOptions Options(bool packing) => new()
    {
        MicroBatchSize = packing ? 1 : 2,
        GradientAccumulation = 2,
        SequenceLength = 32,
        Packing = packing,
        LearningRate = 0.01,
        Schedule = ScheduleKind.Cosine,
        WarmupSteps = 2,
        Seed = 3,
    };

    static LoraConfig Adapter => new() { Rank = 3, Alpha = 6, Dropout = 0.1 };

    static async Task<List<StepMetrics>> Train(string folder, SftOptions options, string? resumeFrom, CancellationToken cancel, Action<StepMetrics>? onStep = null, LoraConfig? lora = null)
    {
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(folder, backend, WeightStorage.Nf4);
        using var adapter = new AdapterSet(model, lora ?? Adapter, options.Seed);
        using var trainer = new SftTrainer(adapter, folder, TinyModels.Rows(11, seed: 4), options);
        var steps = new Steps(onStep);
        await trainer.RunAsync(steps, resumeFrom, cancel);
        return steps.All;
    }

    static double[] GradientOf(string folder, List<Example> rows, int[][] split)
    {
        using var backend = new HostBackend<double>();
        using var model = PretrainedModel.Load(folder, backend);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 3, Alpha = 6 });
        foreach (var (_, update) in adapter.Updates)
        {
            backend.Fill(update.B.Value, 0.1); // zero at the start, which would hide A's gradient
        }

        using var pass = new LanguageModelPass(model);
        int tokens = split.Sum(part => part.Sum(i => rows[i].TrainedTokens));
        foreach (int[] part in split)
        {
            pass.Train(PackedBatch.From([.. part.Select(i => rows[i])]), tokens, (0, 0));
        }

        return backend.ReadDoubles(adapter.Parameters.Gradients);
    }
}
