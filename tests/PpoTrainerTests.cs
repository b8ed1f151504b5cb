using System.Text.Json;
using IlgpuPeft.Adapters;
using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Optim;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Text;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Whole runs of PPO: they learn, stop, break, and go on where they stood.</summary>
public class PpoTrainerTests(ITestOutputHelper output)
{
    // TRL's names, and what is measured beside them.
    static readonly string[] Names =
    [
        "objective/kl", "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward", "objective/scores", "policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg",
        "loss/value_avg", "val/clipfrac_avg", "policy/entropy_avg", "val/ratio", "val/ratio_var", "val/num_eos_tokens", "lr", "episode",
        "objective/kl_coef", "rewards/low ids", "completions/mean_length", "completions/min_length", "completions/max_length", "completions/mean_terminated_length", "completions/min_terminated_length", "completions/max_terminated_length",
        "completions/clipped_ratio", "policy/epochs", "val/grad_norm",
        "time/generate", "time/score", "time/update", "tokens_per_second/generate", "tokens_per_second/score", "tokens_per_second/update",
    ];

    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    public static TheoryData<string> Devices => TestDevices.WithKernels.Where(device => device.EndsWith("f32", StringComparison.Ordinal)).Rows();

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public async Task Policy_learnsWhatARulePaysFor_nearTheReference(ulong seed)
    {
        using var setup = new PpoSetup("cpu", seed);
        var options = PpoSetup.Options with
        {
            MicroBatchSize = 16, GradientAccumulation = 1, MiniBatches = 1, PpoEpochs = 4, MaxSteps = 25, MissingEosPenalty = 0, StopIds = [], LearningRate = 5e-3, KlCoefficient = 0.05, Seed = seed,
        };

        var steps = await Run(setup, options, prompts: [.. PpoSetup.Prompts, .. PpoSetup.Prompts.Take(4)]);

        double before = steps[..3].Average(step => step["rewards/low ids"]), after = steps[^3..].Average(step => step["rewards/low ids"]), kl = steps[^1]["objective/kl"];
        output.WriteLine($"reward {before:0.00} to {after:0.00}, kl {kl:0.00}");
        Assert.True(after > before + 0.2, $"the reward goes from {before:0.00} to {after:0.00}");
        Assert.InRange(kl, 0.05, 8);
        Assert.Equal(Names.Order(), steps[0].Measures!.Keys.Order());
        Assert.All(steps, step => Assert.Equal(400.0 * step.Step / 25, step["episode"]));
    }

    [Theory]
    [InlineData(1)]
    public async Task BuiltInModel_in4Bits_learnsWhatARulePaysFor(ulong seed)
    {
        const double Target = 6;
        using var temp = new TempFolder();
        BuiltInModel.Unpack(temp.Path);
        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(temp.Path, backend, WeightStorage.Nf4Double);
        var tokenizer = Tokenizer.Load(temp.Path);
        var lora = new LoraConfig { Rank = 4, Alpha = 8 };
        using var policy = new AdapterSet(model, lora, seed);
        using var value = new AdapterSet(model, lora, seed + 1, scalarHead: true);
        IReadOnlyList<Prompt> prompts = [.. Corpus.Documents(9).Take(48).Select(document => document[..(document.IndexOf('\n', StringComparison.Ordinal) + 1)])
            .Select((statement, i) => new Prompt(tokenizer.Encode(statement), statement, new Dictionary<string, string>(), "statements", i + 1))];
        var digits = Reward.Of("digits", sample => sample.Text.Count(char.IsAsciiDigit) / 8.0); // the next statement can be about anything; numbers are two skills of nine
        var options = new PpoOptions
        {
            MicroBatchSize = 16, MaxSteps = 15, PpoEpochs = 2, ResponseLength = 8, Temperature = 1, StopIds = [], LearningRate = 2e-3, Schedule = ScheduleKind.Constant, ClipRangeValue = 10,
            KlCoefficient = 0.1, AdaptiveKlTarget = Target, AdaptiveKlHorizon = 100, Seed = seed,
        };
        using var trainer = new PpoTrainer(policy, value, "built-in", tokenizer, prompts, new RewardSum([(digits, 1)]), options);
        var steps = new Steps();

        await trainer.RunAsync(steps, cancel: Cancel);

        double before = steps.All[..3].Average(step => step["rewards/digits"]), after = steps.All[^3..].Average(step => step["rewards/digits"]), kl = steps.All[^1]["objective/kl"];
        output.WriteLine($"digits {before:0.00} to {after:0.00}, kl {kl:0.00}, coefficient {steps.All[^1]["objective/kl_coef"]:0.000}; " +
            $"seconds of the last update: {steps.All[^1]["time/generate"]:0.00} to generate, {steps.All[^1]["time/score"]:0.00} to score, {steps.All[^1]["time/update"]:0.00} to learn");
        Assert.True(after > before + 0.2, $"the reward goes from {before:0.00} to {after:0.00}");
        Assert.InRange(kl, 0.1, Target);
    }

