using IlgpuPeft.Kernels;

namespace IlgpuPeft.Training;

/// <summary>What a step computed, while its gradient norm, and perhaps its loss, may still be on their way to the host.</summary>
/// <param name="Loss">The loss where it is known.</param>
/// <param name="Tokens">Tokens that went through the model.</param>
/// <param name="TrainedTokens">Tokens that the loss covers.</param>
/// <param name="Measures">What the method measures, by TRL's names.</param>
sealed record StepOutcome(double Loss, long Tokens, long TrainedTokens, IReadOnlyDictionary<string, double>? Measures = null)
{
    /// <summary>One element that the loss arrives in, if it was not known.</summary>
    public PendingRead? PendingLoss { get; init; }

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
    /// <exception cref="NotFiniteException">The loss or the gradient norm is not finite.</exception>
    public StepMetrics Finish(double seconds) => Planned with
    {
        Loss = Finite(Loss is null ? Planned.Loss : Value(Loss, Type), Planned.Step),
        GradientNorm = Finite(Value(GradientNorm, Type), Planned.Step, "gradient norm"),
        TokensPerSecond = Math.Round(Planned.Tokens / seconds, 1),
    };

    /// <summary>The loss of a step, or another number that tells whether it went well, if it is one.</summary>
    /// <exception cref="NotFiniteException">It is not finite.</exception>
    public static double Finite(double value, int step, string name = "loss") => double.IsFinite(value) ? value : throw new NotFiniteException(name, step, value);

    /// <summary>Waits for one element.</summary>
    public static double Value(PendingRead read, DType type) => type == DType.F64 ? BitConverter.ToDouble(read.Wait()) : BitConverter.ToSingle(read.Wait());
}

/// <summary>The loss or the gradient norm of a step is not finite. The run adds what became of the weights.</summary>
sealed class NotFiniteException(string name, int step, double value) : Exception($"Trainer: the {name} of step {step} is {value}, expected a finite number.");
