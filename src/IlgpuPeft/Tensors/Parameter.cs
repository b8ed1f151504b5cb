using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tensors;

/// <summary>A named vector or matrix that belongs to a model or an adapter. Frozen ones have no gradient.</summary>
/// <param name="Name">The Hugging Face name, for example <c>model.layers.0.self_attn.q_proj.lora_A.weight</c>.</param>
/// <param name="Rows">Rows; 1 for a vector.</param>
/// <param name="Columns">Columns.</param>
/// <param name="Value">Rows · Columns elements, row-major, in the backend's parameter type.</param>
/// <param name="Gradient">The same shape, added to by the backward pass; empty if frozen.</param>
public sealed record Parameter(string Name, int Rows, int Columns, Slice Value, Slice Gradient = default)
{
    /// <summary>Whether the backward pass adds to <see cref="Gradient"/>.</summary>
    public bool IsTrainable => !Gradient.IsEmpty;

    /// <summary>Number of elements.</summary>
    public long Count => (long)Rows * Columns;
}
