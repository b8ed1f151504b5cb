namespace IlgpuPeft.Kernels;

/// <summary>
/// One dense product: C [M, N] = Alpha · op(A) · op(B) (+ C if <see cref="Accumulate"/>) (+ Bias in every row). Sums are f32. Operands are row-major, any of them F32 or BF16
/// (B also F16), the result F32 or BF16; any extents.
/// </summary>
/// <param name="M">Rows of the result.</param>
/// <param name="N">Columns of the result.</param>
/// <param name="K">Terms of each sum.</param>
readonly record struct MatMulCall(int M, int N, int K)
{
    /// <summary>Left operand: stored [M, K], or [K, M] if <see cref="TransposeA"/>.</summary>
    public required Slice A { get; init; }

    /// <summary>Right operand: stored [K, N], or [N, K] if <see cref="TransposeB"/>, as weights are.</summary>
    public required Slice B { get; init; }

    /// <summary>Result [M, N].</summary>
    public required Slice C { get; init; }

    /// <summary>Whether A is stored the other way round.</summary>
    public bool TransposeA { get; init; }

    /// <summary>Whether B is stored the other way round.</summary>
    public bool TransposeB { get; init; }

    /// <summary>Factor on the product.</summary>
    public float Alpha { get; init; } = 1;

    /// <summary>Whether the product is added to C.</summary>
    public bool Accumulate { get; init; }

    /// <summary>[N], F32, added to every row; or left out.</summary>
    public Slice Bias { get; init; }
}
