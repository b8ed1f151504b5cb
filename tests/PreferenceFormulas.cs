using IlgpuPeft.Adapters;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Models;
using IlgpuPeft.Training;

namespace IlgpuPeft.Tests;

/// <summary>Losses of preference methods as their papers write them, sequence by sequence and without a mask: rows of a response are those from the prompt's last token to its own last but one.</summary>
sealed class PreferenceFormulas(CausalLm model) : IDisposable
{
    readonly LanguageModelPass pass = new(model);

    public void Dispose() => pass.Dispose();

    /// <summary>Log-probabilities of a response's tokens under whatever is enabled.</summary>
    public double[] Tokens(int[] prompt, int[] response)
    {
        int[] ids = [.. prompt, .. response];
        return pass.LogProbs(PackedBatch.From([new Example(ids, ids, "", 1)]))[(prompt.Length - 1)..(ids.Length - 1)];
    }

    /// <summary>Summed log-probabilities of both responses of each pair, under another set or, for null, the base.</summary>
    public (double Chosen, double Rejected)[] Under(AdapterSet? set, AdapterSet policy, PreferencePair[] pairs)
    {
        AdapterSet.DisableAll(model);
        set?.Enable();
        (double, double)[] sums = [.. pairs.Select(pair => (Tokens(pair.Prompt, pair.Chosen).Sum(), Tokens(pair.Prompt, pair.Rejected).Sum()))];
        policy.Enable();
        return sums;
    }

    public double Dpo(PreferencePair[] pairs, (double Chosen, double Rejected)[] reference, DpoKind kind, double beta, double smoothing) => pairs.Zip(reference, (pair, under) =>
    {
        double chosen = Tokens(pair.Prompt, pair.Chosen).Sum() - under.Chosen, rejected = Tokens(pair.Prompt, pair.Rejected).Sum() - under.Rejected;
        return kind switch
        {
            DpoKind.Sigmoid => (1 - smoothing) * Math.Log(1 + Math.Exp(-beta * (chosen - rejected))) + smoothing * Math.Log(1 + Math.Exp(beta * (chosen - rejected))),
            DpoKind.Hinge => Math.Max(0, 1 - beta * (chosen - rejected)),
            _ => Math.Pow(chosen / pair.Chosen.Length - rejected / pair.Rejected.Length - 1 / (2 * beta), 2),
        };
    }).Average();

    public double Orpo(PreferencePair[] pairs, double beta)
    {
        double[][] likelihoods = [.. pairs.Select(pair => Tokens(pair.Prompt[..1], [.. pair.Prompt[1..], .. pair.Chosen]))];
        double odds = pairs.Average(pair =>
        {
            double chosen = Tokens(pair.Prompt, pair.Chosen).Average(), rejected = Tokens(pair.Prompt, pair.Rejected).Average();
            double z = chosen - rejected - Math.Log(1 - Math.Exp(chosen)) + Math.Log(1 - Math.Exp(rejected));
            return -Math.Log(1 + Math.Exp(-z));
        });
        return -likelihoods.Sum(tokens => tokens.Sum()) / likelihoods.Sum(tokens => tokens.Length) - beta * odds;
    }

    // Each pair is two rows, so the next row with another prompt has the next pair's chosen response.
    public double KtoBaseline(PreferencePair[] pairs, AdapterSet? set, AdapterSet policy)
    {
        PreferencePair[] mismatched = [.. pairs.Select((pair, i) => pair with { Chosen = pairs[(i + 1) % pairs.Length].Chosen })];
        var ratios = Under(policy, policy, mismatched).Zip(Under(set, policy, mismatched), (here, there) => here.Chosen - there.Chosen);
        return Math.Max(0, ratios.Average());
    }

    public double Kto(PreferencePair[] pairs, (double Chosen, double Rejected)[] reference, double baseline, double beta, double desirable, double undesirable) =>
        pairs.Zip(reference, (pair, under) =>
        {
            double chosen = Tokens(pair.Prompt, pair.Chosen).Sum() - under.Chosen - baseline, rejected = Tokens(pair.Prompt, pair.Rejected).Sum() - under.Rejected - baseline;
            return (desirable * (1 - 1 / (1 + Math.Exp(-beta * chosen))) + undesirable * (1 - 1 / (1 + Math.Exp(beta * rejected)))) / 2;
        }).Average();
}
