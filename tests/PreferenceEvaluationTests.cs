using IlgpuPeft.Losses;
using Xunit;
using Run = IlgpuPeft.Tests.PreferenceGround.Run;

namespace IlgpuPeft.Tests;

/// <summary>The loss of rows set aside, by the formula of each method over those rows alone.</summary>
public class PreferenceEvaluationTests
{
    [Theory, InlineData("dpo"), InlineData("orpo"), InlineData("kto")]
    public async Task Evaluation_hasTheLossOfTheFormula(string method)
    {
        using var ground = new PreferenceGround("cpu-f64", deviation: 0.2);
        using var formulas = new PreferenceFormulas(ground.Model);
        var (train, held) = (PreferenceGround.Pairs(3, seed: 1), PreferenceGround.Pairs(5, seed: 6));
        var set = method == "orpo" ? null : ground.Reference;
        using var trainer = ground.Open(method, new Run(Steps: 1, MicroBatch: 2, Accumulation: 1, Rate: 0), train, held, set);
        var reference = formulas.Under(set, ground.Policy, held);
        double baseline = formulas.KtoBaseline(held, ground.Reference, ground.Policy);
        Assert.True(baseline > 0.1, "without a baseline the loss would be the same");
        double expected = method switch
        {
            "dpo" => formulas.Dpo(held, reference, DpoKind.Sigmoid, PreferenceGround.Beta, 0),
            "orpo" => formulas.Orpo(held, PreferenceGround.Beta),
            _ => formulas.Kto(held, reference, baseline, PreferenceGround.Beta, PreferenceGround.DesirableWeight, PreferenceGround.UndesirableWeight),
        };

        var evaluation = (await trainer.RunAsync(cancel: TestContext.Current.CancellationToken)).Initial!;

        Assert.Equal(expected, evaluation.Loss, 1e-12);
        if (method == "kto")
        {
            Assert.Equal(baseline, evaluation.Measures!["kl"], 1e-12);
        }
    }
}
