using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The sums of one thread of a product with few rows: four outputs for each row of x. Rows double by nesting, so that every sum is a field, hence a register, whatever their number.
/// </summary>
/// <typeparam name="TSelf">The sums themselves.</typeparam>
interface IMatVecSums<TSelf> where TSelf : unmanaged, IMatVecSums<TSelf>
{
    /// <summary>Rows of x.</summary>
    static abstract int Rows { get; }

    /// <summary>These sums and four more terms: neighbouring weights of four outputs, times x at <paramref name="place"/> of each row, rows being <paramref name="stride"/> apart.</summary>
    TSelf Add(Float4 first, Float4 second, Float4 third, Float4 fourth, ArrayView<Float4> x, int place, int stride);

    /// <summary>These sums and others, those of each output times its scale.</summary>
    TSelf Add(TSelf others, Float4 scales);

    /// <summary>The sums of all lanes of the warp.</summary>
    TSelf OverWarp();

    /// <summary>Stores four outputs for each row of x.</summary>
    void Store(ArrayView<Float4> places, int place);
}

/// <summary>Sums for one row of x.</summary>
struct OneRow : IMatVecSums<OneRow>
{
    Float4 outputs;

    public static int Rows => 1;

    public readonly OneRow Add(Float4 first, Float4 second, Float4 third, Float4 fourth, ArrayView<Float4> x, int place, int stride)
    {
        var value = x[place];
        return new OneRow
        {
            outputs = new Float4
            {
                X = Float4.AddDot(outputs.X, first, value),
                Y = Float4.AddDot(outputs.Y, second, value),
                Z = Float4.AddDot(outputs.Z, third, value),
                W = Float4.AddDot(outputs.W, fourth, value),
            },
        };
    }

    public readonly OneRow Add(OneRow others, Float4 scales) => new()
    {
        outputs = new Float4
        {
            X = Intrinsics.Fma(others.outputs.X, scales.X, outputs.X),
            Y = Intrinsics.Fma(others.outputs.Y, scales.Y, outputs.Y),
            Z = Intrinsics.Fma(others.outputs.Z, scales.Z, outputs.Z),
            W = Intrinsics.Fma(others.outputs.W, scales.W, outputs.W),
        },
    };

    public readonly OneRow OverWarp() => new()
    {
        outputs = new Float4 { X = OverWarp(outputs.X), Y = OverWarp(outputs.Y), Z = OverWarp(outputs.Z), W = OverWarp(outputs.W) },
    };

    public readonly void Store(ArrayView<Float4> places, int place) => places[place] = outputs;

    static float OverWarp(float sum)
    {
        sum += Warp.ShuffleXor(sum, 16);
        sum += Warp.ShuffleXor(sum, 8);
        sum += Warp.ShuffleXor(sum, 4);
        sum += Warp.ShuffleXor(sum, 2);
        return sum + Warp.ShuffleXor(sum, 1);
    }
}

/// <summary>Sums for twice the rows of <typeparamref name="T"/>.</summary>
struct TwiceRows<T> : IMatVecSums<TwiceRows<T>> where T : unmanaged, IMatVecSums<T>
{
    T upper, lower;

    public static int Rows => 2 * T.Rows;

    public readonly TwiceRows<T> Add(Float4 first, Float4 second, Float4 third, Float4 fourth, ArrayView<Float4> x, int place, int stride) => new()
    {
        upper = upper.Add(first, second, third, fourth, x, place, stride),
        lower = lower.Add(first, second, third, fourth, x, place + T.Rows * stride, stride),
    };

    public readonly TwiceRows<T> Add(TwiceRows<T> others, Float4 scales) => new() { upper = upper.Add(others.upper, scales), lower = lower.Add(others.lower, scales) };

    public readonly TwiceRows<T> OverWarp() => new() { upper = upper.OverWarp(), lower = lower.OverWarp() };

    public readonly void Store(ArrayView<Float4> places, int place)
    {
        upper.Store(places, place);
        lower.Store(places, place + T.Rows);
    }
}
