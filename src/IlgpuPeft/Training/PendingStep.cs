using IlgpuPeft.Kernels;

namespace IlgpuPeft.Training;

/// <summary>An optimizer step that is queued on the device; its loss and gradient norm are on their way to the host.</summary>
/// <param name="Planned">What is known of the step when it is queued.</param>
/// <param name="Loss">One element.</param>
/// <param name="GradientNorm">One element.</param>
/// <param name="Type">Element type of both.</param>
sealed record PendingStep(StepMetrics Planned, PendingRead Loss, PendingRead GradientNorm, DType Type)
{
    /// <summary>Whether the numbers are there.</summary>
    public bool HasArrived => Loss.HasArrived && GradientNorm.HasArrived;

    /// <summary>Waits for the numbers.</summary>
    /// <param name="seconds">How long the step took.</param>
    /// <exception cref="InvalidOperationException">The loss is not finite.</exception>
    public StepMetrics Finish(double seconds) => Planned with
    {
        Loss = FiniteLoss(Loss, Type, Planned.Step),
        GradientNorm = Value(GradientNorm, Type),
        TokensPerSecond = Math.Round(Planned.Tokens / seconds, 1),
    };

    /// <summary>Waits for a step's loss.</summary>
    /// <exception cref="InvalidOperationException">It is not finite.</exception>
    public static double FiniteLoss(PendingRead read, DType type, int step)
    {
        double loss = Value(read, type);
        return double.IsFinite(loss)
            ? loss
            : throw new InvalidOperationException($"SftTrainer: the loss of step {step} is {loss}. The weights of the step before are kept in the last checkpoint. Lower learning_rate, or look for damaged weights.");
    }

    static double Value(PendingRead read, DType type) => type == DType.F64 ? BitConverter.ToDouble(read.Wait()) : BitConverter.ToSingle(read.Wait());
}
