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
    public async Task Demonstration_teachesTheModelToAnswer() // the one slow test of this class: the whole demo
    {
        var cancel = TestContext.Current.CancellationToken;
        using var folder = new TempFolder();
        using var run = SftRun.Open(Demonstration.Prepare(folder.Path).Supervised);

        double before = Quiz.Accuracy(Quiz.Take(run.Model, run.Data.Tokenizer!, Instructions.HeldOut, cancel: cancel));
        await run.RunAsync(cancel: cancel);
        double after = Quiz.Accuracy(Quiz.Take(run.Model, run.Data.Tokenizer!, Instructions.HeldOut, cancel: cancel));

        Assert.True(before < 0.1, $"{before:0.0 %} exact matches before, expected less than 10 %");
        Assert.True(after > 0.8, $"{after:0.0 %} exact matches after, expected more than 80 %");
        Assert.True(run.Weights.Parameters.Count < 0.01 * run.Model.ParameterCount);
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
