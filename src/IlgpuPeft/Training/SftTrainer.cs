using System.Globalization;
using IlgpuPeft.Adapters;
using IlgpuPeft.Checkpoints;
using IlgpuPeft.Data;
using IlgpuPeft.Kernels;
using IlgpuPeft.Models;

namespace IlgpuPeft.Training;

/// <summary>
/// Supervised fine-tuning. The loss of an optimizer step is the negative log-likelihood summed over all its trained tokens and divided by their number, however
/// they are split into rows, bins and accumulated passes.
/// </summary>
public sealed class SftTrainer : Trainer
{
    // Tokens that an evaluation pass holds at most, unless a row is longer.
    const int EvaluationTokens = 2048;

    readonly SftOptions options;
    readonly IReadOnlyList<Example> train;
    readonly IReadOnlyList<Example> validation;
    readonly int[][] items;
    readonly TrainedPart part;
    readonly LanguageModelPass pass;
    Slice loss; // of the step that is queued, one element

    /// <summary>Prepares a run of an adapter; nothing is trained or written yet.</summary>
    /// <param name="adapter">The adapter to train, enabled.</param>
    /// <param name="baseModel">Name or folder of the base, for the saved adapter.</param>
    /// <param name="train">Rows to train on; each must have a trained token and fit the sequence length.</param>
    /// <param name="options">How.</param>
    /// <param name="validation">Rows to evaluate on, or none.</param>
    /// <exception cref="ArgumentException">An option is out of range, there is no row, or a row is longer than the sequence length or holds a token that the model lacks.</exception>
    public SftTrainer(AdapterSet adapter, string baseModel, IReadOnlyList<Example> train, SftOptions options, IReadOnlyList<Example>? validation = null)
        : this(adapter.Model, TrainedWeights.Of(adapter, baseModel), train, options, validation)
    {
    }

    /// <summary>Prepares a run of any weights; nothing is trained or written yet.</summary>
    /// <param name="model">The model, its adapter enabled where it has one.</param>
    /// <param name="weights">What of it is trained.</param>
    /// <param name="train">Rows to train on; each must have a trained token and fit the sequence length.</param>
    /// <param name="options">How.</param>
    /// <param name="validation">Rows to evaluate on, or none.</param>
    /// <exception cref="ArgumentException">An option is out of range, there is no row, or a row is longer than the sequence length or holds a token that the model lacks.</exception>
    public SftTrainer(CausalLm model, TrainedWeights weights, IReadOnlyList<Example> train, SftOptions options, IReadOnlyList<Example>? validation = null) : base(model, options)
    {
        this.options = options;
        this.train = train;
        this.validation = validation ?? [];
        if (train.Count == 0)
        {
            throw new ArgumentException("SftTrainer: there are no rows to train on.", nameof(train));
        }

        foreach (var example in train.Concat(this.validation))
        {
            Check(example);
        }

        items = options.Packing
            ? Packer.Pack([.. train.Select(example => example.Length)], options.SequenceLength)
            : [.. Enumerable.Range(0, train.Count).Select(i => new[] { i })];
        GoThrough(items.Length);
        part = Train(weights);
        pass = new LanguageModelPass(model);
        loss = Backend.Allocate(Backend.Parameter, 1, "optimizer");
    }

    private protected override string Settings => string.Create(CultureInfo.InvariantCulture, $"packing {options.Packing}, sequence {options.SequenceLength}, data {Digest()}");

    private protected override StepOutcome Step(int step, int[] items, double rate)
    {
        List<PackedBatch> batches =
            [.. items.Chunk(options.MicroBatchSize).Select(rows => PackedBatch.From([.. rows.SelectMany(item => this.items[item]).Select(i => train[i])]))];
        long trained = batches.Sum(batch => (long)batch.TrainedTokens);

        part.Weights.Parameters.ZeroGradients();
        Backend.Fill(loss, 0);
        for (int i = 0; i < batches.Count; i++)
        {
            pass.Train(batches[i], trained, (options.Seed, (uint)(step * options.GradientAccumulation + i)), loss);
        }

        var read = Backend.ReadLater(loss);
        if (read.HasArrived)
        {
            PendingStep.Finite(PendingStep.Value(read, Backend.Parameter), step + 1); // before the weights change, where that costs no wait
        }

        Update(part, rate);
        return new StepOutcome(double.NaN, batches.Sum(batch => (long)batch.Length), trained) { PendingLoss = read };
    }

    private protected override Evaluation? Evaluate(CancellationToken cancel) =>
        validation.Count == 0 ? null : new Evaluation(pass.Evaluate(validation, EvaluationTokens, cancel).Loss);

    /// <inheritdoc />
    public override void Dispose()
    {
        base.Dispose();
        pass.Dispose();
        Backend.Free(loss);
        loss = default;
    }

    void Check(Example example)
    {
        string where = $"{example.File}:{example.Line}";
        if (example.Length > options.SequenceLength)
        {
            throw new ArgumentException($"{where}: the row has {example.Length} tokens, expected at most sequence_len = {options.SequenceLength}. Raise sequence_len, or set excess_length_strategy to truncate or drop.");
        }

        if (example.Labels.Length != example.Length || example.TrainedTokens == 0)
        {
            throw new ArgumentException($"{where}: the row has {example.Length} tokens, {example.Labels.Length} labels and {example.TrainedTokens} trained tokens, expected a label for each token and at least one that is trained.");
        }

        RequireInVocabulary(where, example.InputIds);
        RequireInVocabulary(where, example.Labels.Where(label => label != Example.Untrained));
    }

    string Digest()
    {
        var digest = new DataDigest();
        foreach (var example in train)
        {
            digest.Add(example.InputIds);
            digest.Add(example.Labels);
        }

        return digest.ToString();
    }
}
