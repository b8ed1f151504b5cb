using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Optim;

/// <summary>Constants of AdamW; defaults as PyTorch's, but for <see cref="WeightDecay"/>.</summary>
public sealed record AdamWOptions
{
    /// <summary>Decay of the first moment.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to the denominator.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Decoupled weight decay, times the learning rate.</summary>
    public double WeightDecay { get; init; }

    /// <summary>Gradients are scaled down to this global norm; 0 for no clipping.</summary>
    public double MaxGradientNorm { get; init; } = 1;
}

/// <summary>AdamW over the flat parameters of a store, with its two moments in the parameters' own precision.</summary>
public sealed class AdamWOptimizer : IDisposable
{
    readonly Backend backend;
    readonly ParameterStore store;
    readonly AdamWOptions options;
    Slice norm;

    /// <summary>Reserves the moments, zero.</summary>
    public AdamWOptimizer(Backend backend, ParameterStore store, AdamWOptions options)
    {
        this.backend = backend;
        this.store = store;
        this.options = options;
        try
        {
            FirstMoment = backend.Allocate(backend.Parameter, store.Values.Length, "optimizer");
            SecondMoment = backend.Allocate(backend.Parameter, store.Values.Length, "optimizer");
            norm = backend.Allocate(backend.Parameter, 1, "optimizer");
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Steps taken so far.</summary>
    public int Steps { get; set; }

    /// <summary>Running mean of gradients, flat like the store.</summary>
    public Slice FirstMoment { get; private set; }

    /// <summary>Running mean of squared gradients, flat like the store.</summary>
    public Slice SecondMoment { get; private set; }

    /// <summary>Clips the store's gradients by their global norm, then updates its values. Nothing waits for the device.</summary>
    public void Step(double learningRate)
    {
        Steps++;
        backend.Norm(store.Gradients, norm);
        Update(0, store.Decaying, options.WeightDecay);
        Update(store.Decaying, store.Values.Length - store.Decaying, 0);

        void Update(long start, long length, double decay)
        {
            if (length > 0)
            {
                var step = new AdamWStep(Steps, learningRate, options.Beta1, options.Beta2, options.Epsilon, decay, options.MaxGradientNorm);
                backend.AdamW(store.Values.Range(start, length), store.Gradients.Range(start, length), FirstMoment.Range(start, length), SecondMoment.Range(start, length), step, norm);
            }
        }
    }

    /// <summary>The global norm of the gradients that the last <see cref="Step"/> used, before clipping. Waits for the device.</summary>
    public double GradientNorm() => backend.ReadDoubles(norm)[0];

    /// <inheritdoc />
    public void Dispose()
    {
        backend.Free(FirstMoment);
        backend.Free(SecondMoment);
        backend.Free(norm);
        (FirstMoment, SecondMoment, norm) = (default, default, default);
    }
}
