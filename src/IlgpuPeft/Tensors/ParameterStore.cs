using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tensors;

/// <summary>What a trainable parameter is before it has memory.</summary>
/// <param name="Name">The Hugging Face name.</param>
/// <param name="Rows">Rows; 1 for a vector.</param>
/// <param name="Columns">Columns.</param>
/// <param name="Decays">Whether weight decay applies; norm weights and biases are spared, as in Hugging Face's trainer.</param>
public sealed record ParameterSpec(string Name, int Rows, int Columns, bool Decays = true);

/// <summary>
/// The trainable parameters of one adapter (or of a whole model) in one flat buffer, and their gradients in another, so that clipping and the optimizer
/// are a few operations over everything. Parameters that decay come first. Each starts on a 256-byte boundary; the padding stays zero.
/// </summary>
public sealed class ParameterStore : IDisposable
{
    const int AlignedElements = 64;
    readonly Backend backend;

    /// <summary>Reserves zeroed memory for the given parameters.</summary>
    /// <param name="backend">Where.</param>
    /// <param name="specs">Names must differ.</param>
    /// <param name="owner">Whom memory reports name.</param>
    public ParameterStore(Backend backend, IEnumerable<ParameterSpec> specs, string owner)
    {
        this.backend = backend;
        List<ParameterSpec> ordered = [.. specs.OrderByDescending(spec => spec.Decays)];
        Decaying = ordered.Where(spec => spec.Decays).Sum(Padded);
        long length = ordered.Sum(Padded);
        try
        {
            Values = backend.Allocate(backend.Parameter, length, owner);
            Gradients = backend.Allocate(backend.Parameter, length, "gradients");
            var parameters = new Dictionary<string, Parameter>(StringComparer.Ordinal);
            long offset = 0;
            foreach (var spec in ordered)
            {
                long count = (long)spec.Rows * spec.Columns;
                parameters.Add(spec.Name, new Parameter(spec.Name, spec.Rows, spec.Columns, Values.Range(offset, count), Gradients.Range(offset, count)));
                offset += Padded(spec);
            }

            Parameters = parameters;
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>All values, flat.</summary>
    public Slice Values { get; private set; }

    /// <summary>All gradients, flat, in the same places.</summary>
    public Slice Gradients { get; private set; }

    /// <summary>How many of the flat elements, from the front, weight decay applies to.</summary>
    public long Decaying { get; }

    /// <summary>The parameters by name.</summary>
    public IReadOnlyDictionary<string, Parameter> Parameters { get; }

    /// <summary>Number of trainable values, padding not counted.</summary>
    public long Count => Parameters.Values.Sum(parameter => parameter.Count);

    /// <summary>The parameter of that name.</summary>
    /// <exception cref="KeyNotFoundException">There is none.</exception>
    public Parameter this[string name] => Parameters[name];

    /// <summary>Sets all gradients to zero, as at the start of an optimizer step.</summary>
    public void ZeroGradients() => backend.Fill(Gradients, 0);

    /// <inheritdoc />
    public void Dispose()
    {
        backend.Free(Values);
        backend.Free(Gradients);
        (Values, Gradients) = (default, default);
    }

    static long Padded(ParameterSpec spec) => ((long)spec.Rows * spec.Columns + AlignedElements - 1) / AlignedElements * AlignedElements;
}
