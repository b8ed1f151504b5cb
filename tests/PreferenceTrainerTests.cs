using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Preferences;
using IlgpuPeft.Training;
using Xunit;
using Run = IlgpuPeft.Tests.PreferenceGround.Run;

namespace IlgpuPeft.Tests;

/// <summary>What holds of every preference method: its gradient, that a run may be cut up and continued, that it learns, and that there is one base.</summary>
public class PreferenceTrainerTests(ITestOutputHelper output)
{
    static readonly string[] Methods = ["dpo", "orpo", "kto"];

    public static TheoryData<string> Names => [.. Methods];

    /// <summary>Every method with a reference of its own, and the forms of DPO.</summary>
    public static TheoryData<string, DpoKind, double, bool> Losses => new()
    {
        { "dpo", DpoKind.Sigmoid, 0, false },
        { "dpo", DpoKind.Sigmoid, 0.2, true },
        { "dpo", DpoKind.Ipo, 0, true },
        { "dpo", DpoKind.Hinge, 0, false },
        { "orpo", default, 0, false },
        { "kto", default, 0, false },
        { "kto", default, 0, true },
    };

    public static TheoryData<string, string> OnKernels => new(TestDevices.WithKernels.SelectMany(device => Methods.Select(method => (device, method))));

    static CancellationToken Cancel => TestContext.Current.CancellationToken;

    [Theory, MemberData(nameof(Losses))]
    public async Task Step_hasTheLossOfTheFormula_andItsGradient(string method, DpoKind kind, double smoothing, bool hasReference)
    {
        using var ground = new PreferenceGround("cpu-f64", deviation: 0.2);
        using var formulas = new PreferenceFormulas(ground.Model);
        var pairs = PreferenceGround.Pairs(5, seed: 1);
        var run = new Run(Steps: 1, MicroBatch: 2, Accumulation: 5, Rate: 0); // KTO: ten rows; the other methods have a last pass of one pair, and fewer passes than they may have
        var set = hasReference ? ground.Reference : null;
        var options = PreferenceGround.Options(new DpoOptions { Beta = PreferenceGround.Beta, Kind = kind, LabelSmoothing = smoothing }, run);
        using var trainer = method == "dpo" ? new DpoTrainer(ground.Policy, "base", pairs, options, reference: set) : ground.Open(method, run, pairs, reference: set);
        var reference = formulas.Under(set, ground.Policy, pairs);
        double baseline = formulas.KtoBaseline(pairs, set, ground.Policy);

        var step = (await trainer.RunAsync(cancel: Cancel)).Last!;

        double[] start = ground.Weights, gradient = ground.Gradient;
        Assert.Equal(Formula(), step.Loss, 1e-12);
        RequireResponsesOnly(method, step, pairs, [.. pairs.Select(pair => (formulas.Tokens(pair.Prompt, pair.Chosen), formulas.Tokens(pair.Prompt, pair.Rejected)))]);
        FiniteDifference.Check(method, 7, start, gradient, x =>
        {
            ground.Weights = x;
            return Formula();
        });

        double Formula() => method switch
        {
            "dpo" => formulas.Dpo(pairs, reference, kind, PreferenceGround.Beta, smoothing),
            "orpo" => formulas.Orpo(pairs, PreferenceGround.Beta),
            _ => formulas.Kto(pairs, reference, baseline, PreferenceGround.Beta, PreferenceGround.DesirableWeight, PreferenceGround.UndesirableWeight),
        };
    }

    [Fact]
    public async Task Dpo_ofPairsThatAreAllPastTheMargin_leavesTheWeightsAsTheyAre()
    {
        using var ground = new PreferenceGround("cpu", deviation: 0.3); // far from the base that it is held to, so that of two responses it favours one
        List<(PreferencePair Pair, double Margin)> favoured = [];
        foreach (var pair in PreferenceGround.Pairs(4, seed: 1))
        {
            double margin = (await Train([pair], new DpoOptions { Beta = 1 }, rate: 0))[0]["rewards/margins"];
            favoured.Add((margin > 0 ? pair : Reversed(pair), Math.Abs(margin)));
        }

        PreferencePair[] past = [.. favoured.Select(item => item.Pair)];
        var hinge = new DpoOptions { Kind = DpoKind.Hinge, Beta = 2 / favoured.Min(item => item.Margin) }; // the nearest is twice as far as it asks for
        double[] before = ground.Weights;

        var idle = await Train(past, hinge, rate: 0.01);

        Assert.All(idle, step => Assert.Equal((0, 0), (step.Loss, step.GradientNorm)));
        Compare.Same(before, ground.Weights);
        Assert.All(await Train([.. past, Reversed(past[0])], hinge, rate: 0.01), step => Assert.True(step is { Loss: > 0, GradientNorm: > 0 }));
        Assert.NotEqual(before, ground.Weights);

        static PreferencePair Reversed(PreferencePair pair) => pair with { Chosen = pair.Rejected, Rejected = pair.Chosen };

        async Task<List<StepMetrics>> Train(PreferencePair[] pairs, DpoOptions options, double rate)
        {
            using var trainer = new DpoTrainer(ground.Policy, "base", pairs, PreferenceGround.Options(options, new Run(2, pairs.Length, 1, rate)));
            return await Steps(trainer);
        }
    }

