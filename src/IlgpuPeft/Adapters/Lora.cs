using IlgpuPeft.Models;
using IlgpuPeft.Tensors;

namespace IlgpuPeft.Adapters;

/// <summary>
/// Low-rank adaptation of one linear layer: y = x·Wᵀ + b + scale · (dropout(x)·Aᵀ)·Bᵀ (Hu et al. 2021, arXiv:2106.09685). Without dropout the update is fused into the
/// base product.
/// </summary>
/// <param name="update">The factors.</param>
/// <param name="dropout">Probability that an input of the update is dropped while training.</param>
/// <param name="operation">Keys this layer's dropout mask; differs from layer to layer.</param>
sealed class Lora(LowRankUpdate update, double dropout, uint operation) : ILinearAdapter
{
    public LowRankUpdate Update => update;

    public Tensor Forward(Tape tape, Linear layer, Tensor x, Tensor? residual)
    {
        var dropped = dropout > 0 && tape.IsTraining ? tape.Dropout(x, dropout, operation) : null;
        return layer.Project(tape, x, residual, update, dropped);
    }
}
