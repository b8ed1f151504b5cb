using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>The experience that PPO learns from: whose probabilities, which rows, what is paid where.</summary>
public sealed class PpoRolloutTests : IDisposable
{
    readonly PpoSetup setup = new("cpu-f64");

    public PpoRolloutTests()
    {
        setup.Disturb(setup.Policy, 3);
        setup.Disturb(setup.Value, 4);
    }

    public void Dispose() => setup.Dispose();

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void LogProbsAndValues_areOfTheRowBeforeEachToken_atTheTemperature(bool referenceAdapter)
    {
        setup.Reference = referenceAdapter ? setup.NewAdapter(6) : null;

        var rollout = setup.Collect(PpoSetup.Options);

        using var pass = new LanguageModelPass(setup.Model);
        Assert.True(rollout.Samples.Select(sample => sample.Response.Length).Distinct().Count() > 1, "all responses have the same length, so a wrong mask could go unseen");
        foreach (var (sample, i) in rollout.Samples.Select((sample, i) => (sample, i)))
        {
            int[] ids = [.. sample.Prompt.Ids, .. sample.Response];
            var batch = PackedBatch.From([new Example(ids, ids, "", 0)]);
            setup.Policy.Enable();
            Compare.Close(LogProbs(pass, batch, sample), rollout.LogProbs[i], 1e-6, "policy");
            Reference();
            Compare.Close(LogProbs(pass, batch, sample), rollout.ReferenceLogProbs[i], 1e-6, "reference");
            setup.Value.Enable();
            double[] values = pass.Scores(batch, setup.Value.Head!);
            Compare.Close([.. sample.Response.Select((_, t) => values[sample.Prompt.Ids.Length - 1 + t])], rollout.Values[i], 1e-10, "values");
        }

        void Reference()
        {
            AdapterSet.DisableAll(setup.Model);
            setup.Reference?.Enable();
        }
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(6, 0)]
    [InlineData(1, 24)]
    [InlineData(1, 1)]
    public void Experience_ofAnyGroupingIntoPasses_isTheSame(int microBatch, int tokens)
    {
        var expected = setup.Collect(PpoSetup.Options);

        var actual = setup.Collect(PpoSetup.Options with { MicroBatchSize = microBatch, GradientAccumulation = 6, TokensPerPass = tokens });

        AssertSame(expected, actual, expected.Count);
    }

    [Fact]
    public void Experience_ofABatchOfOne_isThatOfThePromptInABatch()
    {
        var whole = setup.Collect(PpoSetup.Options);

        var alone = setup.Collect(PpoSetup.Options, prompts: 1);

        Assert.Equal(1, alone.Count);
        AssertSame(whole, alone, 1);
    }

    [Theory]
    [InlineData(KlEstimator.K1)]
    [InlineData(KlEstimator.K3)]
    public void Rewards_payTheDivergenceWithEachToken_andTheScoreWithTheLast(KlEstimator estimator)
    {
        var options = PpoSetup.Options with { KlCoefficient = 0.3, KlEstimator = estimator, Gamma = 0.9 };
        RewardSum rewards = new(
        [
            (Reward.Of("length", sample => sample.Response.Length), 2),
            (Reward.PerToken("ids", sample => [.. sample.Response.Select(id => id / 10.0)]), 0.5),
        ]);

        var rollout = setup.Collect(options, rewards);

        Assert.Contains(rollout.Samples, sample => sample.Ended);
        Assert.Contains(rollout.Samples, sample => !sample.Ended);
        for (int i = 0; i < rollout.Count; i++)
        {
            var sample = rollout.Samples[i];
            Assert.Equal(sample.Ended, options.StopIds!.Contains(sample.Response[^1]));
            double score = 2 * sample.Response.Length - (sample.Ended ? 0 : 0.5);
            double[] expected = [.. sample.Response.Select((id, t) =>
            {
                double logRatio = rollout.LogProbs[i][t] - rollout.ReferenceLogProbs[i][t];
                double kl = estimator == KlEstimator.K1 ? logRatio : Math.Exp(-logRatio) - 1 + logRatio;
                return -0.3 * kl + 0.5 * id / 10.0 + (t == sample.Response.Length - 1 ? score : 0);
            })];
            Compare.Close(expected, rollout.Rewards[i], 1e-12, "rewards");
            Compare.Close([.. Returns(expected, rollout.Values[i], 0.9, 0.95)], rollout.Returns[i], 1e-12, "returns");
        }

        // Advantages are returns less values, whitened over all tokens.
        double[] raw = [.. rollout.Returns.Zip(rollout.Values).SelectMany(pair => pair.First.Zip(pair.Second, (r, v) => r - v))];
        double mean = raw.Average(), deviation = Math.Sqrt(raw.Sum(x => (x - mean) * (x - mean)) / (raw.Length - 1));
        Compare.Close([.. raw.Select(x => (x - mean) / deviation)], [.. rollout.Advantages.SelectMany(x => x)], 1e-6, "advantages");
        Assert.Equal(rollout.Scores.Average(), rollout.Measures()["objective/scores"], 12);
        Assert.Equal(rollout.Samples.Average(sample => sample.Response.Length), rollout.Measures()["rewards/length"], 12);
    }

