using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>A policy goes on learning what it learned: a checkpoint is refused where rewards, expected answers or the reference are others.</summary>
public class PolicyResumeTests
{
    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Theory]
    [InlineData("ppo")]
    [InlineData("grpo")]
    public async Task Checkpoint_ofAnotherTask_isRefused(string method)
    {
        using var setup = new PpoSetup();
        using var judge = Judge(setup, seed: 5);
        using var otherJudge = Judge(setup, seed: 6);
        using var reference = setup.NewAdapter(7);
        using var otherReference = setup.NewAdapter(8);
        Subject subject = new(Rules("100"), judge, Prompts("6"), reference);
        using (var trainer = Open(subject))
        {
            await trainer.RunAsync(cancel: Cancel);
        }

        using (var same = Open(subject with { Rewards = Rules("100"), Prompts = Prompts("6") }))
        {
            Assert.Equal(2, (await Resume(same)).Steps);
        }

        (string Change, Subject Other)[] changes =
        [
            ("an option of a rule", subject with { Rewards = Rules("5") }),
            ("a weight", subject with { Rewards = Rules("100", weight: 2) }),
            ("an expected answer", subject with { Prompts = Prompts("7") }),
            ("the reward model", subject with { Judge = otherJudge }),
            ("the reference", subject with { Reference = otherReference }),
            ("no reference", subject with { Reference = null }),
        ];
        await Assert.AllAsync(changes, async change =>
        {
            using var trainer = Open(change.Other);
            var problem = await Record.ExceptionAsync(() => Resume(trainer));
            Assert.True(problem is CheckpointException && problem.Message.Contains("other settings or data", StringComparison.Ordinal), $"{change.Change}: {problem?.Message ?? "not refused"}");
        });

        Trainer Open(Subject of) => PolicyResumeTests.Open(method, setup, new([.. of.Rewards, (new RewardModel(of.Judge), 1)]), of.Prompts, of.Reference);

        Task<TrainingResult> Resume(Trainer trainer) => trainer.RunAsync(resumeFrom: setup.PathOf("checkpoint-1"), cancel: Cancel);
    }

    [Theory]
    [InlineData("ppo")]
    [InlineData("grpo")]
    public async Task Checkpoint_ofAFailedReward_goesOnWithAnother_andThenWithThatOnly(string method)
    {
        using var setup = new PpoSetup();
        await Assert.ThrowsAsync<RewardException>(() => Run("ended", null, _ => double.NaN));

        await Run("ended", "checkpoint-0");
        Assert.Contains("it was made with [rewards: ended", (await Assert.ThrowsAsync<CheckpointException>(() => Run("repetition", "checkpoint-1"))).Message, StringComparison.Ordinal);

        async Task Run(string rule, string? checkpoint, Func<Sample, double>? fails = null)
        {
            var reward = fails is null ? RewardRules.Create(rule, new Dictionary<string, string> { ["label"] = "mended" }) : Reward.Of("mended", fails);
            using var trainer = Open(method, setup, new([(reward, 1)]), Prompts("6"), null);
            await trainer.RunAsync(resumeFrom: checkpoint is null ? null : setup.PathOf(checkpoint), cancel: Cancel);
        }
    }

    [Fact]
    public void Digest_isOfValuesAndScale()
    {
        using var setup = new PpoSetup();
        using var scaled = new AdapterSet(setup.Model, PpoSetup.Lora with { Alpha = 3 }, seed: 1); // the values of the setup's policy, which has the same seed
        string digest = AdapterRoles.Digest(setup.Policy);
        Compare.Same(setup.Backend.ReadDoubles(setup.Policy.Parameters.Values), setup.Backend.ReadDoubles(scaled.Parameters.Values));

        Assert.NotEqual(digest, AdapterRoles.Digest(scaled));
        Assert.Equal(digest, AdapterRoles.Digest(setup.Policy));
        setup.Disturb(setup.Policy, 9);
        Assert.NotEqual(digest, AdapterRoles.Digest(setup.Policy));
    }

    [Fact]
    public void Description_tellsRulesApart_andNamesFunctions()
    {
        Assert.Equal("""length {"max":"5","unit":"tokens"}""", RewardRules.Create("length", new Dictionary<string, string> { ["unit"] = "tokens", ["max"] = "5" }).Description);
        Assert.Equal("ended {}", RewardRules.Create("ended").Description);
        Assert.Equal("mine", Reward.Of("mine", _ => 0).Description);
    }

    static Trainer Open(string method, PpoSetup setup, RewardSum rewards, IReadOnlyList<Prompt> prompts, AdapterSet? reference) => method == "ppo"
        ? new PpoTrainer(setup.Policy, setup.Value, "tiny", null, prompts, rewards, PpoSetup.Options with { MaxSteps = 2, SaveEvery = 1, OutputFolder = setup.PathOf("") }, reference)
        : new GrpoTrainer(setup.Policy, "tiny", null, prompts, rewards,
            new GrpoOptions { MaxSteps = 2, SaveEvery = 1, OutputFolder = setup.PathOf(""), NumGenerations = 2, MaxCompletionLength = 4, Beta = 0.1 }, reference);

    static AdapterSet Judge(PpoSetup setup, ulong seed) => new(setup.Model, PpoSetup.Lora, seed, scalarHead: true);

    static (Reward, double)[] Rules(string max, double weight = 1) =>
        [(RewardRules.Create("length", new Dictionary<string, string> { ["max"] = max }), weight), (RewardRules.Create("exact-match"), 1)];

    static Prompt[] Prompts(string answer) => [.. PpoSetup.Prompts.Take(4).Select(prompt => prompt with { Fields = new Dictionary<string, string> { ["answer"] = answer } })];

    sealed record Subject((Reward, double)[] Rewards, AdapterSet Judge, Prompt[] Prompts, AdapterSet? Reference);
}
