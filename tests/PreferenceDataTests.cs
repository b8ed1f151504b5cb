using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Preferences;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;
using Xunit;
using Run = IlgpuPeft.Tests.PreferenceGround.Run;

namespace IlgpuPeft.Tests;

/// <summary>What preference methods start from and refuse: a policy that is its reference, unusable rows, adapters of another kind or base, options out of range.</summary>
public sealed class PreferenceDataTests : IDisposable
{
    static readonly int[] Prompt = [1, 5, 6];

    readonly PreferenceGround ground = new("cpu");

    public static TheoryData<string> OnEveryDevice => TestDevices.All.Rows();

    public void Dispose() => ground.Dispose();

    // One pair is the same batch under the reference and under the policy, so the same bits; among others a sequence may round otherwise.
    [Theory, MemberData(nameof(OnEveryDevice))]
    public async Task Dpo_ofAPolicyThatIsItsReference_startsAtLogTwo(string device)
    {
        using var start = new PreferenceGround(device);
        foreach (int pairs in new[] { 1, 3 })
        {
            using var trainer = start.Open("dpo", new Run(1, 3, 2, 0), PreferenceGround.Pairs(pairs, seed: 1));

            var step = (await trainer.RunAsync(cancel: TestContext.Current.CancellationToken)).Last!;

            double tolerance = pairs == 1 ? 0 : TestDevices.Tolerance(device);
            Assert.Equal(Math.Log(2), step.Loss, tolerance);
            Assert.All(new[] { "rewards/chosen", "rewards/rejected", "rewards/margins" }, name => Assert.Equal(0, step[name], tolerance));
            Assert.True(pairs > 1 || step["rewards/accuracies"] == 0, "a draw is not right");
            Assert.True(step["logps/chosen"] < -1 && step["logps/rejected"] < -1);
        }
    }

    [Fact]
    public async Task Dpo_ofAPolicyThatStartsFromItsReferenceAdapter_startsAtLogTwo()
    {
        using var start = new PreferenceGround("cpu", deviation: 0.2);
        using var same = new AdapterSet(start.Model, start.Policy.Config, seed: 4);
        start.Backend.Write(start.Backend.ReadFloats(start.Policy.Parameters.Values), same.Parameters.Values);
        var pairs = PreferenceGround.Pairs(5, seed: 1);

        Assert.Equal(Math.Log(2), await FirstLoss(same), 1e-6);
        Assert.NotEqual(Math.Log(2), await FirstLoss(null), 0.01);

        async Task<double> FirstLoss(AdapterSet? reference)
        {
            using var trainer = start.Open("dpo", new Run(1, 5, 1, 0), pairs, reference: reference);
            return (await trainer.RunAsync(cancel: TestContext.Current.CancellationToken)).Last!.Loss;
        }
    }

    [Fact]
    public async Task Dpo_referenceFree_countsTheReferenceAsZero()
    {
        var pairs = PreferenceGround.Pairs(4, seed: 1);
        var options = PreferenceGround.Options(new DpoOptions { Beta = 0.2, ReferenceFree = true }, new Run(1, 4, 1, 0));
        using var formulas = new PreferenceFormulas(ground.Model);
        using var trainer = new DpoTrainer(ground.Policy, "base", pairs, options, pairs);

        var result = await trainer.RunAsync(cancel: TestContext.Current.CancellationToken);

        double expected = formulas.Dpo(pairs, new (double, double)[4], DpoKind.Sigmoid, 0.2, 0);
        Assert.Equal(expected, result.Last!.Loss, 1e-5);
        Assert.Equal(expected, result.Initial!.Loss, 1e-5);
    }

    [Fact]
    public void Pairs_thatCannotBeLearnedFrom_areNamedAndCounted()
    {
        PreferencePair good = new(Prompt, [7, 2], [8, 2], 0, "pairs.jsonl", 1);
        foreach (var (bad, problem) in new (PreferencePair, string)[]
        {
            (good with { Line = 7, Rejected = [7, 2] }, "pairs.jsonl:7: the chosen and the rejected response are the same 2 tokens"),
            (good with { Line = 7, Chosen = [] }, "pairs.jsonl:7: prompt, chosen and rejected response have 3, 0 and 2 tokens"),
            (good with { Line = 7, Rejected = [] }, "pairs.jsonl:7: prompt, chosen and rejected response have 3, 2 and 0 tokens"),
            (good with { Line = 7, Prompt = [] }, "pairs.jsonl:7: prompt, chosen and rejected response have 0, 2 and 2 tokens"),
            (good with { Line = 7, Rejected = [7, 8, 9, 2] }, "pairs.jsonl:7: the row has 7 tokens, expected at most max_length = 6"),
        })
        {
            foreach (var (train, validation) in new (PreferencePair[], PreferencePair[])[] { ([good, bad, bad], [good]), ([good], [good, bad, bad]) })
            {
                Refused($"; 2 of {train.Length + validation.Length} rows are so", () => Dpo(train, validation));
                Refused(problem, () => Dpo(train, validation));
                Refused(problem, () => new OrpoTrainer(ground.Policy, "base", train, new OrpoOptions { MaxLength = 6 }, validation));
            }
        }

        Refused("there are no rows to train on", () => Dpo([], [good]));
        Refused("pairs.jsonl:1: token id 41 is out of range", () => Dpo([good with { Rejected = [41] }], []));
        Refused("pairs.jsonl:1: token id -1 is out of range", () => new OrpoTrainer(ground.Policy, "base", [good with { Chosen = [-1] }], new OrpoOptions()));

        DpoTrainer Dpo(PreferencePair[] train, PreferencePair[] validation) => new(ground.Policy, "base", train, new DpoOptions { MaxLength = 6 }, validation);
    }

