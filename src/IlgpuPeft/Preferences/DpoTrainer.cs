// DpoTrainer: direct preference optimization, which learns from pairs without a reward model.
//
// Maths      r(y) = β·(ln π(y|x) − ln π_ref(y|x)), sums over the response's tokens; loss of a pair −ln σ(r(chosen) − r(rejected)), or ipo, or hinge: see DpoLoss
// Reference  the base with no adapter, or a set over the same base; its sums are computed once, before the first step, and kept: two numbers a pair
// Step       mean over all pairs of the optimizer step, however they are split into passes; a pass holds both responses of its pairs, packed
//            where no pair has a gradient, as with hinge once all are past its margin, weights and moments stay as they are; TRL lets the moments decay and move the weights
// Source     Rafailov et al. 2023, arXiv:2305.18290; metrics under TRL's names

using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>Trains an adapter to prefer chosen responses over rejected ones, as far as its reference lets it.</summary>
public sealed class DpoTrainer : Trainer
{
    readonly DpoOptions options;
    readonly IReadOnlyList<PreferencePair> train, validation;
    readonly ResponsePass responses;
    readonly TrainedPart part;
    double[] trainReference = [], validationReference = []; // of the chosen response of pair p at 2p, of the rejected one at 2p + 1

    /// <summary>Prepares a run; nothing is computed or written yet.</summary>
    /// <param name="policy">The adapter to train.</param>
    /// <param name="baseModel">Name or folder of the base, for the saved adapter.</param>
    /// <param name="train">Pairs to train on.</param>
    /// <param name="options">How.</param>
    /// <param name="validation">Pairs to evaluate on, or none.</param>
    /// <param name="reference">What the policy is held to: a set over the same base, such as the one that the policy started from. Null for the base alone.</param>
    /// <exception cref="ArgumentException">An option is out of range, a pair cannot be learned from, or policy and reference are not two language models over one base.</exception>
    public DpoTrainer(
        AdapterSet policy, string baseModel, IReadOnlyList<PreferencePair> train, DpoOptions options, IReadOnlyList<PreferencePair>? validation = null, AdapterSet? reference = null)
        : base(policy.Model, options)
    {
        (this.options, this.train, this.validation) = (options, train, validation ?? []);
        if (options.ReferenceFree && reference is not null)
        {
            throw new ArgumentException("DpoTrainer: there is a reference and ReferenceFree is true, expected one of the two.", nameof(reference));
        }

        PreferenceRows.Check(nameof(DpoTrainer), train, this.validation, options.MaxLength, RequireInVocabulary);
        responses = new ResponsePass(nameof(DpoTrainer), policy, reference);
        GoThrough(train.Count);
        part = Train(TrainedWeights.Of(policy, baseModel));
    }

    private protected override string Settings => $"{options.ToLoss()}, reference {responses.ReferenceDescription}, data {PreferenceRows.Digest(train)}";

    private protected override void Prepare(CancellationToken cancel)
    {
        trainReference = Reference(train);
        validationReference = Reference(validation);

        double[] Reference(IReadOnlyList<PreferencePair> pairs) => options.ReferenceFree ? new double[2 * pairs.Count] : responses.ReferenceSums(pairs.SelectMany(Sequences), cancel);
    }

    private protected override StepOutcome Step(int step, int[] items, double rate)
    {
        part.Weights.Parameters.ZeroGradients();
        var totals = new ResponseTotals();
        foreach (int[] rows in items.Chunk(options.MicroBatchSize))
        {
            responses.Train(rows.SelectMany(row => Sequences(train[row])), totals, logprobs => Loss(rows, trainReference, logprobs, items.Length));
        }

        var outcome = totals.ToStep(step);
        if (totals.Learns)
        {
            Update(part, rate);
        }
        else
        {
            Backend.Fill(part.Optimizer.GradientNorm, 0);
        }

        return outcome;
    }

    private protected override Evaluation? Evaluate(CancellationToken cancel) => validation.Count == 0 ? null : responses.Evaluate(
        validation.SelectMany(Sequences), logprobs => Loss([.. Enumerable.Range(0, validation.Count)], validationReference, logprobs, validation.Count), cancel);

    /// <inheritdoc />
    public override void Dispose()
    {
        base.Dispose();
        responses.Dispose();
    }

    static Example[] Sequences(PreferencePair pair) => [pair.ChosenExample, pair.RejectedExample];

    // The share of these rows in the mean over all pairs of the step. Every token of a response has its sum's derivative.
    ResponseLoss Loss(int[] rows, double[] reference, double[][] logprobs, int pairs)
    {
        var batch = rows.Select((row, i) => new DpoPair(
            logprobs[2 * i].Sum(), logprobs[2 * i + 1].Sum(), reference[2 * row], reference[2 * row + 1], logprobs[2 * i].Length, logprobs[2 * i + 1].Length));
        var result = DpoLoss.Compute([.. batch], options.ToLoss(), pairs);
        var gradient = logprobs.Select((tokens, s) => Array.ConvertAll(tokens, _ => (s % 2 == 0 ? result.ChosenGradient : result.RejectedGradient)[s / 2]));
        return new ResponseLoss(result.Loss, [.. gradient], result.Metrics);
    }
}
