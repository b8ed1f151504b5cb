// KtoTrainer: Kahneman-Tversky optimization, which learns from single responses that somebody liked or did not.
//
// Maths      r = ln π(y|x) − ln π_ref(y|x), sums over the response's tokens; k = max(0, mean over the step of ln π(y'|x) − ln π_ref(y'|x)), y' an answer to another prompt
//            loss of a row w·(1 − σ(±β·(r − k))), + and w_d where it was liked, − and w_u where not; k is a constant for the gradient: see KtoLoss
// Baseline   each row has one mismatched response for good: that of the next row with another prompt, in the data's order, cut to the length that fits. TRL takes the neighbour in
//            the batch, so its k depends on how the data is cut into batches, and needs two rows a pass; here k is that of the whole optimizer step
// Reference  the base with no adapter, or a set over the same base; its sums, of matched and mismatched responses, are computed once, before the first step, and kept
// Step       mean over all rows of the optimizer step, however they are split into passes
// Source     Ethayarajh et al. 2024, arXiv:2402.01306; metrics under TRL's names

using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>Trains an adapter to say what was liked and not to say what was not, as far as its reference lets it.</summary>
public sealed class KtoTrainer : Trainer
{
    readonly KtoOptions options;
    readonly KtoRows train, validation;
    readonly ResponsePass responses;
    readonly TrainedPart part;

    /// <summary>Prepares a run; nothing is computed or written yet.</summary>
    /// <param name="policy">The adapter to train.</param>
    /// <param name="baseModel">Name or folder of the base, for the saved adapter.</param>
    /// <param name="train">Responses to train on, of both labels.</param>
    /// <param name="options">How.</param>
    /// <param name="validation">Responses to evaluate on, or none.</param>
    /// <param name="reference">What the policy is held to: a set over the same base, such as the one that the policy started from. Null for the base alone.</param>
    /// <exception cref="ArgumentException">An option is out of range, the rows cannot be learned from, or policy and reference are not two language models over one base.</exception>
    public KtoTrainer(
        AdapterSet policy, string baseModel, IReadOnlyList<LabelledResponse> train, KtoOptions options, IReadOnlyList<LabelledResponse>? validation = null, AdapterSet? reference = null)
        : base(policy.Model, options)
    {
        this.options = options;
        PreferenceRows.Check(nameof(KtoTrainer), train, validation ?? [], options.MaxLength, RequireInVocabulary);
        (this.train, this.validation) = (new KtoRows(train, options.MaxLength), new KtoRows(validation ?? [], options.MaxLength));
        responses = new ResponsePass(nameof(KtoTrainer), policy, reference);
        GoThrough(train.Count);
        part = Train(TrainedWeights.Of(policy, baseModel));
    }

    private protected override string Settings =>
        $"{options.ToLoss()}, longest {options.MaxLength}, reference {responses.ReferenceDescription}, data {PreferenceRows.Digest(train.All)}";

    private protected override void Prepare(CancellationToken cancel)
    {
        foreach (var rows in new[] { train, validation })
        {
            rows.Reference = responses.ReferenceSums(rows.All.Select(row => row.Example), cancel);
            rows.MismatchedReference = responses.ReferenceSums(rows.All.Select((_, row) => rows.Mismatched(row)), cancel);
        }
    }

    private protected override StepOutcome Step(int step, int[] items, double rate)
    {
        part.Weights.Parameters.ZeroGradients();
        var totals = new ResponseTotals();
        double baseline = Baseline(train, items);
        var whole = Whole(train, items);
        foreach (int[] some in items.Chunk(options.MicroBatchSize))
        {
            responses.Train(some.Select(row => train.All[row].Example), totals, logprobs => Loss(train, some, logprobs, baseline, whole));
        }

        var outcome = totals.ToStep(step);
        Update(part, rate);
        return outcome;
    }

    private protected override Evaluation? Evaluate(CancellationToken cancel)
    {
        int[] all = [.. Enumerable.Range(0, validation.All.Count)];
        if (all.Length == 0)
        {
            return null;
        }

        double baseline = Baseline(validation, all, cancel);
        return responses.Evaluate(validation.All.Select(row => row.Example), logprobs => Loss(validation, all, logprobs, baseline, Whole(validation, all)), cancel);
    }

    /// <inheritdoc />
    public override void Dispose()
    {
        base.Dispose();
        responses.Dispose();
    }

    double Baseline(KtoRows rows, int[] items, CancellationToken cancel = default) =>
        KtoLoss.Baseline(responses.PolicySums(items.Select(rows.Mismatched), cancel), [.. items.Select(row => rows.MismatchedReference[row])]);

    static KtoStep Whole(KtoRows rows, int[] items)
    {
        int desirable = items.Count(row => rows.All[row].IsDesirable);
        return new KtoStep(desirable, items.Length - desirable);
    }

    // The share of these items in the mean over all rows of the step. Every token of a response has its sum's derivative.
    ResponseLoss Loss(KtoRows rows, int[] items, double[][] logprobs, double baseline, KtoStep whole)
    {
        var batch = items.Select((row, i) => new KtoExample(logprobs[i].Sum(), rows.Reference[row], rows.All[row].IsDesirable));
        var result = KtoLoss.Compute([.. batch], baseline, options.ToLoss(), whole);
        return new ResponseLoss(result.Loss, [.. logprobs.Select((tokens, i) => Array.ConvertAll(tokens, _ => result.Gradient[i]))], result.Metrics);
    }
}
