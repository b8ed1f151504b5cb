using System.Text.Json;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Optim;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>Runs of group relative policy optimization: what they measure and write, what they refuse, and that they continue bit for bit.</summary>
public class GrpoTrainerTests
{
    static readonly GrpoOptions Options = new()
    {
        MaxSteps = 3, MicroBatchSize = 2, NumGenerations = 4, MaxCompletionLength = 8, LearningRate = 0.02, Schedule = ScheduleKind.Constant, Seed = 5,
    };

    public static TheoryData<string> Devices => TestDevices.WithKernels.Where(device => device.EndsWith("f32", StringComparison.Ordinal)).Rows();

    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Fact]
    public async Task Measures_areThoseOfTheCompletions()
    {
        using var setup = new GrpoSetup();
        using var trainer = setup.Trainer(Options with { MaxSteps = 1, Beta = 0.1 });

        var step = (await trainer.RunAsync(cancel: Cancel)).Last!;

        var samples = trainer.LastGroups!.Samples;
        int[] lengths = [.. samples.Select(sample => sample.Response.Length)], ended = [.. samples.Where(sample => sample.Ended).Select(sample => sample.Response.Length)];
        double[] even = [.. samples.Select(sample => (double)sample.Response.Count(id => id % 2 == 0))], length = [.. lengths.Select(n => -Math.Abs(n - 6) / 6.0)];
        double[] totals = [.. even.Zip(length, (x, y) => x + 0.5 * y)];
        Assert.Equal(8, samples.Count);
        Assert.All(samples.Chunk(4), group => Assert.Single(group.Select(sample => sample.Prompt).Distinct()));
        Assert.NotEqual(samples[0].Prompt, samples[4].Prompt);
        Assert.True(samples.Select(sample => sample.Text).Distinct().Count() > 4, "completions of one prompt differ");
        Assert.InRange(ended.Length, 1, 7);
        Assert.All(samples, sample => Assert.Equal(sample.Ended, sample.Response[^1] == 2));
        var expected = new Dictionary<string, double>
        {
            ["reward"] = totals.Average(), ["reward_std"] = Deviation(totals), ["frac_reward_zero_std"] = 0,
            ["rewards/even/mean"] = even.Average(), ["rewards/even/std"] = Deviation(even), ["rewards/length/mean"] = length.Average(), ["rewards/length/std"] = Deviation(length),
            ["completions/mean_length"] = lengths.Average(), ["completions/min_length"] = lengths.Min(), ["completions/max_length"] = lengths.Max(),
            ["completions/mean_terminated_length"] = ended.Average(), ["completions/min_terminated_length"] = ended.Min(), ["completions/max_terminated_length"] = ended.Max(),
            ["completions/clipped_ratio"] = (8.0 - ended.Length) / 8,
            ["clip_ratio/low_mean"] = 0, ["clip_ratio/high_mean"] = 0, ["clip_ratio/region_mean"] = 0, // the policy is the one that drew
        };
        Assert.All(expected, pair => Assert.Equal(pair.Value, step[pair.Key], 1e-12));
        Assert.InRange(step["entropy"], 0.1, Math.Log(TinyModels.Vocabulary));
        Assert.True(step["kl"] > 0);
        Assert.Equal((samples.Sum(sample => sample.Prompt.Ids.Length + sample.Response.Length), lengths.Sum()), (step.Tokens, step.TrainedTokens));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(0.1)]
    public async Task Step_ofSeveralIterations_correctsForThePolicyThatDrew(double beta)
    {
        var options = Options with { MaxSteps = 1, NumIterations = 3, Beta = beta, LearningRate = 0.1 };
        using var setup = new GrpoSetup();
        using var replay = new GrpoSetup();
        using var trainer = setup.Trainer(options);
        var step = (await trainer.RunAsync(cancel: Cancel)).Last!;
        using var update = new GroupUpdate(replay.Policy, null, options);
        using var optimizer = new AdamWOptimizer(replay.Backend, replay.Policy.Parameters, options.Optimizer);
        var groups = trainer.LastGroups!;

        double[][]? reference = update.ReferenceLogProbs(groups);
        double[][] drew = update.Differentiate(groups, null, reference).LogProbs;
        List<double> losses = [], clipped = [];
        for (int iteration = 0; iteration < 3; iteration++)
        {
            replay.Policy.Parameters.ZeroGradients();
            var gradient = update.Differentiate(groups, drew, reference);
            losses.Add(gradient.Loss);
            clipped.Add(gradient.Metrics["clip_ratio/region_mean"]);
            optimizer.Step(options.LearningRate);
        }

        Compare.Same(replay.Weights(), setup.Weights());
        Assert.Equal(losses.Average(), step.Loss, 1e-12);
        Assert.Equal(0, clipped[0]);
        Assert.True(clipped[1] > 0 && clipped[2] > 0, "the policy did not move far enough for old and new to differ");
        Assert.Equal(clipped.Average(), step["clip_ratio/region_mean"], 1e-12);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(0.1)]
    public async Task Phases_haveTheirTimeAndTheirTokens(double beta)
    {
        using var setup = new GrpoSetup("cpu");
        using var trainer = setup.Trainer(Options with { MaxSteps = 1, Beta = beta, NumIterations = 2, MaskTruncatedCompletions = true });

        var step = (await trainer.RunAsync(cancel: Cancel)).Last!;

        var groups = trainer.LastGroups!;
        int drawn = groups.Samples.Sum(sample => sample.Response.Length), read = groups.Sequences.Sum(sequence => sequence.Length), learnt = groups.Learnt.Sum(s => groups.Sequences[s].Length);
        Assert.InRange(learnt, 1, read - 1); // some were cut
        List<(string Phase, int Tokens)> phases = [("generate", drawn), ("reward", read), ("score", learnt), ("update", 2 * learnt)];
        phases.RemoveAll(phase => phase.Phase == "score" && beta == 0); // there is no reference to ask
        Assert.Equal(phases.SelectMany(phase => new[] { "time/" + phase.Phase, "tokens_per_second/" + phase.Phase }).Order(), step.Measures!.Keys.Where(IsTime).Order());
        Assert.All(phases, phase => Assert.Equal(phase.Tokens, step["time/" + phase.Phase] * step["tokens_per_second/" + phase.Phase], 1e-6));
    }

    [Fact]
    public async Task Resume_continuesBitForBit()
    {
        var options = Options with { MaxSteps = 5, SaveEvery = 2, NumIterations = 2, Beta = 0.05, SampleEvery = 1, EvaluateEvery = 2 };
        using var setup = new GrpoSetup("cpu");
        using var cut = new GrpoSetup("cpu");
        var whole = await Run(setup, options with { OutputFolder = setup.Output("whole") });
        var stopped = options with { OutputFolder = cut.Output("cut") };
        await Run(cut, stopped);

        cut.Backend.Fill(cut.Policy.Parameters.Values, 0);
        var resumed = await Run(cut, stopped, Path.Combine(stopped.OutputFolder!, "checkpoint-2"));

        Assert.Equal([3, 4, 5], resumed.Select(step => step.Step));
        Assert.Equal(whole.Skip(2).Select(Numbers), resumed.Select(Numbers));
        Compare.Same(setup.Weights(), cut.Weights());
        Assert.Equal(File.ReadAllText(Path.Combine(setup.Output("whole"), "samples.jsonl")), File.ReadAllText(Path.Combine(stopped.OutputFolder!, "samples.jsonl")));
        var other = cut.Trainer(stopped with { NumGenerations = 3 });
        await Assert.ThrowsAsync<CheckpointException>(() => other.RunAsync(resumeFrom: Path.Combine(stopped.OutputFolder!, "checkpoint-2"), cancel: Cancel));
        other.Dispose();

        static string Numbers(StepMetrics step) => string.Join(' ', step.Measures!.Where(pair => !IsTime(pair.Key)).Append(new("loss", step.Loss)).Append(new("norm", step.GradientNorm)));
    }

    [Fact]
    public async Task Samples_everySecondStep_areTheFirstGroup()
    {
        using var setup = new GrpoSetup("cpu");
        var heard = new List<GroupSample>();
        using var trainer = new GrpoTrainer(setup.Policy, "base", null, GrpoSetup.Prompts, GrpoSetup.Rewards, Options with { SampleEvery = 2, OutputFolder = setup.Output("run") }) { Samples = new ImmediateProgress<IReadOnlyList<GroupSample>>(heard.AddRange) };

        await trainer.RunAsync(cancel: Cancel);

        var rows = File.ReadLines(Path.Combine(setup.Output("run"), "samples.jsonl")).Select(line => JsonSerializer.Deserialize<GroupSample>(line)!).ToList();
        Assert.Equal([1, 1, 1, 1, 3, 3, 3, 3], rows.Select(row => row.Step));
        Assert.Equal(heard, rows);
        var groups = trainer.LastGroups!;
        Assert.Equal(groups.Samples.Take(4).Select((sample, i) => new GroupSample(3, sample.Prompt.Text, sample.Text, groups.Rewards[i], groups.Advantages[i])), rows.Skip(4));
        Assert.Equal(0, rows.Skip(4).Sum(row => row.Advantage), 1e-9);
    }

    [Fact]
    public async Task Evaluation_ofValidationPrompts_isTheMeanRewardOfTheLikeliestCompletions()
    {
        using var setup = new GrpoSetup("cpu");
        using var trainer = setup.Trainer(Options with { MaxSteps = 2, EvaluateEvery = 1 }, validation: [.. GrpoSetup.Prompts.Take(3)]);
        var steps = new Steps();

        var result = await trainer.RunAsync(steps, cancel: Cancel);

        Assert.Equal(-result.Final!.Loss, result.Final.Measures!["reward"]);
        Assert.Equal([true, true], steps.All.Select(step => step.Measures!.ContainsKey("eval_rewards/even/mean")));
        Assert.Equal(result.Final.Measures["reward"], steps.All[^1]["eval_reward"]);
        setup.Policy.Enable();
        using var completions = new Completions(setup.Model, null, maxSequences: 32);
        var samples = completions.Draw([.. GrpoSetup.Prompts.Take(3)], new() { MaxTokens = 8 }, TestContext.Current.CancellationToken);
        Assert.Equal(GrpoSetup.Rewards.Judge(samples).Sums.Average(sum => sum.Total), result.Final.Measures["reward"], 1e-12);
    }

    [Fact]
    public async Task RewardThatFails_stopsTheRunBeforeTheWeightsChange()
    {
        using var setup = new GrpoSetup("cpu");
        int asked = 0;
        double[]? before = null;
        var rewards = new RewardSum([(Reward.Of("moody", sample =>
        {
            before = asked == 8 ? setup.Weights() : before; // eight completions a step: this is the second's first
            return ++asked > 8 ? double.NaN : sample.Response[0];
        }), 1)]);
        using var trainer = setup.Trainer(Options with { OutputFolder = setup.Output("run") }, rewards);

        var problem = await Assert.ThrowsAsync<RewardException>(() => trainer.RunAsync(cancel: Cancel));

        Assert.Contains("reward moody: it gave NaN for the answer", problem.Message);
        Compare.Same(before!, setup.Weights());
        Assert.True(Directory.Exists(Path.Combine(setup.Output("run"), "checkpoint-1")));
    }

    [Fact]
    public async Task RewardThatFailsInAnEvaluation_leavesTheStepBeforeIt()
    {
        using var setup = new GrpoSetup("cpu");
        Prompt[] validation = [GrpoSetup.Prompts[0] with { File = "held.jsonl" }];
        int trained = 0;
        var rewards = new RewardSum([(Reward.Of("moody", sample =>
        {
            bool held = sample.Prompt.File == "held.jsonl";
            trained += held ? 0 : 1;
            return held && trained > 0 ? double.NaN : sample.Response[0]; // the evaluation before the first step is good
        }), 1)]);
        using var trainer = setup.Trainer(Options with { OutputFolder = setup.Output("run"), EvaluateEvery = 2 }, rewards, validation: validation);

        await Assert.ThrowsAsync<RewardException>(() => trainer.RunAsync(cancel: Cancel));

        Assert.Equal(2, File.ReadLines(Path.Combine(setup.Output("run"), "metrics.jsonl")).Count());
        Assert.Equal(2, ResumeState.Load(Path.Combine(setup.Output("run"), "checkpoint-2")).Step);
    }

    [Fact]
    public async Task StepsThatTeachNothing_leaveTheWeights()
    {
        using var setup = new GrpoSetup("cpu");
        double[] before = setup.Weights();
        foreach (var (options, rewards) in new[]
        {
            (Options, new RewardSum([(Reward.Of("same", _ => 0.1), 1)])),
            (Options with { MaxCompletionLength = 1, MaskTruncatedCompletions = true, StopIds = [40], Seed = 3 }, GrpoSetup.Rewards), // nothing ends, so nothing is learnt from
        })
        {
            using var trainer = setup.Trainer(options with { MaxSteps = 1 }, rewards);
            var step = (await trainer.RunAsync(cancel: Cancel)).Last!;

            Assert.Equal((0, 0), (step.Loss, step.GradientNorm));
            Compare.Same(before, setup.Weights());
        }
    }

    [Theory, MemberData(nameof(Devices))]
    public async Task Kernels_followTheHost(string device)
    {
        using var host = new GrpoSetup();
        using var kernels = new GrpoSetup(device);
        var options = Options with { MaxSteps = 2, Beta = 0.1, EntropyCoefficient = 0.01, NumIterations = 2, MaxCompletionLength = 5, LearningRate = 0.005 };
        var expected = await Run(host, options);

        var steps = await Run(kernels, options);

        Assert.Equal(expected.Select(step => step["completions/mean_length"]), steps.Select(step => step["completions/mean_length"]));
        foreach (string measure in new[] { "reward", "kl", "entropy", "clip_ratio/region_mean" })
        {
            Assert.All(expected.Zip(steps), pair => Assert.Equal(pair.First[measure], pair.Second[measure], 1e-3));
        }

        Compare.Close([.. expected.Select(step => step.Loss)], [.. steps.Select(step => step.Loss)], 1e-3, "losses");
        Compare.Close([.. expected.Select(step => step.GradientNorm)], [.. steps.Select(step => step.GradientNorm)], 1e-3, "gradient norms");
    }

    [Fact]
    public void BadInput_isRefusedBeforeTheFirstStep()
    {
        using var setup = new GrpoSetup("cpu");
        using var judge = new AdapterSet(setup.Model, new LoraConfig { Rank = 2 }, scalarHead: true);
        using var other = new GrpoSetup("cpu");
        Prompt Asked(params int[] ids) => GrpoSetup.Prompts[0] with { Ids = ids, Line = 7 };
        var number = new RewardSum([(RewardRules.Create("number-match", new Dictionary<string, string> { ["field"] = "solution" }), 1)]);

        Refused("NumGenerations is 1, expected at least 2", Options with { NumGenerations = 1 });
        Refused("Temperature is 0, expected more than 0", Options with { Temperature = 0 });
        Refused("Delta is 1.1, expected more than 1 + epsilon", Options with { Delta = 1.1 });
        Refused("GrpoTrainer: the policy has a scalar head", Options, policy: judge);
        Refused("GrpoTrainer: the reference has a scalar head", Options, reference: judge);
        Refused("GrpoTrainer: the reference is the policy itself", Options, reference: setup.Policy);
        Refused("GrpoTrainer: the reference is over another base", Options, reference: other.Policy);
        Refused("there are no prompts", Options, prompts: []);
        Refused("prompts.jsonl:7: the prompt has 0 tokens, expected 1 to 120: the model's 128 positions less max_completion_length 8", Options, prompts: [Asked()]);
        Refused("prompts.jsonl:7: the prompt has 121 tokens", Options, prompts: [Asked(new int[121])]);
        Refused("prompts.jsonl:7: token id 41 is out of range", Options, prompts: [Asked(1, 41)]);
        Refused("stop tokens: token id 99 is out of range", Options with { StopIds = [99] });
        Refused("reward number-match needs the field solution", Options, rewards: number);
        Refused("prompts.jsonl:1: reward number-match needs the field solution", Options, rewards: number, prompts: GrpoSetup.Prompts);
        Refused("two of the rewards ended, ended have one name", Options, rewards: new RewardSum([(RewardRules.Create("ended"), 1), (RewardRules.Create("ended"), 2)]));

        void Refused(string expected, GrpoOptions options, AdapterSet? policy = null, AdapterSet? reference = null, IReadOnlyList<Prompt>? prompts = null, RewardSum? rewards = null) => Assert.Contains(
            expected, Assert.Throws<ArgumentException>(() => new GrpoTrainer(policy ?? setup.Policy, "base", null, prompts ?? GrpoSetup.Prompts, rewards ?? GrpoSetup.Rewards, options, reference)).Message);
    }

    static async Task<List<StepMetrics>> Run(GrpoSetup setup, GrpoOptions options, string? resumeFrom = null)
    {
        using var trainer = setup.Trainer(options, validation: options.EvaluateEvery > 0 ? GrpoSetup.Prompts : null);
        var steps = new Steps();
        await trainer.RunAsync(steps, resumeFrom, TestContext.Current.CancellationToken);
        return steps.All;
    }

    static bool IsTime(string name) => name.StartsWith("time/", StringComparison.Ordinal) || name.StartsWith("tokens_per_second/", StringComparison.Ordinal);

    static double Deviation(double[] x) => Math.Sqrt(x.Sum(value => Math.Pow(value - x.Average(), 2)) / (x.Length - 1));
}
