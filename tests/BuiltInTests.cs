using IlgpuPeft.BuiltIn;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Config;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Text;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The built-in model, its corpus and its instructions.</summary>
public class BuiltInTests
{
    const long MaxModelBytes = 4_000_000;

    [Fact]
    public void Corpus_ofOneSeed_isTheSameEachTime()
    {
        Assert.Equal(Corpus.Documents(1).Take(50), Corpus.Documents(1).Take(50));
        Assert.NotEqual(Corpus.Documents(1).First(), Corpus.Documents(2).First());
    }

    [Fact]
    public void Documents_fitTheirLengthAndSymbols()
    {
        foreach (string document in Corpus.Documents(1).Take(2000))
        {
            Assert.InRange(document.Length, 1, Corpus.DocumentLength);
            Assert.All(document, symbol => Assert.Contains(symbol, Corpus.Symbols));
        }
    }

    [Fact]
    public void Corpus_holdsNoRequestAndNoDialogue()
    {
        string text = string.Concat(Corpus.Documents(1).Take(2000));

        Assert.DoesNotContain("?", text, StringComparison.Ordinal);
        Assert.DoesNotContain("User", text, StringComparison.Ordinal);
        Assert.DoesNotContain("Assistant", text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(Skill.Plural, "cherry", "cherries")]
    [InlineData(Skill.Plural, "monkey", "monkeys")]
    [InlineData(Skill.Plural, "fox", "foxes")]
    [InlineData(Skill.Plural, "mouse", "mice")]
    [InlineData(Skill.Capitals, "wolf", "WOLF")]
    [InlineData(Skill.LastLetter, "wolf", "f")]
    [InlineData(Skill.Opposite, "cold", "hot")]
    [InlineData(Skill.Past, "go", "went")]
    [InlineData(Skill.Sum, "8 4", "12")]
    public void Lexicon_knows(Skill skill, string subject, string answer) =>
        Assert.Equal(answer, Assert.Single(Lexicon.Facts, fact => fact.Skill == skill && fact.Subject == subject).Answer);

    [Fact]
    public void Instructions_neverTrainOnAHeldOutSubject()
    {
        var trained = Instructions.Train.Select(question => question.Subject).ToHashSet();
        var words = Instructions.Train.SelectMany(question => question.Prompt.Split(' ', '.', '?', '\n')).Except(["first", "last"]).ToHashSet(); // which requests themselves say

        Assert.All(Instructions.HeldOut, question =>
        {
            Assert.All(question.Subject.Split(' '), part => Assert.Contains(part, question.Prompt, StringComparison.Ordinal));
            Assert.DoesNotContain(question.Subject, trained);
            Assert.True(question.Skill is Skill.Sum or Skill.NextNumber || !words.Contains(question.Subject), $"{question.Subject} is in a training prompt");
        });
    }

    [Fact]
    public void HeldOutInstructions_areManyAndOfEverySkill()
    {
        Assert.True(Instructions.HeldOut.Count >= 100, $"{Instructions.HeldOut.Count} held-out rows, expected at least 100");
        Assert.Equal(Enum.GetValues<Skill>(), Instructions.HeldOut.Select(question => question.Skill).Distinct().Order());
    }

    [Fact]
    public void BuiltInModel_isSmallAndLoads()
    {
        using var folder = new TempFolder();
        BuiltInModel.Unpack(folder.Path);

        using var backend = new HostBackend<float>();
        using var model = PretrainedModel.Load(folder.Path, backend);

        Assert.True(Directory.GetFiles(folder.Path).Sum(file => new FileInfo(file).Length) <= MaxModelBytes);
        Assert.Equal(Tokenizer.Load(folder.Path).VocabularySize, model.Config.Vocabulary);
        var replies = Quiz.Take(model, Tokenizer.Load(folder.Path), Corpus.Openings(perSkill: 5), end: ".", TestContext.Current.CancellationToken);
        Assert.True(Quiz.Accuracy(replies) >= 0.9, $"{Quiz.Accuracy(replies):0 %} of its own statements are right, expected at least 90 %");
    }

    [Fact]
    public async Task Demonstration_teachesTheModelToAnswer_aJudgeToPrefer_andAPolicyToPlease() // the one slow test of this class: the whole demo
    {
        var cancel = TestContext.Current.CancellationToken;
        using var folder = new TempFolder();
        var demonstration = Demonstration.Prepare(folder.Path);
        double taught;
        using (var run = SftRun.Open(demonstration.Supervised, cancel: TestContext.Current.CancellationToken))
        {
            double before = Quiz.Accuracy(Ask(run));
            await run.RunAsync(cancel: cancel);
            taught = Quiz.Accuracy(Ask(run));
            Assert.True(before < 0.1, $"{before:0.0 %} exact matches before, expected less than 10 %");
            Assert.True(taught > 0.8, $"{taught:0.0 %} exact matches after, expected more than 80 %");
            Assert.True(run.Weights.Parameters.Count < 0.01 * run.Model.ParameterCount);
        }

        using (var run = RewardRun.Open(demonstration.RewardModel, cancel: TestContext.Current.CancellationToken))
        {
            var result = await run.RunAsync(cancel: cancel);
            Assert.True(result.Final!.Measures!["accuracy"] > 0.95, $"{result.Final.Measures["accuracy"]:0.0 %} of held-out pairs told apart, expected more than 95 %");
        }

        using (var run = PpoRun.Open(demonstration.Policy, cancel: TestContext.Current.CancellationToken))
        {
            List<StepMetrics> updates = [];
            await run.RunAsync(new ImmediateProgress<StepMetrics>(updates.Add), cancel: cancel);
            var replies = Ask(run);
            double friendly = replies.Average(reply => reply.IsFriendly ? 1.0 : 0), right = Quiz.Accuracy(replies);
            Assert.True(updates[^1]["objective/scores"] > updates[0]["objective/scores"] + 1, $"reward {updates[0]["objective/scores"]:0.00} at first, {updates[^1]["objective/scores"]:0.00} at last");
            Assert.True(updates[^1]["objective/kl"] < 4, $"{updates[^1]["objective/kl"]:0.00} nats from the supervised model, expected less than 4");
            Assert.True(friendly > 0.8 && right > taught - 0.15, $"{friendly:0.0 %} friendly, {right:0.0 %} right after {taught:0.0 %}");
        }

        IReadOnlyList<Reply> Ask(TrainingRun run) => Quiz.Take(run.Model, run.Tokenizer!, Instructions.HeldOut, cancel: cancel);
    }

    [Fact]
    public void OwnModelConfiguration_isOneThatTrainAccepts()
    {
        using var folder = new TempFolder();
        File.WriteAllText(folder.File("own.yaml"), Demonstration.OwnModelYaml);

        var (config, notes) = ConfigReader.Read(folder.File("own.yaml"), []);

        Assert.Empty(notes);
        Assert.Equal(DatasetType.PromptCompletion, Assert.Single(config.Datasets).Type);
        Assert.True(config.LoadIn4Bit);
    }

    [Fact]
    public async Task Pretraining_ofAFewSteps_lowersTheLoss()
    {
        using var folder = new TempFolder();
        using var backend = new HostBackend<float>();
        List<double> losses = [];

        await Pretraining.RunAsync(folder.Path, backend, steps: 12, progress: new ImmediateProgress<StepMetrics>(step => losses.Add(step.Loss)), cancel: TestContext.Current.CancellationToken);

        Assert.True(losses[^1] < losses[0] - 0.5, $"loss {losses[0]:0.00} at first and {losses[^1]:0.00} at last");
        using var model = PretrainedModel.Load(folder.Path, backend);
        Assert.Equal(Tokenizer.Load(folder.Path).VocabularySize, model.Config.Vocabulary);
    }
}
