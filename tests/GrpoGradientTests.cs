using System.Runtime.InteropServices;
using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Reinforcement;
using IlgpuPeft.Rewards;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;

namespace IlgpuPeft.Tests;

/// <summary>
/// The gradient of a whole step against difference quotients of its loss. The loss is written down here once more, sequence by sequence from log-probabilities of whole texts, so that it shares
/// neither masks nor packing nor groups with what it checks.
/// </summary>
public class GrpoGradientTests
{
    const int Generations = 3, MaxLength = 7;

    static readonly GrpoOptions Options = new() { NumGenerations = Generations, MicroBatchSize = 2, MaxCompletionLength = MaxLength, Temperature = 0.8, Epsilon = 0.2, EpsilonHigh = 0.3 };

    static readonly Dictionary<string, GrpoOptions> Variants = new()
    {
        ["dapo"] = Options,
        ["grpo"] = Options with { LossType = GroupReduction.Grpo },
        ["dr_grpo"] = Options with { LossType = GroupReduction.DrGrpo, ScaleRewards = ScaleRewards.None },
        ["bnpo"] = Options with { LossType = GroupReduction.Bnpo, ScaleRewards = ScaleRewards.Batch },
        ["kl"] = Options with { Beta = 0.3 },
        ["by sequence"] = Options with { ImportanceLevel = ImportanceLevel.Sequence, LossType = GroupReduction.Grpo },
        ["delta"] = Options with { Delta = 1.5 },
        ["entropy"] = Options with { EntropyCoefficient = 0.2 },
        ["cut completions masked"] = Options with { MaskTruncatedCompletions = true, Beta = 0.1, EntropyCoefficient = 0.1 },
        ["packed by tokens"] = Options with { TokensPerPass = 20, Beta = 0.1 },
    };

    // Two prompts, three completions each: (tokens, ended, reward). The second group's rewards are far from the first's, so groups that are cut elsewhere have other advantages.
    static readonly (int[] Response, bool Ended, double Reward)[] Written =
        [([5, 9, 2], true, 1), ([30, 2], true, 0), ([5, 9, 11, 12, 13, 14, 15], false, 0.5), ([40], false, 9), ([8, 8, 8, 2], true, 7), ([17, 3, 6, 2], true, 9.5)];

    public static TheoryData<string> Names => [.. Variants.Keys];

    [Theory, MemberData(nameof(Names))]
    public void Step_gradient_isThatOfTheFormula(string name)
    {
        foreach (bool isStale in new[] { false, true })
        {
            using var setup = new GrpoSetup();
            using var update = new GroupUpdate(setup.Policy, null, Variants[name]);
            using var pass = new LanguageModelPass(setup.Model);
            var (options, groups) = (Variants[name], Groups(Variants[name]));
            double[][] now = LogProbs(setup, pass, options.Temperature), reference = Reference(setup, pass, options.Temperature);
            double[][] old = isStale ? [.. now.Select((tokens, s) => tokens.Select((x, t) => x - Math.Log(Ratio(s + t))).ToArray())] : now;

            setup.Policy.Parameters.ZeroGradients();
            var result = update.Differentiate(groups, isStale ? Trained(old, groups) : null, update.ReferenceLogProbs(groups));
            double[] start = setup.Weights(), gradient = setup.Backend.ReadDoubles(setup.Policy.Parameters.Gradients);

            Assert.Equal(Formula(), result.Loss, 1e-12);
            FiniteDifference.Check($"{name}, stale {isStale}", 3, start, gradient, x =>
            {
                setup.Backend.Upload(MemoryMarshal.AsBytes<double>(x), setup.Policy.Parameters.Values);
                return Formula();
            });

            double Formula() => Loss(options, LogProbs(setup, pass, options.Temperature), old, reference, Entropies(setup, pass, options.Temperature));
        }
    }