    [Theory, MemberData(nameof(Names))]
    public async Task Run_ofAnySplitIntoPasses_isTheSame(string method)
    {
        var pairs = PreferenceGround.Pairs(9, seed: 2);
        List<(StepMetrics[] Steps, double[] Gradient)> runs = [];
        foreach (var run in new[] { new Run(3, 6, 1, 0.01), new Run(3, 1, 6, 0.01), new Run(3, 2, 3, 0.01) })
        {
            using var ground = new PreferenceGround("cpu-f64", deviation: 0.1);
            using var trainer = ground.Open(method, run, pairs, pairs[..2]);
            runs.Add(([.. await Steps(trainer)], ground.Gradient));
        }

        foreach (var (steps, gradient) in runs.Skip(1))
        {
            Compare.Close(runs[0].Gradient, gradient, 1e-10, "the gradient of another split");
            foreach (var (expected, step) in runs[0].Steps.Zip(steps))
            {
                Assert.Equal(expected.Loss, step.Loss, 1e-12);
                Assert.Equal((expected.Tokens, expected.TrainedTokens), (step.Tokens, step.TrainedTokens));
                Assert.Equal(expected.Measures!.Keys.Order(), step.Measures!.Keys.Order());
                Assert.All(expected.Measures.Keys, name => Assert.Equal(expected[name], step[name], 1e-10));
            }
        }
    }

    [Theory, MemberData(nameof(Names))]
    public async Task Resume_continuesBitForBit(string method)
    {
        using var temp = new TempFolder();
        var pairs = PreferenceGround.Pairs(7, seed: 3);
        var whole = await Session("whole", null, Cancel);
        using var source = new CancellationTokenSource();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Session("cut", null, source.Token, step =>
        {
            if (step.Step == 2)
            {
                source.Cancel();
            }
        }));

        var resumed = await Session("cut", new RunFolder(temp.File("cut")).LatestCheckpoint(), Cancel);

        Assert.Equal([3, 4, 5], resumed.Select(step => step.Step));
        Assert.Equal(whole.Skip(2).Select(Numbers), resumed.Select(Numbers));
        Assert.Equal(File.ReadAllBytes(temp.File("whole/adapter_model.safetensors")), File.ReadAllBytes(temp.File("cut/adapter_model.safetensors")));

        async Task<List<StepMetrics>> Session(string name, string? from, CancellationToken cancel, Action<StepMetrics>? onStep = null)
        {
            using var ground = new PreferenceGround("cpu", deviation: 0.1, WeightStorage.Nf4);
            using var trainer = ground.Open(method, new Run(5, 2, 2, 0.02, temp.File(name)), pairs, pairs[..3], ground.Reference, temp.Path);
            var steps = new Steps(onStep);
            await trainer.RunAsync(steps, from, cancel);
            return steps.All;
        }

