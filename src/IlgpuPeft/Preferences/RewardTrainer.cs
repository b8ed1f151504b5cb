// RewardTrainer: a reward model, which learns from pairs to give the preferred text the higher score.
//
// Maths      r(x, y) = w·h, the scalar head on the hidden state of the last token of prompt and response, which is the end-of-sequence token; loss of a pair
//            −ln σ(r(chosen) − r(rejected) − margin) + c·(r(chosen) + r(rejected))²: see RewardLoss
// Step       mean over all pairs of the optimizer step, however they are split into passes; a pass holds both sequences of its pairs, packed: first all chosen, then all rejected
// Source     Ouyang et al. 2022, arXiv:2203.02155, equation 1; margin: Touvron et al. 2023, arXiv:2307.09288; metrics under TRL's names

using System.Globalization;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Tensors;
using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>Trains an adapter with a scalar head to score texts as the people did who preferred one response over another.</summary>
public sealed class RewardTrainer : Trainer
{
    // Tokens that an evaluation pass holds at most, unless a pair is longer.
    const int EvaluationTokens = 2048;

    const string TokensSeen = "num_tokens";

    readonly RewardOptions options;
    readonly AdapterSet adapter;
    readonly Parameter head;
    readonly IReadOnlyList<PreferencePair> train, validation;
    readonly TrainedPart part;
    readonly LanguageModelPass pass;
    double tokensSeen;

    /// <summary>Prepares a run; nothing is trained or written yet.</summary>
    /// <param name="adapter">The adapter to train, with a scalar head.</param>
    /// <param name="baseModel">Name or folder of the base, for the saved adapter.</param>
    /// <param name="train">Pairs to train on.</param>
    /// <param name="options">How.</param>
    /// <param name="validation">Pairs to evaluate on, or none.</param>
    /// <exception cref="ArgumentException">An option is out of range, the adapter has no head, or a pair is empty, too long, of equal responses or holds a token that the model lacks.</exception>
    public RewardTrainer(AdapterSet adapter, string baseModel, IReadOnlyList<PreferencePair> train, RewardOptions options, IReadOnlyList<PreferencePair>? validation = null)
        : base(adapter.Model, options)
    {
        (this.options, this.adapter, this.train, this.validation) = (options, adapter, train, validation ?? []);
        head = adapter.Head ?? throw new ArgumentException("RewardTrainer: the adapter has no scalar head, expected one to read scores from. Make it with scalarHead: true.", nameof(adapter));
        PreferenceRows.Check(nameof(RewardTrainer), train, this.validation, options.MaxLength, RequireInVocabulary);
        GoThrough(train.Count);
        part = Train(TrainedWeights.Of(adapter, baseModel));
        pass = new LanguageModelPass(adapter.Model);
    }

    private protected override string Settings => string.Create(CultureInfo.InvariantCulture,
        $"centring {options.CenterRewardsCoefficient}, margins {PreferenceRows.MarginDigest(train)}, data {PreferenceRows.Digest(train)}");

    private protected override Dictionary<string, double> State
    {
        get => new() { [TokensSeen] = tokensSeen };
        set => tokensSeen = value.GetValueOrDefault(TokensSeen);
    }

    private protected override StepOutcome Step(int step, int[] items, double rate)
    {
        adapter.Enable();
        part.Weights.Parameters.ZeroGradients();
        var scores = new PairScores();
        double loss = 0;
        long tokens = 0;
        foreach (int[] rows in items.Chunk(options.MicroBatchSize))
        {
            List<PreferencePair> pairs = [.. rows.Select(row => train[row])];
            var batch = Both(pairs);
            tokens += batch.Length;
            pass.TrainScores(batch, head, values =>
            {
                var (chosen, rejected) = scores.Add(batch.OfLast(values));
                var result = Loss(pairs, chosen, rejected, items.Length);
                loss += result.Loss;
                return batch.FromLast([.. result.ChosenGradient, .. result.RejectedGradient]);
            });
        }

        PendingStep.Finite(loss, step + 1); // before the weights change
        Update(part, rate);
        tokensSeen += tokens;
        return new StepOutcome(loss, tokens, tokens, new Dictionary<string, double>(scores.Metrics) { [TokensSeen] = tokensSeen });
    }

    private protected override Evaluation? Evaluate(CancellationToken cancel)
    {
        if (validation.Count == 0)
        {
            return null;
        }

        adapter.Enable();
        var scores = new PairScores();
        double loss = 0;
        int[] lengths = [.. validation.Select(pair => pair.ChosenExample.Length + pair.RejectedExample.Length)];
        foreach (int[] rows in Packer.Pack(lengths, Math.Max(EvaluationTokens, lengths.Max())))
        {
            cancel.ThrowIfCancellationRequested();
            List<PreferencePair> pairs = [.. rows.Select(row => validation[row])];
            var batch = Both(pairs);
            var (chosen, rejected) = scores.Add(batch.OfLast(pass.Scores(batch, head)));
            loss += Loss(pairs, chosen, rejected, validation.Count).Loss;
        }

        return new Evaluation(loss, scores.Metrics);
    }

    /// <inheritdoc />
    public override void Dispose()
    {
        base.Dispose();
        pass.Dispose();
    }

    static PackedBatch Both(List<PreferencePair> pairs) => PackedBatch.From([.. pairs.Select(pair => pair.ChosenExample), .. pairs.Select(pair => pair.RejectedExample)]);

    RewardLossResult Loss(List<PreferencePair> pairs, double[] chosen, double[] rejected, int ofAll) =>
        RewardLoss.Compute(chosen, rejected, [.. pairs.Select(pair => pair.Margin)], options.CenterRewardsCoefficient, ofAll);

    /// <summary>The scores of a step or an evaluation, gathered over its passes.</summary>
    sealed class PairScores
    {
        readonly List<double> allChosen = [], allRejected = [];

        public IReadOnlyDictionary<string, double> Metrics => RewardLoss.Metrics([.. allChosen], [.. allRejected]);

        /// <summary>Takes the scores of a pass apart.</summary>
        public (double[] Chosen, double[] Rejected) Add(double[] ofPass)
        {
            double[] chosen = ofPass[..(ofPass.Length / 2)], rejected = ofPass[(ofPass.Length / 2)..];
            allChosen.AddRange(chosen);
            allRejected.AddRange(rejected);
            return (chosen, rejected);
        }
    }
}
