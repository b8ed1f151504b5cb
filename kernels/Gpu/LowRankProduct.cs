namespace IlgpuPeft.Kernels;

/// <summary>A product of low rank that a matrix product adds before it rounds: Scale · Left · op(Right). Nothing by default.</summary>
/// <param name="Left">[M, Rank], stored as the left operand of the product is.</param>
/// <param name="Right">F32 [Rank, N], or [N, Rank] if <paramref name="TransposeRight"/>.</param>
/// <param name="TransposeRight">Whether Right is stored the other way round.</param>
/// <param name="Rank">R.</param>
/// <param name="Scale">Factor on the product.</param>
readonly record struct LowRankProduct(Slice Left, Slice Right, bool TransposeRight, int Rank, float Scale);