    [Fact]
    public async Task FirstUpdate_startsAtTheReference()
    {
        using var setup = new PpoSetup();

        var steps = await Run(setup, PpoSetup.Options);

        Assert.Equal(0, steps[0]["objective/kl"]); // the same passes over the same weights; without the temperature in one of them they would differ
        Assert.NotEqual(0, steps[1]["objective/kl"]);
        Assert.Equal(steps[1]["objective/rlhf_reward"], steps[1]["objective/scores"] - 0.05 * steps[1]["objective/kl"], 12);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Resume_continuesBitForBit(bool trlCompatible)
    {
        using var whole = new PpoSetup();
        var options = PpoSetup.Options with
        {
            MaxSteps = 5, SaveEvery = 2, SampleEvery = 1, AdaptiveKlTarget = 0.1, AdaptiveKlHorizon = 20, TrlCompatible = trlCompatible, ValueLearningRate = 3e-2, OutputFolder = whole.PathOf("run"),
        };
        var expected = await Run(whole, options);

        using var first = new PpoSetup();
        var cut = options with { OutputFolder = first.PathOf("run") };
        await Run(first, cut);
        Directory.Delete(Path.Combine(cut.OutputFolder!, "checkpoint-4"), recursive: true);
        Directory.Delete(Path.Combine(cut.OutputFolder!, "checkpoint-5"), recursive: true);
        using var second = new PpoSetup(); // nothing is left of the first but its folder
        var resumed = await Run(second, cut, resumeFrom: new RunFolder(cut.OutputFolder!).LatestCheckpoint());

        Assert.Equal([3, 4, 5], resumed.Select(step => step.Step));
        Assert.Equal(expected.Skip(2).Select(Numbers), resumed.Select(Numbers));
        Assert.Equal(5, expected.Select(step => step["objective/kl_coef"]).Distinct().Count());
        foreach (string part in new[] { "", "value" })
        {
            Assert.Equal(File.ReadAllBytes(Path.Combine(options.OutputFolder!, part, PeftFiles.WeightsName)), File.ReadAllBytes(Path.Combine(cut.OutputFolder!, part, PeftFiles.WeightsName)));
        }

        Assert.Equal(File.ReadAllText(Path.Combine(options.OutputFolder!, "samples.jsonl")), File.ReadAllText(Path.Combine(cut.OutputFolder!, "samples.jsonl")));
        Assert.Equal(5, File.ReadLines(Path.Combine(cut.OutputFolder!, "metrics.jsonl")).Count());
    }

    [Fact]
    public async Task Cancel_savesACheckpointThatContinuesBitForBit()
    {
        using var whole = new PpoSetup();
        var expected = await Run(whole, PpoSetup.Options);
        using var setup = new PpoSetup();
        var options = PpoSetup.Options with { OutputFolder = setup.PathOf("run") };
        using var source = new CancellationTokenSource();

        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Run(setup, options, onStep: step => (step.Step == 2 ? source.CancelAsync() : Task.CompletedTask).Wait(), cancel: source.Token));
        var resumed = await Run(setup, options, resumeFrom: new RunFolder(options.OutputFolder!).LatestCheckpoint());

        Assert.Equal(expected.Skip(2).Select(Numbers), resumed.Select(Numbers));
    }

