namespace IlgpuPeft.Kernels;

/// <summary>Four floats: one 16-byte access, or the accumulators of one tensor-core multiply.</summary>
struct Float4
{
    public float X, Y, Z, W;

    public static Float4 operator +(Float4 x, Float4 y) => new() { X = x.X + y.X, Y = x.Y + y.Y, Z = x.Z + y.Z, W = x.W + y.W };

    public static Float4 operator *(float factor, Float4 x) => new() { X = factor * x.X, Y = factor * x.Y, Z = factor * x.Z, W = factor * x.W };

    /// <summary>sum + Σ x·y, a fused multiply-add each, in order.</summary>
    public static float AddDot(float sum, Float4 x, Float4 y) => Intrinsics.Fma(x.W, y.W, Intrinsics.Fma(x.Z, y.Z, Intrinsics.Fma(x.Y, y.Y, Intrinsics.Fma(x.X, y.X, sum))));

    /// <summary>sums + factor·x, a fused multiply-add each.</summary>
    public static Float4 AddScaled(Float4 sums, float factor, Float4 x) => new()
    {
        X = Intrinsics.Fma(factor, x.X, sums.X),
        Y = Intrinsics.Fma(factor, x.Y, sums.Y),
        Z = Intrinsics.Fma(factor, x.Z, sums.Z),
        W = Intrinsics.Fma(factor, x.W, sums.W),
    };
}
