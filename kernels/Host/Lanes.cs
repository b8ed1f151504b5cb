using System.Numerics;
using System.Runtime.CompilerServices;

namespace IlgpuPeft.Kernels;

/// <summary>Vector loops over a row: what is done with a tile between two products. Sums run in an order set by the length alone.</summary>
static unsafe class Lanes<T> where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    /// <summary>Finite stand-in for −∞, by which a weight of 0 can be multiplied: its exponential is 0, in double too.</summary>
    static readonly T Lowest = T.CreateTruncating(-2000);

    /// <summary>x·y + z, rounded once.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Fused(Vector<T> x, Vector<T> y, Vector<T> z) => typeof(T) == typeof(float)
        ? Vector.FusedMultiplyAdd(x.As<T, float>(), y.As<T, float>(), z.As<T, float>()).As<float, T>()
        : Vector.FusedMultiplyAdd(x.As<T, double>(), y.As<T, double>(), z.As<T, double>()).As<double, T>();

    /// <summary>eˣ of each lane. In float: within 2 units in the last place, 1 at 0, 0 where the result is below the normal range, ∞ above x = 88.37, NaN for NaN.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Exp(Vector<T> x) => typeof(T) == typeof(float)
        ? Exp(x.As<T, float>()).As<float, T>()
        : Vector.Exp(x.As<T, double>()).As<double, T>();

    // eˣ = 2ⁿ·eʳ, n = round(x·log₂ e), |r| ≤ ln 2 / 2, eʳ by its Taylor polynomial of degree 7, whose next term is 5e-9. The library's exponential
    // goes through double and takes four times as long, which a third of attention would be.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    static Vector<float> Exp(Vector<float> x)
    {
        const float Lowest = -87.33654f;   // -126·ln 2: the smallest normal number
        const float Integer = 12582912f;   // 1.5·2²³: adding it leaves the nearest integer in the low bits
        var capped = Vector.MinNative(Vector.Create(89f), x);
        var shifted = Vector.FusedMultiplyAdd(capped, Vector.Create(1.44269504f), Vector.Create(Integer));
        var n = shifted - Vector.Create(Integer);
        // ln 2 in two parts, the first of few bits, so that n times it is exact.
        var r = Vector.FusedMultiplyAdd(n, Vector.Create(-0.693359375f), capped);
        r = Vector.FusedMultiplyAdd(n, Vector.Create(2.12194440e-4f), r);
        var power = Vector.FusedMultiplyAdd(r, Vector.Create(1 / 5040f), Vector.Create(1 / 720f));
        power = Vector.FusedMultiplyAdd(power, r, Vector.Create(1 / 120f));
        power = Vector.FusedMultiplyAdd(power, r, Vector.Create(1 / 24f));
        power = Vector.FusedMultiplyAdd(power, r, Vector.Create(1 / 6f));
        power = Vector.FusedMultiplyAdd(power, r, Vector.Create(0.5f));
        power = Vector.FusedMultiplyAdd(power, r, Vector<float>.One);
        power = Vector.FusedMultiplyAdd(power, r, Vector<float>.One);
        // The exponent field of 2ⁿ; 255, which is ∞, for n = 128.
        var scale = Vector.AsVectorSingle((Vector.AsVectorInt32(shifted) + Vector.Create(127)) << 23);
        return Vector.ConditionalSelect(Vector.LessThan(x, Vector.Create(Lowest)), Vector<float>.Zero, power * scale);
    }

    /// <summary>x *= scale; returns the largest, whatever NaN there is beside it.</summary>
    public static T ScaleAndMax(T* x, int n, T scale)
    {
        var factor = Vector.Create(scale);
        var best = Vector.Create(T.NegativeInfinity);
        int i = 0;
        for (; i <= n - Vector<T>.Count; i += Vector<T>.Count)
        {
            var scaled = Vector.Load(x + i) * factor;
            scaled.Store(x + i);
            best = Vector.MaxNative(best, scaled);
        }

        var result = T.NegativeInfinity;
        for (; i < n; i++)
        {
            x[i] *= scale;
            result = x[i] > result ? x[i] : result;
        }

        T* lanes = stackalloc T[Vector<T>.Count];
        best.Store(lanes);
        for (int lane = 0; lane < Vector<T>.Count; lane++)
        {
            result = lanes[lane] > result ? lanes[lane] : result;
        }

        return result;
    }

    /// <summary>x = exp(x − shift); returns the sum.</summary>
    public static T ExpAndSum(T* x, int n, T shift)
    {
        var offset = Vector.Create(shift);
        Vector<T> sum = default;
        int i = 0;
        for (; i <= n - Vector<T>.Count; i += Vector<T>.Count)
        {
            var power = Exp(Vector.Load(x + i) - offset);
            power.Store(x + i);
            sum += power;
        }

        var result = Vector.Sum(sum);
        for (; i < n; i++)
        {
            result += x[i] = Exp(Vector.Create(x[i] - shift))[0];
        }

        return result;
    }

    /// <summary>Σ weights·(x − shift), where x = −∞ has weight 0 and adds nothing.</summary>
    public static T SumOfShifted(T* weights, T* x, int n, T shift)
    {
        Vector<T> sum = default, offset = Vector.Create(shift), floor = Vector.Create(Lowest);
        int i = 0;
        for (; i <= n - Vector<T>.Count; i += Vector<T>.Count)
        {
            sum = Fused(Vector.Load(weights + i), Vector.MaxNative(Vector.Load(x + i) - offset, floor), sum);
        }

        var result = Vector.Sum(sum);
        for (; i < n; i++)
        {
            result += weights[i] * T.Max(x[i] - shift, Lowest);
        }

        return result;
    }

    /// <summary>weights *= constant + slope·(x − shift), where x = −∞ has weight 0 and keeps it.</summary>
    public static void TimesLinear(T* weights, T* x, int n, T shift, T constant, T slope)
    {
        Vector<T> offset = Vector.Create(shift), floor = Vector.Create(Lowest), intercept = Vector.Create(constant), factor = Vector.Create(slope);
        int i = 0;
        for (; i <= n - Vector<T>.Count; i += Vector<T>.Count)
        {
            (Vector.Load(weights + i) * Fused(factor, Vector.MaxNative(Vector.Load(x + i) - offset, floor), intercept)).Store(weights + i);
        }

        for (; i < n; i++)
        {
            weights[i] *= slope * T.Max(x[i] - shift, Lowest) + constant;
        }
    }

    /// <summary>scores become P = exp(scale·score − lse), and gradients, which hold dP, become P·(dP − product). <paramref name="n"/> is a multiple of the vector length.</summary>
    public static void SoftmaxGradient(T* scores, T* gradients, int n, T scale, T lse, T product)
    {
        Vector<T> factor = Vector.Create(scale), shift = Vector.Create(lse), mean = Vector.Create(product);
        for (int i = 0; i < n; i += Vector<T>.Count)
        {
            var probability = Exp(Vector.Load(scores + i) * factor - shift);
            probability.Store(scores + i);
            (probability * (Vector.Load(gradients + i) - mean)).Store(gradients + i);
        }
    }

    /// <summary>y = scale · x; y may be x.</summary>
    public static void Scale(T* x, int n, T scale, T* y)
    {
        var factor = Vector.Create(scale);
        int i = 0;
        for (; i <= n - Vector<T>.Count; i += Vector<T>.Count)
        {
            (Vector.Load(x + i) * factor).Store(y + i);
        }

        for (; i < n; i++)
        {
            y[i] = scale * x[i];
        }
    }

    /// <summary>Σ x·y.</summary>
    public static T Dot(T* x, T* y, int n)
    {
        int i = 0;
        Vector<T> sum = default, sum2 = default;
        for (; i <= n - 2 * Vector<T>.Count; i += 2 * Vector<T>.Count)
        {
            sum = Fused(Vector.Load(x + i), Vector.Load(y + i), sum);
            sum2 = Fused(Vector.Load(x + i + Vector<T>.Count), Vector.Load(y + i + Vector<T>.Count), sum2);
        }

        var result = Vector.Sum(sum + sum2);
        for (; i < n; i++)
        {
            result += x[i] * y[i];
        }

        return result;
    }

    /// <summary>y += scale · x.</summary>
    public static void AddScaled(T* x, int n, T scale, T* y)
    {
        int i = 0;
        var factor = Vector.Create(scale);
        for (; i <= n - Vector<T>.Count; i += Vector<T>.Count)
        {
            Fused(Vector.Load(x + i), factor, Vector.Load(y + i)).Store(y + i);
        }

        for (; i < n; i++)
        {
            y[i] += scale * x[i];
        }
    }
}