    [Theory]
    [InlineData("throws")]
    [InlineData("nan")]
    [InlineData("times out")]
    public async Task Reward_thatFails_leavesACheckpointThatContinuesBitForBit(string failure)
    {
        using var whole = new PpoSetup();
        var expected = await Run(whole, PpoSetup.Options);
        using var setup = new PpoSetup();
        var options = PpoSetup.Options with { OutputFolder = setup.PathOf("run") };
        bool fails = false;
        RewardSum rewards = new([(Reward.Of("low ids", sample => fails ? Fail() : PpoSetup.LowIds.Judge([sample]).Sums[0].Score), 1)]);

        var problem = await Assert.ThrowsAsync<RewardException>(() => Run(setup, options, rewards, onStep: step => fails = step.Step == 2));
        fails = false;
        var resumed = await Run(setup, options, rewards, resumeFrom: new RunFolder(options.OutputFolder!).LatestCheckpoint());

        Assert.Contains("low ids", problem.Message);
        Assert.Contains("prompts:", problem.Message);
        Assert.Equal([3], resumed.Select(step => step.Step));
        Assert.Equal(expected.Skip(2).Select(Numbers), resumed.Select(Numbers));

        double Fail() => failure == "nan" ? double.NaN : throw (failure == "throws" ? new InvalidOperationException("the judge is out") : new TaskCanceledException("the judge did not answer in time"));
    }

    [Theory, MemberData(nameof(Devices))]
    public async Task Run_inKernels_followsTheCpu(string device)
    {
        using var host = new PpoSetup("cpu");
        var options = PpoSetup.Options with { MaxSteps = 2, MicroBatchSize = 4, GradientAccumulation = 1, ResponseLength = 4 };
        var expected = await Run(host, options);
        using var setup = new PpoSetup(device);

        var steps = await Run(setup, options);

        Assert.Equal(expected.Count, steps.Count);
        foreach (var (reference, step) in expected.Zip(steps))
        {
            string[] names = [.. reference.Measures!.Keys.Where(name => !IsTime(name) && name is not ("policy/clipfrac_avg" or "val/clipfrac_avg"))];
            Compare.Close([.. names.Select(name => reference[name])], [.. names.Select(name => step[name])], 1e-4, "measures");
            Assert.Equal(reference.Loss, step.Loss, 4);
            Assert.Equal(reference.GradientNorm, step.GradientNorm, 1e-3 * reference.GradientNorm);
        }
    }

    [Fact]
    public async Task Roles_shareOneBase()
    {
        using var setup = new PpoSetup();
        using (var pass = new LanguageModelPass(setup.Model))
        {
            pass.LogProbs(PackedBatch.From([new Example(PpoSetup.Prompts[0].Ids, PpoSetup.Prompts[0].Ids, "", 0)])); // tables of positions are made when first asked for
        }

        long bare = setup.Backend.Memory.ByOwner["weights"];
        setup.Reference = setup.NewAdapter(9);
        using var judge = new AdapterSet(setup.Model, PpoSetup.Lora, 8, scalarHead: true);
        using var model = new RewardModel(judge);
        long adapters = setup.Backend.Memory.ByOwner["adapters"];

        using var trainer = setup.NewTrainer(PpoSetup.Options with { MaxSteps = 2 }, new RewardSum([(model, 1)]));
        await trainer.RunAsync(cancel: Cancel);

        output.WriteLine(setup.Backend.Memory.ToString());
        Assert.Equal(bare, setup.Backend.Memory.ByOwner["weights"]);
        Assert.Equal(adapters, setup.Backend.Memory.ByOwner["adapters"]);
        long trained = setup.Policy.Parameters.Values.Length + setup.Value.Parameters.Values.Length;
        Assert.InRange(setup.Backend.Memory.ByOwner["optimizer"], 2 * trained * sizeof(float), 2 * trained * sizeof(float) + 1024); // two moments and a norm for each of two parts
        Assert.All(setup.Backend.Memory.ByOwner.Where(x => x.Value > 0), x => Assert.Contains(x.Key, new[] { "weights", "adapters", "gradients", "optimizer", "activations", "kv cache" }));
    }

