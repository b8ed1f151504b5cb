using IlgpuPeft.Data;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>What a run of GRPO draws: at the temperature and from the tokens that its options say, and something new in each step.</summary>
public sealed class GrpoDrawTests : IDisposable
{
    static readonly GrpoOptions Options = new() { MaxSteps = 1, NumGenerations = 4, MaxCompletionLength = 8, LearningRate = 0, StopIds = [], Seed = 5 };

    readonly GrpoSetup setup = new();

    public void Dispose() => setup.Dispose();

    [Fact]
    public async Task Draws_areMadeAtTheTemperature()
    {
        // The mean of -ln p over draws is the entropy, at the right temperature alone.
        const int Draws = 2000;
        var prompt = GrpoSetup.Prompts[1];
        var options = Options with { NumGenerations = Draws, MaxCompletionLength = 1, Temperature = 0.4, TokensPerPass = 1000 };
        setup.Policy.Enable();
        using var pass = new LanguageModelPass(setup.Model);
        double[] logits = [.. pass.Logits(PackedBatch.From([new Example(prompt.Ids, prompt.Ids, "", 0)])).TakeLast(TinyModels.Vocabulary).Select(x => (double)x)];
        double[] logProbs = LogSoftmax(logits, 0.4);

        var samples = (await Run(options, prompt)).Single();

        double[] surprises = [.. samples.Select(sample => -logProbs[sample.Response.Single()])];
        double entropy = Entropy(logProbs), variance = logProbs.Sum(x => Math.Exp(x) * (x + entropy) * (x + entropy));
        Assert.Equal(Draws, surprises.Length);
        Assert.InRange(surprises.Average(), entropy - 5 * Math.Sqrt(variance / Draws), entropy + 5 * Math.Sqrt(variance / Draws));
        Assert.True(Entropy(LogSoftmax(logits, 1)) > entropy + 0.3, "another temperature would have nearly the same entropy, so this test would not see it");
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(0, 1e-6)]
    public async Task Draws_fromTheLikeliestTokenAlone_areTheLikeliest(int topK, double topP)
    {
        var prompt = GrpoSetup.Prompts[2];
        setup.Policy.Enable();
        using var completions = new Completions(setup.Model, null, maxSequences: 4);
        int[] likeliest = completions.Draw([prompt], new() { MaxTokens = 8, StopIds = [] }, TestContext.Current.CancellationToken)[0].Response;

        var free = (await Run(Options, prompt)).Single();
        var bound = (await Run(Options with { TopK = topK, TopP = topP }, prompt)).Single();

        Assert.Contains(free, sample => !sample.Response.SequenceEqual(likeliest));
        Assert.All(bound, sample => Assert.Equal(likeliest, sample.Response));
    }

    [Fact]
    public async Task Draws_ofTheSamePromptInTheNextStep_areOthers()
    {
        var steps = await Run(Options with { MaxSteps = 2 }, GrpoSetup.Prompts[0]);

        Assert.Equal(2, steps.Count);
        Assert.NotEqual(Texts(steps[0]), Texts(steps[1])); // by weights that have not changed

        static IEnumerable<string> Texts(IReadOnlyList<Sample> samples) => samples.Select(sample => sample.Text);
    }

    async Task<List<IReadOnlyList<Sample>>> Run(GrpoOptions options, Prompt prompt)
    {
        List<IReadOnlyList<Sample>> drawn = [];
        var rewards = new RewardSum([(Reward.Of("ids", sample => sample.Response.Sum()), 1)]);
        using var trainer = new GrpoTrainer(setup.Policy, "base", null, [prompt], rewards, options);
        await trainer.RunAsync(new Steps(_ => drawn.Add(trainer.LastGroups!.Samples)), cancel: TestContext.Current.CancellationToken);
        return drawn;
    }

    static double Entropy(double[] logProbs) => -logProbs.Sum(x => Math.Exp(x) * x);

    static double[] LogSoftmax(double[] logits, double temperature)
    {
        double sum = Math.Log(logits.Sum(x => Math.Exp(x / temperature)));
        return [.. logits.Select(x => x / temperature - sum)];
    }
}