        static string Numbers(StepMetrics step) =>
            $"{step.Loss:r} {step.GradientNorm:r} {step.EvaluationLoss:r} {string.Join(' ', step.Measures!.Keys.Order().Select(name => $"{name} {step[name]:r}"))}";
    }

    [Fact]
    public async Task Resume_withOtherDataReferenceOrConstants_isRefused()
    {
        using var temp = new TempFolder();
        using var ground = new PreferenceGround("cpu");
        var pairs = PreferenceGround.Pairs(4, seed: 4);
        var run = new Run(2, 1, 1, 0.01, temp.Path);
        foreach (string method in Methods)
        {
            using (var trainer = ground.Open(method, run, pairs, baseModel: temp.Path))
            {
                await trainer.RunAsync(cancel: Cancel);
                trainer.RequireResumable(temp.File("checkpoint-1"));
            }

            PreferencePair other = pairs[0] with { Rejected = [.. pairs[0].Rejected, 5] };
            Refused(ground.Open(method, run, [other, .. pairs[1..]]));
            if (method != "orpo")
            {
                Refused(ground.Open(method, run, pairs, reference: ground.Reference));
            }

            Directory.Delete(temp.Path, recursive: true);
        }

        using (var trainer = new DpoTrainer(ground.Policy, temp.Path, pairs, PreferenceGround.Options(new DpoOptions(), run)))
        {
            await trainer.RunAsync(cancel: Cancel);
        }

        Refused(new DpoTrainer(ground.Policy, temp.Path, pairs, PreferenceGround.Options(new DpoOptions { Kind = DpoKind.Ipo }, run)));

        void Refused(Trainer trainer)
        {
            using (trainer)
            {
                Assert.Contains("other settings or data", Assert.Throws<CheckpointException>(() => trainer.RequireResumable(temp.File("checkpoint-1"))).Message, StringComparison.Ordinal);
            }
        }
    }

    [Theory, MemberData(nameof(Names))]
    public async Task HeldOutRows_areToldApart_afterTraining(string method)
    {
        using var ground = new PreferenceGround("cpu");
        using var trainer = ground.Open(method, new Run(12, 4, 2, 0.01), PreferenceGround.Pairs(40, seed: 5), PreferenceGround.Pairs(30, seed: 6));

        var result = await trainer.RunAsync(cancel: Cancel);

        var (before, after) = (result.Initial!.Measures!, result.Final!.Measures!);
        output.WriteLine($"{method}: loss {result.Initial.Loss:0.000} to {result.Final.Loss:0.000}, margin {before["rewards/margins"]:0.000} to {after["rewards/margins"]:0.000}");
        Assert.True(result.Final.Loss < 0.9 * result.Initial.Loss);
        Assert.True(after["rewards/margins"] > before["rewards/margins"] + (method == "orpo" ? 0.1 : 0.5)); // ORPO's are of means, the others' of sums
        if (method != "kto")
        {
            double least = method == "orpo" ? before["rewards/accuracies"] + 0.2 : 0.95; // ORPO learns most of what its likelihood asks for, at first
            Assert.True(before["rewards/accuracies"] < 0.75 && after["rewards/accuracies"] > least, $"accuracy {before["rewards/accuracies"]:0.00} to {after["rewards/accuracies"]:0.00}");
        }

        Assert.InRange(after["entropy"], 0.01, Math.Log(TinyModels.Vocabulary));
    }

    [Theory, MemberData(nameof(OnKernels))]
    public async Task Run_inKernels_followsTheCpuCurve(string device, string method)
    {
        var run = new Run(4, 4, 1, 0.03);
        var pairs = PreferenceGround.Pairs(2, seed: 5);
        using var cpu = new PreferenceGround("cpu");
        using var expected = cpu.Open(method, run, pairs);
        double[] curve = [.. (await Steps(expected)).Select(step => step.Loss)];
        using var ground = new PreferenceGround(device);
        using var trainer = ground.Open(method, run, pairs);

        double[] losses = [.. (await Steps(trainer)).Select(step => step.Loss)];

        Compare.Close(curve, losses, TestDevices.Tolerance(device), "loss curve");
        Assert.True(curve[^1] < 0.9 * curve[0], $"the loss goes from {curve[0]:0.00} to {curve[^1]:0.00}: following so flat a curve shows nothing");
    }

    [Theory, MemberData(nameof(Names))]
    public async Task Run_withAReference_holdsTheBaseOnce(string method)
    {
        using var ground = new PreferenceGround("cpu", storage: WeightStorage.Nf4Double);
        var memory = ground.Backend.Memory;
        using (var formulas = new PreferenceFormulas(ground.Model))
        {
            formulas.Tokens(new int[32], [1]); // positions' tables are made when first needed
        }

        Dictionary<string, long> before = new(memory.ByOwner);
        using var trainer = ground.Open(method, new Run(2, 2, 1, 0.01), PreferenceGround.Pairs(6, seed: 7), PreferenceGround.Pairs(3, seed: 8), ground.Reference);

        await trainer.RunAsync(cancel: Cancel);

        foreach (string owner in new[] { "weights", "adapters", "gradients" })
        {
            Assert.True(before[owner] > 0);
            Assert.Equal(before[owner], memory.ByOwner[owner]);
        }

        Assert.Equal(["activations", "optimizer"], memory.ByOwner.Keys.Where(owner => memory.ByOwner[owner] > before.GetValueOrDefault(owner)));
    }

    [Theory, InlineData("dpo"), InlineData("kto")]
    public async Task Cancel_beforeTheReferenceIsComputed_leavesNothing(string method)
    {
        using var temp = new TempFolder();
        using var ground = new PreferenceGround("cpu");
        double[] before = ground.Weights;
        using var trainer = ground.Open(method, new Run(2, 1, 1, 0.01, temp.File("out")), PreferenceGround.Pairs(3, seed: 9));
        using var source = new CancellationTokenSource();
        source.Cancel();

        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => trainer.RunAsync(cancel: source.Token));

        Compare.Same(before, ground.Weights);
        Assert.False(Directory.Exists(temp.File("out")));
        var enabled = ground.Model.Linears.First().Adapter;
        ground.Policy.Enable();
        Assert.Same(ground.Model.Linears.First().Adapter, enabled);
    }

    // A token of the prompt too many has the same log-probability before both responses: DPO's loss cannot show it, its log-probabilities do.
    static void RequireResponsesOnly(string method, StepMetrics step, PreferencePair[] pairs, (double[] Chosen, double[] Rejected)[] tokens)
    {
        Assert.Equal(tokens.Average(pair => Whole(pair.Chosen)), step["logps/chosen"], 1e-10);
        Assert.Equal(tokens.Average(pair => Whole(pair.Rejected)), step["logps/rejected"], 1e-10);
        Assert.Equal(pairs.Sum(pair => pair.Chosen.Length + pair.Rejected.Length + (method == "orpo" ? pair.Prompt.Length - 1 : 0)), step.TrainedTokens);

        double Whole(double[] response) => method == "orpo" ? response.Average() : response.Sum();
    }

    static async Task<List<StepMetrics>> Steps(Trainer trainer)
    {
        var steps = new Steps();
        await trainer.RunAsync(steps, cancel: Cancel);
        return steps.All;
    }
}
