using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The files of runs in one folder: which checkpoint is the latest, which is removed, what a fresh run clears away.</summary>
public sealed class RunFolderTests : IDisposable
{
    readonly TempFolder temp = new();
    readonly HostBackend<float> backend = new();

    string Run => temp.File("run");

    public void Dispose()
    {
        backend.Dispose();
        temp.Dispose();
    }

    [Fact]
    public void Latest_isTheSameInACopy_whateverTheTimesOfItsFiles()
    {
        Save(new RunFolder(Run), 5, 10, 15);
        DateTime newest = new(2030, 1, 1, 0, 0, 0, DateTimeKind.Utc);
        foreach (var (step, age) in new[] { (5, 0), (10, 2), (15, 1) })
        {
            File.SetLastWriteTimeUtc(Path.Combine(Run, $"checkpoint-{step}", ResumeState.FileName), newest.AddHours(-age));
        }

        Assert.Equal("checkpoint-15", Latest());
        Save(new RunFolder(Run, keep: 2), 20);
        Assert.Equal(["checkpoint-15", "checkpoint-20"], Names());
    }

    [Fact]
    public void Latest_ofSeveralRuns_isOfTheLastOne()
    {
        Save(new RunFolder(Run), 6, 9, 12);
        Save(new RunFolder(Run), 3, 6); // a shorter run, or one that went back

        Assert.Equal("checkpoint-6", Latest());
        Assert.Equal([(2, 3), (2, 6), (1, 9), (1, 12)], new[] { 3, 6, 9, 12 }.Select(step => ResumeState.Load(Path.Combine(Run, $"checkpoint-{step}"))).Select(state => (state.RunNumber, state.Step)));
        Save(new RunFolder(Run, keep: 2), 4);
        Assert.Equal(["checkpoint-4", "checkpoint-6"], Names());
        Assert.Equal("checkpoint-4", Latest());
    }

    [Fact]
    public void Checkpoint_thatCannotBeRead_isTheFirstToGo()
    {
        Save(new RunFolder(Run), 4, 8);
        File.WriteAllBytes(Path.Combine(Run, "checkpoint-8", ResumeState.FileName), [1, 2, 3]);

        Assert.Equal("checkpoint-4", Latest());
        Save(new RunFolder(Run, keep: 2), 6);
        Assert.Equal(["checkpoint-4", "checkpoint-6"], Names());
    }

    [Fact]
    public void FreshRun_startsRowsAnew_andLeavesWeights()
    {
        string[] rows = ["{\"step\":1}", "{\"step\":2}", "{\"step\":3}"];
        Directory.CreateDirectory(Path.Combine(Run, "value"));
        var folder = new RunFolder(Run);
        string weights = Path.Combine(Run, "value", PeftFiles.WeightsName);
        foreach (string file in new[] { folder.MetricsPath, folder.SamplesPath, folder.ReportPath, weights })
        {
            File.WriteAllLines(file, rows);
        }

        folder.Start(stepsDone: 2);
        Assert.Equal([2, 2, 3], new[] { folder.MetricsPath, folder.SamplesPath, folder.ReportPath }.Select(file => File.ReadLines(file).Count()));

        folder.Start(stepsDone: 0);
        Assert.Equal("", File.ReadAllText(folder.MetricsPath));
        Assert.False(File.Exists(folder.SamplesPath));
        Assert.False(File.Exists(folder.ReportPath));
        Assert.True(File.Exists(weights));
    }

    [Theory]
    [InlineData("a 1, b 2, c 3", "a 1, b 5, c 3", "found [b 2], expected [b 5]")]
    [InlineData("a 1, S { K = x, L = 1 }, c 3", "a 1, S { K = x, L = 2 }, c 4", "found [L = 1], expected [L = 2]; found [c 3], expected [c 4]")]
    [InlineData("Sft, a 1, b 2", "Dpo, a 1", "found [Sft, b 2], expected [Dpo]")]
    public void Fingerprints_areComparedPartByPart(string found, string expected, string difference) => Assert.Equal(difference, Fingerprint.Difference(found, expected));

    void Save(RunFolder folder, params int[] steps)
    {
        using var model = PretrainedModel.Load(TinyModels.Write(temp), backend);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 2 });
        using var optimizer = new AdamWOptimizer(backend, adapter.Parameters, new AdamWOptions());
        foreach (int step in steps)
        {
            var state = new ResumeState { Step = step, Epoch = 0, Index = step, Fingerprint = "a run", OptimizerSteps = [step] };
            Assert.Equal(Path.Combine(Run, $"checkpoint-{step}"), folder.SaveCheckpoint(state, [new TrainedPart("", TrainedWeights.Of(adapter, "base"), optimizer)], backend));
        }
    }

    string? Latest() => Path.GetFileName(new RunFolder(Run).LatestCheckpoint());

    IEnumerable<string?> Names() => Directory.GetDirectories(Run).Select(Path.GetFileName).Order();
}
