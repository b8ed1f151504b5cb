using IlgpuPeft.Data;
using IlgpuPeft.Losses;
using IlgpuPeft.Training;

namespace IlgpuPeft.Preferences;

/// <summary>A loss over the log-probabilities of some sequences, as a share of its optimizer step.</summary>
/// <param name="Value">The loss.</param>
/// <param name="Gradient">Its derivative by the log-probability of each trained token, one array per sequence.</param>
/// <param name="Metrics">Shares of the step's metrics, by TRL's names.</param>
sealed record ResponseLoss(double Value, double[][] Gradient, IReadOnlyDictionary<string, double> Metrics);

/// <summary>What the passes of one optimizer step, or of one evaluation, add up to.</summary>
sealed class ResponseTotals
{
    readonly List<IReadOnlyDictionary<string, double>> metrics = [];
    double loss, entropy;
    long tokens, trainedTokens;

    /// <summary>Whether the loss has any gradient.</summary>
    public bool Learns { get; private set; }

    /// <summary>Counts one pass.</summary>
    /// <param name="batch">Its sequences.</param>
    /// <param name="entropies">Of each row, 0 where there is no target [N].</param>
    public void Add(PackedBatch batch, double[] entropies)
    {
        entropy += entropies.Sum();
        tokens += batch.Length;
        trainedTokens += batch.TrainedTokens;
    }

    /// <summary>Adds a share of the loss.</summary>
    public void Add(ResponseLoss part)
    {
        loss += part.Value;
        metrics.Add(part.Metrics);
        Learns |= part.Gradient.Any(sequence => sequence.Any(value => value != 0));
    }

    /// <summary>As an evaluation reports it.</summary>
    public Evaluation ToEvaluation() => new(loss, Measures());

    /// <summary>As a step reports it.</summary>
    /// <param name="step">Steps before this one.</param>
    /// <exception cref="InvalidOperationException">The loss is not finite: the weights must not change.</exception>
    public StepOutcome ToStep(int step) => new(PendingStep.Finite(loss, step + 1), tokens, trainedTokens, Measures());

    Dictionary<string, double> Measures() => new(MetricShares.Sum(metrics)) { ["entropy"] = entropy / trainedTokens };
}
