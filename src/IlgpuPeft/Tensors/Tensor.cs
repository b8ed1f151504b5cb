using IlgpuPeft.Kernels;

namespace IlgpuPeft.Tensors;

/// <summary>
/// A matrix of activations on the device: one row per token. It lives until the step that made it ends, or until the backward pass has used it, and is not disposed.
/// </summary>
public sealed class Tensor
{
    internal Tensor(int rows, int columns, Slice data, bool requiresGradient)
    {
        Rows = rows;
        Columns = columns;
        Data = data;
        RequiresGradient = requiresGradient;
    }

    /// <summary>Tokens.</summary>
    public int Rows { get; }

    /// <summary>Features of one token.</summary>
    public int Columns { get; }

    /// <summary>The elements, row-major, in the backend's activation type.</summary>
    public Slice Data { get; internal set; }

    /// <summary>∂loss/∂this, once the backward pass has reached it.</summary>
    public Slice Gradient { get; internal set; }

    /// <summary>Whether a trainable parameter lies upstream.</summary>
    public bool RequiresGradient { get; }

    /// <summary>The list of memory that will be released with this tensor's own.</summary>
    internal List<Slice>? Home { get; set; }

    /// <inheritdoc />
    public override string ToString() => $"[{Rows}, {Columns}] {Data.Type}";
}
