using System.Text.Json.Serialization;

namespace IlgpuPeft.Training;

/// <summary>One optimizer step, as <c>metrics.jsonl</c> holds it.</summary>
public sealed record StepMetrics
{
    /// <summary>Counts from 1.</summary>
    [JsonPropertyName("step")]
    public required int Step { get; init; }

    /// <summary>Steps of the whole run.</summary>
    [JsonPropertyName("total_steps")]
    public required int TotalSteps { get; init; }

    /// <summary>Passes over the data so far.</summary>
    [JsonPropertyName("epoch")]
    public required double Epoch { get; init; }

    /// <summary>The method's loss; of supervised training the negative log-likelihood, in nats, summed over the step's trained tokens and divided by their number.</summary>
    [JsonPropertyName("loss")]
    public required double Loss { get; init; }

    /// <summary>Global norm of the gradients before clipping.</summary>
    [JsonPropertyName("grad_norm")]
    public required double GradientNorm { get; init; }

    /// <summary>Learning rate of this step.</summary>
    [JsonPropertyName("learning_rate")]
    public required double LearningRate { get; init; }

    /// <summary>Tokens that went through the model.</summary>
    [JsonPropertyName("tokens")]
    public required long Tokens { get; init; }

    /// <summary>Tokens that the loss covers.</summary>
    [JsonPropertyName("trained_tokens")]
    public required long TrainedTokens { get; init; }

    /// <summary>Tokens divided by the step's wall time.</summary>
    [JsonPropertyName("tokens_per_second")]
    public required double TokensPerSecond { get; init; }

    /// <summary>Loss over the validation rows, where this step evaluated.</summary>
    [JsonPropertyName("eval_loss")]
    [JsonIgnore(Condition = JsonIgnoreCondition.WhenWritingNull)]
    public double? EvaluationLoss { get; init; }

    /// <summary>What the method measures beside its loss, under the names that TRL gives it, such as <c>rewards/margins</c> and <c>eval_rewards/margins</c>.</summary>
    [JsonExtensionData]
    public IDictionary<string, object>? Measures { get; init; }

    /// <summary>One of <see cref="Measures"/>.</summary>
    /// <exception cref="KeyNotFoundException">The method does not measure that.</exception>
    [JsonIgnore]
    public double this[string measure] => Measures is not null && Measures.TryGetValue(measure, out object? value)
        ? Convert.ToDouble(value, System.Globalization.CultureInfo.InvariantCulture)
        : throw new KeyNotFoundException($"StepMetrics: step {Step} has no {measure}; it has {string.Join(", ", Measures?.Keys ?? [])}.");
}
