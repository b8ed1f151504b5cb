using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;
using IlgpuPeft.Preferences;
using IlgpuPeft.Tensors;
using IlgpuPeft.Text;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Reward models: the loss against plain arithmetic, what must not depend on how a step is cut up, and that they learn.</summary>
public sealed class RewardTrainerTests(ITestOutputHelper output)
{
    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    static RewardOptions Options => new() { MaxSteps = 4, LearningRate = 0.01, Schedule = ScheduleKind.Constant, Seed = 5, MicroBatchSize = 4 };

    [Theory]
    [InlineData(0, 0)]
    [InlineData(0.3, 0.05)]
    public async Task Step_hasTheBradleyTerryLossOfTheScoresAtTheLastTokens(double margin, double centring)
    {
        using var subject = new RewardSubject("cpu-f64");
        var pairs = RewardPairs.Marked(3, seed: 1, margin);
        double[] chosen = [.. pairs.Select(pair => Score([.. pair.Prompt, .. pair.Chosen]))], rejected = [.. pairs.Select(pair => Score([.. pair.Prompt, .. pair.Rejected]))];
        double[] gaps = [.. chosen.Zip(rejected, (c, r) => c - r)];
        double loss = pairs.Select((pair, i) => Math.Log(1 + Math.Exp(pair.Margin - gaps[i])) + centring * Math.Pow(chosen[i] + rejected[i], 2)).Average();

        var steps = new Steps();
        using var trainer = subject.Trainer(pairs, Options with { MaxSteps = 2, CenterRewardsCoefficient = centring }, pairs);
        var result = await trainer.RunAsync(steps, cancel: Cancel);

        var first = steps.All[0];
        Assert.Equal(loss, first.Loss, 1e-9);
        Assert.Equal(loss, result.Initial!.Loss, 1e-9);
        var expected = new Dictionary<string, double>
        {
            ["accuracy"] = gaps.Count(gap => gap > 0) / 3.0,
            ["margin"] = gaps.Average(),
            ["mean_reward"] = chosen.Concat(rejected).Average(),
            ["min_reward"] = chosen.Concat(rejected).Min(),
            ["max_reward"] = chosen.Concat(rejected).Max(),
        };
        Assert.All(expected, pair => Assert.Equal(pair.Value, first[pair.Key], 1e-9));
        Assert.All(expected, pair => Assert.Equal(pair.Value, result.Initial.Measures![pair.Key], 1e-9));
        int tokens = pairs.Sum(pair => pair.ChosenExample.Length + pair.RejectedExample.Length);
        Assert.Equal([tokens, 2 * tokens], steps.All.Select(step => (int)step["num_tokens"]));
        Assert.Equal(result.Final!.Measures!["accuracy"], steps.All[1]["eval_accuracy"]);
        Assert.True(steps.All[1].Loss < first.Loss);

        // One sequence alone: nothing of packing is taken on trust.
        double Score(int[] ids)
        {
            using var pass = new LanguageModelPass(subject.Model);
            return pass.Scores(PackedBatch.From([new Example(ids, ids, "", 0)]), subject.Adapter.Head!)[ids.Length - 1];
        }
    }

    [Fact]
    public async Task Step_isTheSameHoweverItsPairsAreSplitIntoPasses()
    {
        var whole = await Run(1, 6);
        foreach (var (accumulation, size) in ((int, int)[])[(6, 1), (3, 2), (2, 4)])
        {
            var split = await Run(accumulation, size);
            Compare.Close(whole.Values, split.Values, 1e-7, "trained values");
            for (int i = 0; i < whole.Steps.Count; i++)
            {
                Assert.Equal(whole.Steps[i].Loss, split.Steps[i].Loss, 1e-9);
                Assert.All(whole.Steps[i].Measures!.Keys, name => Assert.Equal(whole.Steps[i][name], split.Steps[i][name], 1e-9));
            }
        }

        async Task<(double[] Values, List<StepMetrics> Steps)> Run(int accumulation, int size)
        {
            using var subject = new RewardSubject("cpu-f64");
            var steps = new Steps();
            using var trainer = subject.Trainer(RewardPairs.Marked(6, seed: 2, margin: 0.1), Options with
            {
                MaxSteps = 3, GradientAccumulation = accumulation, MicroBatchSize = size, Shuffle = false, CenterRewardsCoefficient = 0.02,
            });
            await trainer.RunAsync(steps, cancel: Cancel);
            return (subject.Backend.ReadDoubles(subject.Adapter.Parameters.Values), steps.All);
        }
    }

