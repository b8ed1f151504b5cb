using IlgpuPeft.Kernels;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Models;

/// <summary>y = x·Wᵀ + b, with one slot for an adapter that changes what it computes. An empty slot is the base model.</summary>
/// <param name="name">The Hugging Face module path, for example <c>model.layers.0.self_attn.q_proj</c>.</param>
/// <param name="weight">[O, K], dense or NF4.</param>
/// <param name="bias">[O], or null.</param>
public sealed class Linear(string name, Weight weight, Parameter? bias)
{
    /// <summary>The Hugging Face module path.</summary>
    public string Name => name;

    /// <summary>The matrix [O, K].</summary>
    public Weight Weight { get; internal set; } = weight;

    /// <summary>Where the matrix's gradient is added when the whole model is trained; empty while it is frozen.</summary>
    public Slice WeightGradient { get; internal set; }

    /// <summary>The bias [O], or null.</summary>
    public Parameter? Bias { get; internal set; } = bias;

    /// <summary>The adapter in the slot, or null for the base layer.</summary>
    public ILinearAdapter? Adapter { get; set; }

    /// <summary>Output features O.</summary>
    public int Outputs => Weight.Rows;

    /// <summary>Input features K.</summary>
    public int Inputs => Weight.Columns;

    /// <summary>x [N, K] → [N, O]; with <paramref name="residual"/> [N, O], the sum of both.</summary>
    public Tensor Forward(Tape tape, Tensor x, Tensor? residual = null) =>
        Adapter is null ? Project(tape, x, residual) : Adapter.Forward(tape, this, x, residual);

    /// <summary>
    /// The product with the base weight and, fused into it, a low-rank update of the same input (or of <paramref name="updateInput"/>, its dropped-out copy).
    /// Adapters build on this.
    /// </summary>
    internal Tensor Project(Tape tape, Tensor x, Tensor? residual = null, LowRankUpdate? update = null, Tensor? updateInput = null)
    {
        var backend = tape.Backend;
        bool trains = x.RequiresGradient || !WeightGradient.IsEmpty || Bias is { IsTrainable: true } || update is not null;
        var y = tape.New(x.Rows, Outputs, trains || residual is { RequiresGradient: true });
        if (residual is not null)
        {
            backend.Copy(residual.Data, y.Data);
        }

        var factors = update?.Factors;
        var xa = factors is { } lora ? tape.Take(backend.Activation, (long)x.Rows * lora.Rank) : default;
        var dropped = updateInput ?? x;
        backend.LinearForward(x.Data, Weight, Bias?.Value ?? default, factors, dropped.Data, xa, y.Data, accumulate: residual is not null);
        tape.Record(y, () =>
        {
            var dx = tape.GradientOf(x, out bool accumulate);
            var dDropped = default(Slice);
            if (updateInput is not null && updateInput.RequiresGradient)
            {
                // Both gradients share one flag, so the dropped copy's starts from zero when x's is added to.
                dDropped = tape.GradientOf(updateInput, out bool already);
                if (accumulate && !already)
                {
                    backend.Fill(dDropped, 0);
                }
            }

            backend.LinearBackward(y.Gradient, x.Data, dropped.Data, Weight, factors, xa, dx, dDropped, accumulate,
                update?.A.Gradient ?? default, update?.B.Gradient ?? default, WeightGradient, Bias?.Gradient ?? default);
            if (residual is not null)
            {
                tape.PassGradient(y, residual);
            }
        });
        return y;
    }
}

/// <summary>What can sit in a linear layer's slot: LoRA and its relatives.</summary>
public interface ILinearAdapter
{
    /// <summary>The adapted layer: x [N, K] → [N, O], plus <paramref name="residual"/> where given.</summary>
    Tensor Forward(Tape tape, Linear layer, Tensor x, Tensor? residual);
}

/// <summary>ΔW = scale · B·A.</summary>
/// <param name="A">[R, K].</param>
/// <param name="B">[O, R].</param>
/// <param name="Scale">alpha / R, or alpha / √R.</param>
public sealed record LowRankUpdate(Parameter A, Parameter B, double Scale)
{
    internal LoraFactors Factors => new(A.Value, B.Value, A.Rows, Scale);
}