    [Theory]
    [InlineData("dapo")]
    [InlineData("grpo")]
    [InlineData("dr_grpo")]
    [InlineData("kl")]
    [InlineData("cut completions masked")]
    public void Gradient_ofAnySplitIntoPasses_isTheSame(string name)
    {
        double[] whole = GradientOf(Variants[name] with { MicroBatchSize = 6 });

        foreach (var split in new[] { Variants[name] with { MicroBatchSize = 1 }, Variants[name] with { MicroBatchSize = 4 }, Variants[name] with { TokensPerPass = 18 } })
        {
            Compare.Close(whole, GradientOf(split), 1e-12, $"{name}, {split.MicroBatchSize} completions or {split.TokensPerPass} tokens a pass");
        }
    }

    [Fact]
    public void Gradient_ofBnpo_inOnePassIsDapos_inSeveralAnother()
    {
        var bnpo = Options with { LossType = GroupReduction.Bnpo, MicroBatchSize = 6 };
        double[] dapo = GradientOf(Options);

        Compare.Close(dapo, GradientOf(bnpo), 1e-12, "bnpo in one pass");
        Assert.True(dapo.Zip(GradientOf(bnpo with { MicroBatchSize = 2 }), (x, y) => Math.Abs(x - y)).Max() > 1e-3 * dapo.Max(Math.Abs));
    }

    [Fact]
    public void GroupsThatAgree_teachNothing_andAreMeasuredAllTheSame()
    {
        using var setup = new GrpoSetup();
        using var update = new GroupUpdate(setup.Policy, null, Options);
        var agreed = CompletionGroups.Judge(Samples(), new RewardSum([(Reward.Of("same", _ => 0.1), 1)]), Options); // the mean of three times 0.1 is not 0.1
        setup.Policy.Parameters.ZeroGradients();

        var result = update.Differentiate(agreed, null, null);

        Assert.False(result.Learns);
        Assert.Equal(0, result.Loss);
        Assert.All(agreed.Advantages, advantage => Assert.Equal(0, advantage));
        Assert.Equal(1, agreed.Measures["frac_reward_zero_std"]);
        Assert.True(result.Metrics["entropy"] > 0);
        Assert.All(setup.Backend.ReadDoubles(setup.Policy.Parameters.Gradients), gradient => Assert.Equal(0, gradient));
        using var held = new GroupUpdate(setup.Policy, null, Options with { Beta = 0.1 });
        Assert.True(held.Differentiate(agreed, null, held.ReferenceLogProbs(agreed)).Learns);
        using var fresh = setup.NewAdapter(1, isMoved: false);
        using var start = new GroupUpdate(fresh, null, Options with { Beta = 0.1 });
        Assert.False(start.Differentiate(agreed, null, start.ReferenceLogProbs(agreed)).Learns); // at the reference there is nothing to hold either
    }

    [Fact]
    public void Reference_ofANamedAdapter_isThatAdapter()
    {
        using var setup = new GrpoSetup();
        using var named = setup.NewAdapter(31, isMoved: true);
        using var pass = new LanguageModelPass(setup.Model);
        using var update = new GroupUpdate(setup.Policy, named, Options with { Beta = 0.1 });
        var groups = Groups(Options);
        named.Enable();
        double[][] expected = OfSequences(pass, Options.Temperature, said => said.LogProbs);

        double[][] reference = update.ReferenceLogProbs(groups)!;

        LossArrays.Close(expected, reference, "log-probabilities of the reference", 1e-12);
        Assert.True(Math.Abs(reference[0][0] - Reference(setup, pass, Options.Temperature)[0][0]) > 1e-3, "the adapter says what the base says, so this shows nothing");
    }

    static double[] GradientOf(GrpoOptions options)
    {
        using var setup = new GrpoSetup();
        using var update = new GroupUpdate(setup.Policy, null, options);
        setup.Policy.Parameters.ZeroGradients();
        var groups = Groups(options);
        update.Differentiate(groups, null, update.ReferenceLogProbs(groups));
        return setup.Backend.ReadDoubles(setup.Policy.Parameters.Gradients);
    }

    static CompletionGroups Groups(GrpoOptions options) =>
        CompletionGroups.Judge(Samples(), new RewardSum([(Reward.Of("table", sample => Written[int.Parse(sample.Text)].Reward), 1)]), options);