    [Fact]
    public async Task Divergence_aboveItsCeiling_endsTheRunBeforeItIsLearnedFrom()
    {
        using var setup = new PpoSetup();
        var options = PpoSetup.Options with { MaxSteps = 20, MaxKl = 0.2, LearningRate = 5e-2, SaveEvery = 100, OutputFolder = setup.PathOf("run") };
        var steps = new Steps();
        using var trainer = setup.NewTrainer(options);

        var result = await trainer.RunAsync(steps, cancel: Cancel);

        Assert.InRange(result.Steps, 2, 19);
        Assert.Contains("above max_kl 0.2", result.StopReason);
        Assert.True(steps.All[^1]["objective/kl"] > 0.2);
        Assert.All(steps.All.SkipLast(1), step => Assert.True(step["objective/kl"] <= 0.2));
        Assert.Equal($"checkpoint-{result.Steps}", Path.GetFileName(new RunFolder(options.OutputFolder!).LatestCheckpoint()));
        using var pass = new LanguageModelPass(setup.Model);
        var batch = PackedBatch.From([trainer.LastRollout!.Sequences[0]]);
        Compare.Close(trainer.LastRollout.LogProbs[0], batch.OfTargets(pass.Measure(batch, options.Temperature).LogProbs)[0], 1e-5, "the model that the run leaves behind, against the policy");
        using var roles = setup.NewRoles(options);
        var passes = PpoUpdate.FirstEpoch(trainer.LastRollout.Count, trainer.LastRollout.OrderSeed, options);
        Compare.Same([.. trainer.LastRollout.LogProbs.SelectMany(x => x)], [.. roles.PolicyLogProbs(trainer.LastRollout.Sequences, passes).SelectMany(x => x)]); // the policy that was measured
    }

    [Fact]
    public async Task Samples_areHeardAndWritten()
    {
        using var setup = new PpoSetup();
        List<PolicySample> heard = [];
        var options = PpoSetup.Options with { MaxSteps = 3, SampleEvery = 2, OutputFolder = setup.PathOf("run") };
        var rollouts = new List<Rollout>();
        using var trainer = setup.NewTrainer(options, samples: new ImmediateProgress<IReadOnlyList<PolicySample>>(heard.AddRange));

        await trainer.RunAsync(new Steps(_ => rollouts.Add(trainer.LastRollout!)), cancel: Cancel);

        Assert.Equal([.. Enumerable.Repeat(1, 6), .. Enumerable.Repeat(3, 6)], heard.Select(sample => sample.Step));
        Assert.Equal(rollouts[0].Samples.Concat(rollouts[2].Samples).Select(sample => (sample.Prompt.Text, sample.Text)), heard.Select(sample => (sample.Prompt, sample.Response)));
        Assert.Equal(rollouts[2].Scores, heard.Skip(6).Select(sample => sample.Score));
        Assert.Equal(heard, File.ReadLines(Path.Combine(options.OutputFolder!, "samples.jsonl")).Select(line => JsonSerializer.Deserialize<PolicySample>(line)!));
    }

    static object Numbers(StepMetrics step) => (step.Loss, step.GradientNorm, step.LearningRate, string.Join(' ', step.Measures!.Where(pair => !IsTime(pair.Key)).OrderBy(pair => pair.Key)));

    static bool IsTime(string name) => name.StartsWith("time/", StringComparison.Ordinal) || name.StartsWith("tokens_per_second/", StringComparison.Ordinal);

    static async Task<List<StepMetrics>> Run(
        PpoSetup setup, PpoOptions options, RewardSum? rewards = null, IReadOnlyList<Prompt>? prompts = null, Action<StepMetrics>? onStep = null, string? resumeFrom = null,
        CancellationToken? cancel = null)
    {
        var steps = new Steps(onStep);
        using var trainer = setup.NewTrainer(options, rewards, prompts);
        await trainer.RunAsync(steps, resumeFrom, cancel ?? Cancel);
        return steps.All;
    }
}