    [Fact]
    public void MissingEnd_isNoneWhereTheLastTokenThereIsRoomForEndsTheResponse()
    {
        var options = PpoSetup.Options with { ResponseLength = 1, MissingEosPenalty = 3, MicroBatchSize = 30, GradientAccumulation = 1 };
        using var roles = setup.NewRoles(options);
        using var collector = new RolloutCollector(roles, null, new RewardSum([(Reward.Of("one", _ => 1), 1)]), options);

        var rollout = collector.Score(collector.Draw([.. Enumerable.Repeat(PpoSetup.Prompts[1], 30)], seed: 8), klCoefficient: 0, orderSeed: 1);

        bool[] ended = [.. rollout.Samples.Select(sample => options.StopIds!.Contains(sample.Response.Single()))];
        Assert.Equal([false, true], ended.Distinct().Order());
        Assert.Equal(ended.Select(end => end ? 1.0 : -2.0), rollout.Scores);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void TrlCompatible_isThePaddedArithmetic(bool whitenRewards)
    {
        var options = PpoSetup.Options with { TrlCompatible = true, KlCoefficient = 0.3, WhitenRewards = whitenRewards, Gamma = 0.9 };

        var rollout = setup.Collect(options);

        // A rectangle of responses as TRL has it; the value after a response's last token is the row of that token.
        int columns = options.ResponseLength, rows = rollout.Count;
        int[] lengths = [.. rollout.Samples.Select(sample => sample.Response.Length)];
        Assert.Contains(lengths, length => length < columns);
        Assert.Contains(lengths, length => length == columns);
        using var pass = new LanguageModelPass(setup.Model);
        setup.Value.Enable();
        double[,] values = new double[rows, columns], rewards = new double[rows, columns];
        for (int i = 0; i < rows; i++)
        {
            double[] said = pass.Scores(PackedBatch.From([rollout.Sequences[i]]), setup.Value.Head!);
            for (int t = 0; t < Math.Min(columns, lengths[i] + 1); t++)
            {
                values[i, t] = said[rollout.Samples[i].Prompt.Ids.Length - 1 + t];
                rewards[i, t] = t < lengths[i] ? -0.3 * (rollout.LogProbs[i][t] - rollout.ReferenceLogProbs[i][t]) : 0;
            }

            rewards[i, lengths[i] < columns ? lengths[i] : columns - 1] += rollout.Scores[i];
        }

        if (whitenRewards)
        {
            Whiten(rewards, lengths, slots: 1, keepMean: true);
        }

        double[,] advantages = new double[rows, columns], returns = new double[rows, columns];
        for (int i = 0; i < rows; i++)
        {
            double last = 0;
            for (int t = columns - 1; t >= 0; t--)
            {
                last = rewards[i, t] + 0.9 * (t + 1 < columns ? values[i, t + 1] : 0) - values[i, t] + 0.9 * 0.95 * last;
                advantages[i, t] = last;
                returns[i, t] = last + values[i, t];
            }
        }

        Whiten(advantages, lengths, slots: 0, keepMean: false);
        for (int i = 0; i < rows; i++)
        {
            Compare.Close([.. Row(advantages, i, lengths[i])], rollout.Advantages[i], 1e-9, "advantages");
            Compare.Close([.. Row(values, i, Math.Min(columns, lengths[i] + 1))], rollout.Values[i], 1e-9, "values");
            Compare.Close([.. Row(returns, i, Math.Min(columns, lengths[i] + 1))], rollout.Returns[i], 1e-9, "returns");
        }
    }

    [Fact]
    public void Draws_areMadeAtTheTemperature()
    {
        // The mean of -ln p over draws is the entropy, at the right temperature alone.
        const int Draws = 2000;
        var options = PpoSetup.Options with { Temperature = 0.4, ResponseLength = 1, MissingEosPenalty = 0, StopIds = [] };
        using var roles = setup.NewRoles(options);
        using var collector = new RolloutCollector(roles, null, PpoSetup.LowIds, options);
        var samples = collector.Draw([.. Enumerable.Repeat(PpoSetup.Prompts[1], Draws)], seed: 8);
        setup.Policy.Enable();
        using var pass = new LanguageModelPass(setup.Model);
        double[] logits = [.. pass.Logits(PackedBatch.From([new Example(PpoSetup.Prompts[1].Ids, PpoSetup.Prompts[1].Ids, "", 0)])).TakeLast(TinyModels.Vocabulary).Select(x => (double)x)];
        double[] logProbs = LogSoftmax(logits, 0.4);

        double[] surprises = [.. samples.Select(sample => -logProbs[sample.Response[0]])];

        double entropy = -logProbs.Sum(x => Math.Exp(x) * x), variance = logProbs.Sum(x => Math.Exp(x) * (x + entropy) * (x + entropy));
        Assert.InRange(surprises.Average(), entropy - 5 * Math.Sqrt(variance / Draws), entropy + 5 * Math.Sqrt(variance / Draws));
        double[] untempered = LogSoftmax(logits, 1);
        Assert.True(-untempered.Sum(x => Math.Exp(x) * x) > entropy + 0.3, "another temperature would have nearly the same entropy, so this test would not see it");
    }

    static IEnumerable<double> Returns(double[] rewards, double[] values, double gamma, double lambda)
    {
        for (int t = 0; t < rewards.Length; t++)
        {
            double sum = values[t];
            for (int k = t; k < rewards.Length; k++)
            {
                sum += Math.Pow(gamma * lambda, k - t) * (rewards[k] + (k + 1 < values.Length ? gamma * values[k + 1] : 0) - values[k]);
            }

            yield return sum;
        }
    }

    static void Whiten(double[,] x, int[] lengths, int slots, bool keepMean)
    {
        int columns = x.GetLength(1);
        int[] used = [.. lengths.Select(length => Math.Min(columns, length + slots))];
        double[] all = [.. used.SelectMany((length, i) => Row(x, i, length))];
        double mean = all.Average(), variance = all.Sum(v => (v - mean) * (v - mean)) / (all.Length - 1);
        for (int i = 0; i < used.Length; i++)
        {
            for (int t = 0; t < columns; t++)
            {
                x[i, t] = t < used[i] ? (x[i, t] - mean) / Math.Sqrt(variance + 1e-8) + (keepMean ? mean : 0) : 0;
            }
        }
    }

    static IEnumerable<double> Row(double[,] x, int row, int length) => Enumerable.Range(0, length).Select(t => x[row, t]);

    static double[] LogProbs(LanguageModelPass pass, PackedBatch batch, Sample sample)
    {
        float[] logits = pass.Logits(batch);
        return [.. sample.Response.Select((id, t) =>
        {
            int row = sample.Prompt.Ids.Length - 1 + t;
            return LogSoftmax([.. logits.Skip(row * TinyModels.Vocabulary).Take(TinyModels.Vocabulary).Select(x => (double)x)], PpoSetup.Options.Temperature)[id];
        })];
    }

    static double[] LogSoftmax(double[] logits, double temperature)
    {
        double sum = Math.Log(logits.Sum(x => Math.Exp(x / temperature)));
        return [.. logits.Select(x => x / temperature - sum)];
    }

    static void AssertSame(Rollout expected, Rollout actual, int responses)
    {
        for (int i = 0; i < responses; i++)
        {
            Assert.Equal(expected.Samples[i].Response, actual.Samples[i].Response);
            Compare.Close(expected.LogProbs[i], actual.LogProbs[i], 1e-12, "log-probabilities");
            Compare.Close(expected.ReferenceLogProbs[i], actual.ReferenceLogProbs[i], 1e-12, "log-probabilities of the reference");
            Compare.Close(expected.Values[i], actual.Values[i], 1e-12, "values");
            Compare.Close(expected.Rewards[i], actual.Rewards[i], 1e-12, "rewards");
            Compare.Close(expected.Returns[i], actual.Returns[i], 1e-12, "returns");
        }
    }
}
