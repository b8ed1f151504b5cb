using IlgpuPeft.Models;

namespace IlgpuPeft.Generation;

/// <summary>Continues many prompts at once with the model as it is, adapters live: the rollouts of policy methods.</summary>
/// <param name="model">The model, with whatever adapters are enabled.</param>
public sealed class BatchGenerator(CausalLm model) : IDisposable
{
    readonly Generator generator = new(model);

    /// <summary>Continues every prompt to its end.</summary>
    /// <exception cref="ArgumentException">A prompt is empty, or holds a token that the model lacks.</exception>
    public IReadOnlyList<Completion> Complete(IReadOnlyList<IReadOnlyList<int>> prompts, GenerationOptions options, CancellationToken cancel = default) =>
        [.. prompts.Select((prompt, i) => generator.Complete(prompt, options with { Seed = options.Seed + (ulong)i }, cancel))];

    /// <inheritdoc />
    public void Dispose() => generator.Dispose();
}