    [Fact]
    public void LabelledResponses_thatCannotBeLearnedFrom_areNamedAndCounted()
    {
        LabelledResponse liked = new(Prompt, [7, 2], true, "rows.jsonl", 1), other = new([1, 9], [8, 2], false, "rows.jsonl", 2);

        Refused("rows.jsonl:3: prompt and response have 3 and 0 tokens, expected at least 1 each. Drop such rows; 1 of 3 rows are so", () => Kto([liked, other, liked with { Response = [], Line = 3 }]));
        Refused("rows.jsonl:3: the row has 7 tokens, expected at most max_length = 6", () => Kto([liked, other, liked with { Response = [7, 8, 9, 2], Line = 3 }]));
        Refused("2 of 2 rows to train on are desirable, expected both labels", () => Kto([liked, other with { IsDesirable = true }]));
        Refused("0 of 1 rows to train on are desirable, expected both labels", () => Kto([other]));
        Refused("rows.jsonl:1: this and all other of 2 rows have the same prompt", () => Kto([liked, other with { Prompt = Prompt }]));
        Refused("rows.jsonl:2: token id 41 is out of range", () => Kto([liked, other with { Response = [41] }]));
        Refused("there are no rows to train on", () => Kto([]));

        KtoTrainer Kto(LabelledResponse[] rows) => new(ground.Policy, "base", rows, new KtoOptions { MaxLength = 6 });
    }

    [Fact]
    public void Mismatched_isTheResponseToTheNextOtherPrompt_cutToFit()
    {
        int[] a = [1, 5], b = [1, 6, 7];
        LabelledResponse[] rows = [Row(a, 10), Row(a, 11), Row(b, 12, 13, 14), Row(a, 15), Row(a, 16)];

        var sequences = Enumerable.Range(0, rows.Length).Select(new KtoRows(rows, maxLength: 4).Mismatched).ToArray();

        Assert.Equal([[1, 5, 12, 13], [1, 5, 12, 13], [1, 6, 7, 15], [1, 5, 12, 13], [1, 5, 12, 13]], sequences.Select(sequence => sequence.InputIds));
        Assert.Equal([-100, -100, 12, 13], sequences[0].Labels);

        static LabelledResponse Row(int[] prompt, params int[] response) => new(prompt, response, true, "", 1);
    }

    [Fact]
    public void Adapters_ofAnotherKindOrBase_areRefused()
    {
        using var foreign = new PreferenceGround("cpu");
        using var judge = new AdapterSet(ground.Model, new LoraConfig { Rank = 2 }, scalarHead: true);
        var pairs = PreferenceGround.Pairs(2, seed: 1);

        Refused("DpoTrainer: the policy has a scalar head", () => new DpoTrainer(judge, "base", pairs, new DpoOptions()));
        Refused("OrpoTrainer: the policy has a scalar head", () => new OrpoTrainer(judge, "base", pairs, new OrpoOptions()));
        Refused("DpoTrainer: the reference has a scalar head", () => new DpoTrainer(ground.Policy, "base", pairs, new DpoOptions(), reference: judge));
        Refused("DpoTrainer: the reference is over another base", () => new DpoTrainer(ground.Policy, "base", pairs, new DpoOptions(), reference: foreign.Reference));
        Refused("DpoTrainer: the reference is the policy itself", () => new DpoTrainer(ground.Policy, "base", pairs, new DpoOptions(), reference: ground.Policy));
        Refused("KtoTrainer: the reference is over another base", () =>
            new KtoTrainer(ground.Policy, "base", PreferenceGround.Labelled(pairs), new KtoOptions(), reference: foreign.Reference));
        Refused("there is a reference and ReferenceFree is true", () => new DpoTrainer(ground.Policy, "base", pairs, new DpoOptions { ReferenceFree = true }, reference: ground.Reference));
    }

    [Fact]
    public void Options_outOfRange_areRefused()
    {
        var pairs = PreferenceGround.Pairs(2, seed: 1);
        foreach (var options in new DpoOptions[] { new() { Beta = 0 }, new() { Kind = (DpoKind)9 }, new() { LabelSmoothing = 0.5 }, new() { Kind = DpoKind.Ipo, LabelSmoothing = 0.1 }, new() { MaxLength = 1 } })
        {
            Refused("DpoOptions: ", () => new DpoTrainer(ground.Policy, "base", pairs, options));
        }

        foreach (var options in new OrpoOptions[] { new() { Beta = -1 }, new() { MaxLength = 1 } })
        {
            Refused("OrpoOptions: ", () => new OrpoTrainer(ground.Policy, "base", pairs, options));
        }

        foreach (var options in new KtoOptions[] { new() { Beta = 0 }, new() { DesirableWeight = 0 }, new() { UndesirableWeight = double.NaN }, new() { MaxLength = 1 } })
        {
            Refused("KtoOptions: ", () => new KtoTrainer(ground.Policy, "base", PreferenceGround.Labelled(pairs), options));
        }
    }

    void Refused(string problem, Func<Trainer> open)
    {
        long before = ground.Backend.Memory.Live;
        Assert.Contains(problem, Assert.Throws<ArgumentException>(open).Message, StringComparison.Ordinal);
        Assert.Equal(before, ground.Backend.Memory.Live);
    }
}