    static IReadOnlyList<Sample> Samples() => [.. Written.Select((written, s) => new Sample(GrpoSetup.Prompts[s / Generations], written.Response, $"{s}", written.Ended))];

    // Inside and outside of both clips, and none near them.
    static double Ratio(int i) => new[] { 1.1, 0.6, 1.9, 0.9, 1.4 }[i % 5];

    static double[][] Trained(double[][] all, CompletionGroups groups) => [.. all.Select((tokens, s) => groups.Learnt.Contains(s) ? tokens : [])];

    static double Loss(GrpoOptions options, double[][] now, double[][] old, double[][] reference, double[][] entropies)
    {
        int[] learnt = [.. Enumerable.Range(0, Written.Length).Where(s => Written[s].Ended || !options.MaskTruncatedCompletions)];
        double loss = 0, tokens = Written.Sum(written => written.Response.Length), learntTokens = learnt.Sum(s => Written[s].Response.Length);
        foreach (int s in learnt)
        {
            double[] rewards = [.. Written.Select(written => written.Reward)], group = rewards[(s / Generations * Generations)..][..Generations];
            double deviation = options.ScaleRewards switch { ScaleRewards.Group => Deviation(group), ScaleRewards.Batch => Deviation(rewards), _ => 1 - 1e-4 };
            double advantage = (rewards[s] - group.Average()) / (deviation + 1e-4);
            int length = now[s].Length;
            double mean = Enumerable.Range(0, length).Average(t => now[s][t] - old[s][t]);
            for (int t = 0; t < length; t++)
            {
                double ratio = Math.Exp(options.ImportanceLevel == ImportanceLevel.Sequence ? mean : now[s][t] - old[s][t]);
                double clipped = Math.Max(1 - options.Epsilon, Math.Min(1 + options.EpsilonHigh!.Value, ratio));
                double token = -Math.Min(Math.Min(ratio, options.Delta ?? 1e9) * advantage, clipped * advantage);
                double apart = reference[s][t] - now[s][t];
                token += options.Beta * (Math.Exp(apart) - apart - 1);
                loss -= options.EntropyCoefficient * entropies[s][t] / learntTokens;
                loss += token * options.LossType switch
                {
                    GroupReduction.Grpo => 1.0 / (Written.Length * length),
                    GroupReduction.Dapo => 1 / tokens,
                    GroupReduction.Bnpo => 1.0 / (3 * Written[s / 2 * 2].Response.Length + 3 * Written[s / 2 * 2 + 1].Response.Length), // three passes of two completions
                    _ => 1.0 / (Written.Length * MaxLength),
                };
            }
        }

        return loss;
    }

    static double Deviation(double[] x) => Math.Sqrt(x.Sum(value => Math.Pow(value - x.Average(), 2)) / (x.Length - 1));

    static double[][] LogProbs(GrpoSetup setup, LanguageModelPass pass, double temperature)
    {
        setup.Policy.Enable();
        return OfSequences(pass, temperature, said => said.LogProbs);
    }

    static double[][] Entropies(GrpoSetup setup, LanguageModelPass pass, double temperature)
    {
        setup.Policy.Enable();
        return OfSequences(pass, temperature, said => said.Entropies);
    }

    static double[][] Reference(GrpoSetup setup, LanguageModelPass pass, double temperature)
    {
        AdapterSet.DisableAll(setup.Model);
        return OfSequences(pass, temperature, said => said.LogProbs);
    }

    // Every text alone and all of it measured; row i is about token i + 1.
    static double[][] OfSequences(LanguageModelPass pass, double temperature, Func<TokenStatistics, double[]> which) => [.. Samples().Select(sample =>
    {
        int[] text = [.. sample.Prompt.Ids, .. sample.Response];
        double[] rows = which(pass.Measure(PackedBatch.From([new Example(text, text, "", 1)]), temperature));
        return rows[(sample.Prompt.Ids.Length - 1)..(text.Length - 1)];
    })];
}