    [Fact]
    public async Task Resume_continuesBitForBit()
    {
        using var temp = new TempFolder();
        var options = Options with { MaxSteps = 5, SaveEvery = 2, Shuffle = true };
        var whole = await Run(options with { OutputFolder = temp.File("whole") }, null);

        var cut = options with { OutputFolder = temp.File("cut") };
        await Run(cut, null);
        Directory.Delete(Path.Combine(temp.File("cut"), "checkpoint-4"), recursive: true);
        Directory.Delete(Path.Combine(temp.File("cut"), "checkpoint-5"), recursive: true);
        var resumed = await Run(cut, new RunFolder(temp.File("cut")).LatestCheckpoint());

        Assert.Equal([3, 4, 5], resumed.Select(step => step.Step));
        Assert.Equal(whole.Skip(2).Select(Numbers), resumed.Select(Numbers));
        Assert.Equal(File.ReadAllBytes(Path.Combine(temp.File("whole"), PeftFiles.WeightsName)), File.ReadAllBytes(Path.Combine(temp.File("cut"), PeftFiles.WeightsName)));
        Assert.Equal(5, File.ReadLines(Path.Combine(temp.File("cut"), "metrics.jsonl")).Count());

        var other = await Assert.ThrowsAsync<CheckpointException>(() => Run(cut with { CenterRewardsCoefficient = 0.01 }, Path.Combine(temp.File("cut"), "checkpoint-2")));
        Assert.Contains("belongs to a run with other settings", other.Message, StringComparison.Ordinal);

        static (double, double, double, double) Numbers(StepMetrics step) => (step.Loss, step.GradientNorm, step["margin"], step["num_tokens"]);

        static async Task<List<StepMetrics>> Run(RewardOptions options, string? resumeFrom)
        {
            using var subject = new RewardSubject("cpu", WeightStorage.Nf4);
            using var trainer = subject.Trainer(RewardPairs.Marked(9, seed: 3), options);
            var steps = new Steps();
            await trainer.RunAsync(steps, resumeFrom, Cancel);
            return steps.All;
        }
    }

    [Fact]
    public async Task Resume_withTheMarginsOfOtherPairs_isRefused()
    {
        using var temp = new TempFolder();
        var options = Options with { MaxSteps = 1, SaveEvery = 1, OutputFolder = temp.File("run") };
        var pairs = RewardPairs.Marked(2, seed: 3);
        using var subject = new RewardSubject();
        using (var trainer = Open(0.5, 0))
        {
            await trainer.RunAsync(cancel: Cancel);
        }

        foreach (var (first, second) in new[] { (0, 0.5), (0.5, 0.5), (0, 0) })
        {
            using var other = Open(first, second);
            Assert.Throws<CheckpointException>(() => other.RequireResumable(temp.File("run/checkpoint-1")));
        }

        using var same = Open(0.5, 0);
        same.RequireResumable(temp.File("run/checkpoint-1"));

        RewardTrainer Open(double first, double second) => subject.Trainer([pairs[0] with { Margin = first }, pairs[1] with { Margin = second }], options);
    }

    // Roughly half of the held-out pairs are right by chance. The marker stands before the end, so that only attention can carry it to where the score is read.
    [Theory]
    [InlineData("cpu", WeightStorage.Nf4)]
    [InlineData("emulator-f32", WeightStorage.AsStored)]
    public async Task MarkedResponses_areLearned(string device, WeightStorage storage)
    {
        using var subject = new RewardSubject(device, storage);
        List<PreferencePair> train = RewardPairs.Marked(16, seed: 4), held = RewardPairs.Marked(16, seed: 5);
        var steps = new Steps();
        using var trainer = subject.Trainer(train, Options with { MaxSteps = 12, MicroBatchSize = 16, LearningRate = 0.02 }, held);
        var result = await trainer.RunAsync(steps, cancel: Cancel);
        double before = result.Initial!.Measures!["accuracy"], after = result.Final!.Measures!["accuracy"];
        output.WriteLine($"{device}: {before:p0} -> {after:p0} of held-out pairs, loss {steps.Losses[0]:0.000} -> {steps.Losses[^1]:0.000}");
        Assert.True(after >= 0.8 && after > before, $"{before:p0} -> {after:p0}");
        Assert.True(steps.Losses[^1] < 0.5 * steps.Losses[0]);
    }

