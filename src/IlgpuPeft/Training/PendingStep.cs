using IlgpuPeft.Kernels;

namespace IlgpuPeft.Training;

/// <summary>What a step computed, while its gradient norm, and perhaps its loss, may still be on their way to the host.</summary>
/// <param name="Loss">The loss where it is known.</param>
/// <param name="Tokens">Tokens that went through the model.</param>
/// <param name="TrainedTokens">Tokens that the loss covers.</param>
/// <param name="Measures">What the method measures, by TRL's names.</param>
public sealed record StepOutcome(double Loss, long Tokens, long TrainedTokens, IReadOnlyDictionary<string, double>? Measures = null)
{
    /// <summary>One element that the loss arrives in, if it was not known.</summary>
    internal PendingRead? PendingLoss { get; init; }

    /// <summary>Why the run should end after this step although steps are left, or null.</summary>
    public string? StopReason { get; init; }
}

/// <summary>A step whose numbers are on their way.</summary>
/// <param name="Planned">What is known of it.</param>
/// <param name="Loss">One element, or null where the plan has it.</param>
/// <param name="GradientNorm">One element.</param>
/// <param name="Type">Element type of both.</param>
sealed record PendingStep(StepMetrics Planned, PendingRead? Loss, PendingRead GradientNorm, DType Type)
{
    /// <summary>Whether the numbers are there.</summary>
    public bool HasArrived => Loss?.HasArrived != false && GradientNorm.HasArrived;

    /// <summary>Waits for the numbers.</summary>
    /// <param name="seconds">How long the step took.</param>
    /// <exception cref="LossException">The loss is not finite.</exception>
    public StepMetrics Finish(double seconds) => Planned with
    {
        Loss = Finite(Loss is null ? Planned.Loss : Value(Loss, Type), Planned.Step),
        GradientNorm = Value(GradientNorm, Type),
        TokensPerSecond = Math.Round(Planned.Tokens / seconds, 1),
    };

    /// <summary>The loss of a step, if it is one.</summary>
    /// <exception cref="LossException">It is not finite.</exception>
    public static double Finite(double loss, int step) => double.IsFinite(loss) ? loss : throw new LossException(step, loss);

    /// <summary>Waits for one element.</summary>
    public static double Value(PendingRead read, DType type) => type == DType.F64 ? BitConverter.ToDouble(read.Wait()) : BitConverter.ToSingle(read.Wait());
}

/// <summary>The loss of a step is not finite. The run adds what became of the weights.</summary>
sealed class LossException(int step, double loss) : Exception($"Trainer: the loss of step {step} is {loss}, expected a finite number.");
