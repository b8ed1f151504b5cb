namespace IlgpuPeft.Training;

/// <summary>
/// Hears of progress on the thread that reports it, in order, and before it goes on. In a console program <see cref="Progress{T}"/> calls its handler from pool threads, so that lines may come
/// out of order or after the run.
/// </summary>
/// <typeparam name="T">What is reported, such as <see cref="StepMetrics"/>.</typeparam>
/// <param name="hear">Called with each report; what it throws ends the run.</param>
public sealed class ImmediateProgress<T>(Action<T> hear) : IProgress<T>
{
    /// <inheritdoc />
    public void Report(T value) => hear(value);
}