    [Fact]
    public void Constructor_refusesWhatCannotBeLearned()
    {
        using var subject = new RewardSubject();
        var good = RewardPairs.Marked(2, seed: 6);
        foreach (var (bad, message) in ((PreferencePair, string)[])
        [
            (good[0] with { Rejected = good[0].Chosen }, "pairs:1: the chosen and the rejected response are the same"),
            (good[0] with { Chosen = [] }, "expected at least 1 each"),
            (good[0] with { Prompt = [] }, "expected at least 1 each"),
            (good[0] with { Chosen = [.. Enumerable.Repeat(3, 40)] }, "expected at most max_length = 32"),
            (good[0] with { Rejected = [3, TinyModels.Vocabulary] }, "pairs:1: token id 41 is out of range, expected 0 to 40"),
        ])
        {
            Assert.Contains(message, Refused(() => subject.Trainer([good[1], bad], Options with { MaxLength = 32 })), StringComparison.Ordinal);
            Assert.Contains(message, Refused(() => subject.Trainer(good, Options with { MaxLength = 32 }, [bad])), StringComparison.Ordinal);
        }

        Assert.Contains("no rows to train on", Refused(() => subject.Trainer([], Options)), StringComparison.Ordinal);
        Assert.Contains("CenterRewardsCoefficient is -1, expected 0 or more", Refused(() => subject.Trainer(good, Options with { CenterRewardsCoefficient = -1 })), StringComparison.Ordinal);
        using var plain = new AdapterSet(subject.Model, RewardPairs.Lora);
        Assert.Contains("has no scalar head", Refused(() => new RewardTrainer(plain, subject.Folder, good, Options)), StringComparison.Ordinal);

        static string Refused(Func<RewardTrainer> make) => Assert.ThrowsAny<ArgumentException>(() => make().Dispose()).Message;
    }

    // The whole road: published pairs, a published model in NF4, LoRA and a head; the pairs that are asked about were not trained on. Two epochs over pairs of up to 80 tokens.
    [Fact]
    public async Task PublishedPreferences_areLearnedAndHoldForUnseenPairs()
    {
        const int Seed = 1, Held = 200;
        string folder = TestAssets.Path("assets/stories260k-hf");
        var source = new DatasetSource { Path = TestAssets.Path("assets/data-rasbt/instruction-data-with-preference.json"), Type = DatasetType.PromptCompletion, FieldInstruction = "instruction" };
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(folder, backend, WeightStorage.Nf4Double);
        using var adapter = new AdapterSet(model, new LoraConfig { Rank = 8, Alpha = 16 }, Seed, scalarHead: true);
        var pairs = Dataset.LoadPairs([source], new DatasetOptions { SequenceLength = 80 }, Tokenizer.Load(folder)).Items;
        var (train, held) = DataOrder.Split(pairs.Count, Held, Seed);
        var options = new RewardOptions { Epochs = 2, MicroBatchSize = 16, LearningRate = 3e-3, CenterRewardsCoefficient = 0.01, Seed = Seed };
        using var trainer = new RewardTrainer(adapter, folder, [.. train.Select(i => pairs[i])], options, [.. held.Select(i => pairs[i])]);

        var result = await trainer.RunAsync(cancel: Cancel);

        double before = result.Initial!.Measures!["accuracy"], after = result.Final!.Measures!["accuracy"];
        output.WriteLine($"{before:p1} -> {after:p1} of {Held} held-out pairs after {result.Steps} steps; loss {result.Initial.Loss:0.000} -> {result.Final.Loss:0.000}");
        Assert.True(after > 0.8, $"{after:p1} of held-out pairs");
    }
}
