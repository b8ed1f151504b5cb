using System.Runtime.InteropServices;
using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Optim;

/// <summary>Constants of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101). Names in brackets are the keys of the configuration file.</summary>
public sealed record AdamWOptions
{
    /// <summary>Decay of the first moment, from 0 to below 1 (adam_beta1). Default 0.9, PyTorch's.</summary>
    public double Beta1 { get; init; } = 0.9;

    /// <summary>Decay of the second moment, from 0 to below 1 (adam_beta2). Default 0.999, PyTorch's.</summary>
    public double Beta2 { get; init; } = 0.999;

    /// <summary>Added to the denominator, more than 0, at most 1 (adam_epsilon). Default 1e-8, PyTorch's.</summary>
    public double Epsilon { get; init; } = 1e-8;

    /// <summary>Decoupled weight decay, times the learning rate (weight_decay). Default 0, Hugging Face's; PyTorch has 0.01.</summary>
    public double WeightDecay { get; init; }

    /// <summary>Gradients are scaled down to this global norm; 0 for no clipping (max_grad_norm). Default 1, Hugging Face's.</summary>
    public double MaxGradientNorm { get; init; } = 1;

    /// <summary>
    /// Moments in 8 bits, as bitsandbytes' AdamW8bit has them, instead of the parameters' own precision: a quarter of the memory. Unlike there, parameters of less than 4,096 elements
    /// are quantised too (see <see cref="Backend.AdamW8Bit"/>). Default false (optimizer: adamw_bnb_8bit).
    /// </summary>
    public bool EightBit { get; init; }

    /// <exception cref="ArgumentException">A constant is out of range.</exception>
    internal void Validate()
    {
        Require(Beta1 is >= 0 and < 1, nameof(Beta1), Beta1, "from 0 to below 1");
        Require(Beta2 is >= 0 and < 1, nameof(Beta2), Beta2, "from 0 to below 1");
        Require(Epsilon is > 0 and <= 1, nameof(Epsilon), Epsilon, "more than 0, at most 1");
        Require(WeightDecay is >= 0 and < double.PositiveInfinity, nameof(WeightDecay), WeightDecay, "0 or more and finite");
        Require(MaxGradientNorm is >= 0 and < double.PositiveInfinity, nameof(MaxGradientNorm), MaxGradientNorm, "0 or more and finite");

        static void Require(bool holds, string name, double value, string expected)
        {
            if (!holds)
            {
                throw new ArgumentException(FormattableString.Invariant($"{nameof(AdamWOptions)}: {name} is {value}, expected {expected}."), name);
            }
        }
    }
}

/// <summary>AdamW over the flat parameters of a store, with its two moments in the parameters' own precision or in 8 bits.</summary>
public sealed class AdamWOptimizer : IDisposable
{
    readonly Backend backend;
    readonly ParameterStore store;
    readonly AdamWOptions options;
    readonly List<Slice> held = [];
    readonly Slice norm, first, second;
    readonly Moments8Bit? moments;

    /// <summary>Reserves the moments, zero.</summary>
    /// <exception cref="ArgumentException">A constant is out of range.</exception>
    public AdamWOptimizer(Backend backend, ParameterStore store, AdamWOptions options)
    {
        options.Validate();
        this.backend = backend;
        this.store = store;
        this.options = options;
        long length = store.Values.Length, blocks = Moments8Bit.Blocks(length);
        try
        {
            norm = Reserve(backend.Parameter, 1);
            first = Reserve(options.EightBit ? DType.U8 : backend.Parameter, length);
            second = Reserve(options.EightBit ? DType.U8 : backend.Parameter, length);
            if (options.EightBit)
            {
                moments = new Moments8Bit(first, Reserve(DType.F32, blocks), second, Reserve(DType.F32, blocks), Reserve(DType.F32, Moments8Bit.MapValues.Length));
                backend.Upload(MemoryMarshal.AsBytes(Moments8Bit.MapValues), moments.Maps);
            }
        }
        catch
        {
            Dispose();
            throw;
        }

        State = moments is null
            ? [("first", first), ("second", second)]
            : [("first", first), ("first_scales", moments.FirstScales), ("second", second), ("second_scales", moments.SecondScales)];
    }

    /// <summary>Steps taken so far.</summary>
    public int Steps { get; set; }

    /// <summary>
    /// All that a resumed run needs beside <see cref="Steps"/>, flat like the store: the running means of gradients (first) and of their squares (second), in 8 bits their codes and the
    /// scales of their blocks.
    /// </summary>
    public IReadOnlyList<(string Name, Slice Values)> State { get; }

    /// <summary>Clips the store's gradients by their global norm, then updates its values. Nothing waits for the device.</summary>
    public void Step(double learningRate)
    {
        Steps++;
        backend.Norm(store.Gradients, norm);
        var step = new AdamWStep(Steps, learningRate, options.Beta1, options.Beta2, options.Epsilon, options.WeightDecay, options.MaxGradientNorm, store.Decaying);
        if (moments is null)
        {
            backend.AdamW(store.Values, store.Gradients, first, second, step, norm);
        }
        else
        {
            backend.AdamW8Bit(store.Values, store.Gradients, moments, step, norm);
        }
    }

    /// <summary>The global norm of the gradients that the last <see cref="Step"/> used, before clipping: one element on the device.</summary>
    public Slice GradientNorm => norm;

    /// <inheritdoc />
    public void Dispose()
    {
        held.ForEach(backend.Free);
        held.Clear();
    }

    Slice Reserve(DType type, long length)
    {
        held.Add(backend.Allocate(type, length, "optimizer"));
        return held[^1];
    }
}
