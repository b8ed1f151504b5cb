using System.Numerics;
using System.Runtime.CompilerServices;

namespace IlgpuPeft.Kernels;

/// <summary>Vector loops over a row: what is done with a tile between two products. Sums run in an order set by the length alone.</summary>
static unsafe class Lanes<T> where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    /// <summary>x·y + z, rounded once.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Fused(Vector<T> x, Vector<T> y, Vector<T> z) => typeof(T) == typeof(float)
        ? Vector.FusedMultiplyAdd(x.As<T, float>(), y.As<T, float>(), z.As<T, float>()).As<float, T>()
        : Vector.FusedMultiplyAdd(x.As<T, double>(), y.As<T, double>(), z.As<T, double>()).As<double, T>();

    /// <summary>eˣ of each lane.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Exp(Vector<T> x) => typeof(T) == typeof(float)
        ? Vector.Exp(x.As<T, float>()).As<float, T>()
        : Vector.Exp(x.As<T, double>()).As<double, T>();

    /// <summary>x *= scale; returns the largest.</summary>
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
            result = T.Max(result, x[i] *= scale);
        }

        for (int lane = 0; lane < Vector<T>.Count; lane++)
        {
            result = T.Max(result, best[lane]);
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
            result += x[i] = T.Exp(x[i] - shift);
        }

        return result;
    }

    /// <summary>Σ weights·(x − shift), where x = −∞ has weight 0 and adds nothing.</summary>
    public static T SumOfShifted(T* weights, T* x, int n, T shift)
    {
        var lowest = T.CreateTruncating(-2000); // its exponential is 0 in double too
        Vector<T> sum = default, offset = Vector.Create(shift), floor = Vector.Create(lowest);
        int i = 0;
        for (; i <= n - Vector<T>.Count; i += Vector<T>.Count)
        {
            sum = Fused(Vector.Load(weights + i), Vector.MaxNative(Vector.Load(x + i) - offset, floor), sum);
        }

        var result = Vector.Sum(sum);
        for (; i < n; i++)
        {
            result += weights[i] * T.Max(x[i] - shift, lowest);
        }

        return result;
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

    /// <summary>x *= scale.</summary>
    public static void Scale(T* x, int n, T scale)
    {
        var factor = Vector.Create(scale);
        int i = 0;
        for (; i <= n - Vector<T>.Count; i += Vector<T>.Count)
        {
            (Vector.Load(x + i) * factor).Store(x + i);
        }

        for (; i < n; i++)
        {
            x[i] *= scale;
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
