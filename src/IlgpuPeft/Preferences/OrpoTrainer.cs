// OrpoTrainer: odds ratio preference optimization, supervised training and preference in one run and without a reference.
//
// Maths      L = −mean of ln π over the tokens of chosen prompts and responses − β·mean over pairs of ln σ(ln odds(chosen) − ln odds(rejected)),
//            odds(y) = p/(1 − p) with p = e^(mean of ln π over the response's tokens): see OrpoLoss
// Step       means over all tokens and pairs of the optimizer step, however they are split into passes; a pass holds both responses of its pairs, packed
// Source     Hong et al. 2024, arXiv:2403.07691; likelihood over the prompt too, and metrics' names, as in TRL

using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>Trains an adapter to say chosen responses, and to prefer them over rejected ones.</summary>
public sealed class OrpoTrainer : Trainer
{
    readonly OrpoOptions options;
    readonly IReadOnlyList<PreferencePair> train, validation;
    readonly ResponsePass responses;
    readonly TrainedPart part;

    /// <summary>Prepares a run; nothing is computed or written yet.</summary>
    /// <param name="policy">The adapter to train.</param>
    /// <param name="baseModel">Name or folder of the base, for the saved adapter.</param>
    /// <param name="train">Pairs to train on.</param>
    /// <param name="options">How.</param>
    /// <param name="validation">Pairs to evaluate on, or none.</param>
    /// <exception cref="ArgumentException">An option is out of range, a pair cannot be learned from, or the policy is no language model.</exception>
    public OrpoTrainer(AdapterSet policy, string baseModel, IReadOnlyList<PreferencePair> train, OrpoOptions options, IReadOnlyList<PreferencePair>? validation = null)
        : base(policy.Model, options)
    {
        (this.options, this.train, this.validation) = (options, train, validation ?? []);
        PreferenceRows.Check(nameof(OrpoTrainer), train, this.validation, options.MaxLength, RequireInVocabulary);
        responses = new ResponsePass(nameof(OrpoTrainer), policy, reference: null);
        GoThrough(train.Count);
        part = Train(TrainedWeights.Of(policy, baseModel));
    }

    private protected override string Settings => FormattableString.Invariant($"beta {options.Beta}, data {PreferenceRows.Digest(train)}");

    private protected override StepOutcome Step(int step, int[] items, double rate)
    {
        part.Weights.Parameters.ZeroGradients();
        var totals = new ResponseTotals();
        var whole = Whole([.. items.Select(row => train[row])]);
        foreach (int[] rows in items.Chunk(options.MicroBatchSize))
        {
            PreferencePair[] pairs = [.. rows.Select(row => train[row])];
            responses.Train(pairs.SelectMany(Sequences), totals, logprobs => Loss(pairs, logprobs, whole));
        }

        var outcome = totals.ToStep(step);
        Update(part, rate);
        return outcome;
    }

    private protected override Evaluation? Evaluate(CancellationToken cancel) =>
        validation.Count == 0 ? null : responses.Evaluate(validation.SelectMany(Sequences), logprobs => Loss(validation, logprobs, Whole(validation)), cancel);

    /// <inheritdoc />
    public override void Dispose()
    {
        base.Dispose();
        responses.Dispose();
    }

    // Of the chosen sequence all tokens are trained on, the prompt's too; of the rejected one the response.
    static Example[] Sequences(PreferencePair pair)
    {
        var chosen = pair.ChosenExample;
        return [chosen with { Labels = chosen.InputIds }, pair.RejectedExample];
    }

    static OrpoStep Whole(IReadOnlyList<PreferencePair> pairs) => new(pairs.Count, pairs.Sum(pair => (long)TokensWithPrompt(pair)));

    // Nothing predicts the first token.
    static int TokensWithPrompt(PreferencePair pair) => pair.Prompt.Length + pair.Chosen.Length - 1;

    // The share of these pairs in the loss of the step. A mean's derivative is divided by its tokens; tokens of the chosen response belong to two means.
    ResponseLoss Loss(IReadOnlyList<PreferencePair> pairs, double[][] logprobs, OrpoStep whole)
    {
        var batch = pairs.Select((pair, i) => new OrpoPair(
            logprobs[2 * i][^pair.Chosen.Length..].Average(), logprobs[2 * i + 1].Average(), logprobs[2 * i].Average(), TokensWithPrompt(pair)));
        var result = OrpoLoss.Compute([.. batch], options.Beta, whole);
        var gradient = pairs.SelectMany((pair, i) =>
        {
            int prompt = TokensWithPrompt(pair) - pair.Chosen.Length;
            double likelihood = result.ChosenWithPromptGradient[i] / TokensWithPrompt(pair), odds = result.ChosenGradient[i] / pair.Chosen.Length;
            double rejected = result.RejectedGradient[i] / pair.Rejected.Length;
            return new[]
            {
                [.. logprobs[2 * i].Select((_, token) => token < prompt ? likelihood : likelihood + odds)],
                Array.ConvertAll(logprobs[2 * i + 1], _ => rejected),
            };
        });
        return new ResponseLoss(result.Loss, [.. gradient], result.Metrics);
    }
}
