namespace IlgpuPeft.Optim;

/// <summary>How the learning rate moves over a run.</summary>
public enum ScheduleKind
{
    /// <summary>Stays at the peak after warm-up.</summary>
    Constant,

    /// <summary>Falls in a straight line to zero.</summary>
    Linear,

    /// <summary>Falls along half a cosine.</summary>
    Cosine,
}

/// <summary>The learning rate of each optimizer step: the formulas of Hugging Face's <c>get_*_schedule_with_warmup</c>.</summary>
/// <param name="Kind">Shape after warm-up.</param>
/// <param name="Peak">The learning rate at the end of warm-up.</param>
/// <param name="WarmupSteps">Steps over which the rate rises from zero in a straight line.</param>
/// <param name="TotalSteps">Optimizer steps of the whole run.</param>
/// <param name="MinimumRatio">Cosine only: the rate ends at this share of the peak instead of zero (Axolotl's <c>cosine_min_lr_ratio</c>).</param>
public sealed record Schedule(ScheduleKind Kind, double Peak, int WarmupSteps, int TotalSteps, double MinimumRatio = 0)
{
    /// <summary>The rate of the step with <paramref name="step"/> steps before it.</summary>
    public double At(int step)
    {
        if (step < WarmupSteps)
        {
            return Peak * step / Math.Max(1, WarmupSteps);
        }

        double progress = (double)(step - WarmupSteps) / Math.Max(1, TotalSteps - WarmupSteps);
        return Peak * Kind switch
        {
            ScheduleKind.Linear => Math.Max(0, 1 - progress),
            ScheduleKind.Cosine => MinimumRatio + (1 - MinimumRatio) * Math.Max(0, 0.5 * (1 + Math.Cos(Math.PI * Math.Min(1, progress)))),
            _ => 1,
        };
    }
}
