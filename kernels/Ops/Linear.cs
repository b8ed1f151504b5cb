using System.Numerics;

namespace IlgpuPeft.Kernels;

/// <summary>y (+)= x·Wᵀ + bias + scale·(loraInput·Aᵀ)·Bᵀ and its gradients, in plain loops over the dequantised weight.</summary>
static unsafe class Linear
{
    static readonly float[] Codes =
    [
        -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
        0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f,
    ];

    public static void Forward<T>(Slice x, Weight weight, Slice bias, LoraFactors? lora, Slice loraInput, Slice xa, Slice y, bool accumulate)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        long rows = x.Length / weight.Columns;
        Expect.Length("LinearForward", nameof(x), x, rows * weight.Columns);
        Expect.Length("LinearForward", nameof(y), y, rows * weight.Rows);
        T[] w = Dense<T>(weight);
        T* result = y.Pointer<T>(), offset = bias.Pointer<T>();
        if (!accumulate)
        {
            new Span<T>(result, (int)y.Length).Clear();
        }

        fixed (T* dense = w)
        {
            MultiplyTransposed(x.Pointer<T>(), dense, result, rows, weight.Rows, weight.Columns, T.One);
        }

        for (long i = 0; offset != null && i < y.Length; i++)
        {
            result[i] += offset[i % weight.Rows];
        }

        if (lora is { } factors)
        {
            new Span<T>(xa.Pointer<T>(), (int)xa.Length).Clear();
            MultiplyTransposed(loraInput.Pointer<T>(), factors.A.Pointer<T>(), xa.Pointer<T>(), rows, factors.Rank, weight.Columns, T.One);
            MultiplyTransposed(xa.Pointer<T>(), factors.B.Pointer<T>(), result, rows, weight.Rows, factors.Rank, T.CreateTruncating(factors.Scale));
        }
    }

    public static void Backward<T>(Slice dy, Slice x, Slice loraInput, Weight weight, LoraFactors? lora, Slice xa, Slice dx, Slice dLoraInput, bool accumulate,
        Slice dA, Slice dB, Slice dWeight, Slice dBias) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        long rows = dy.Length / weight.Rows;
        int outputs = weight.Rows, inputs = weight.Columns;
        T* gradient = dy.Pointer<T>();
        foreach (Slice written in accumulate ? [] : new[] { dx, dLoraInput })
        {
            new Span<T>(written.Pointer<T>(), (int)written.Length).Clear();
        }

        if (!dx.IsEmpty)
        {
            fixed (T* dense = Dense<T>(weight))
            {
                Multiply(gradient, dense, dx.Pointer<T>(), rows, inputs, outputs);
            }
        }

        if (!dWeight.IsEmpty)
        {
            TransposedMultiply(gradient, x.Pointer<T>(), dWeight.Pointer<T>(), outputs, inputs, rows, T.One);
        }

        for (long i = 0; !dBias.IsEmpty && i < dy.Length; i++)
        {
            dBias.Pointer<T>()[i % outputs] += gradient[i];
        }

        if (lora is not { } factors)
        {
            return;
        }

        T scale = T.CreateTruncating(factors.Scale);
        T[] low = new T[rows * factors.Rank];
        fixed (T* dxa = low)
        {
            Multiply(gradient, factors.B.Pointer<T>(), dxa, rows, factors.Rank, outputs);
            for (int i = 0; i < low.Length; i++)
            {
                low[i] *= scale;
            }

            Slice target = dLoraInput.IsEmpty ? dx : dLoraInput;
            if (!target.IsEmpty)
            {
                Multiply(dxa, factors.A.Pointer<T>(), target.Pointer<T>(), rows, inputs, factors.Rank);
            }

            if (!dA.IsEmpty)
            {
                TransposedMultiply(dxa, loraInput.Pointer<T>(), dA.Pointer<T>(), factors.Rank, inputs, rows, T.One);
            }

            if (!dB.IsEmpty)
            {
                TransposedMultiply(gradient, xa.Pointer<T>(), dB.Pointer<T>(), outputs, factors.Rank, rows, scale);
            }
        }
    }

    /// <summary>c [m, n] += scale · a [m, k] · bᵀ, b [n, k].</summary>
    static void MultiplyTransposed<T>(T* a, T* b, T* c, long m, long n, long k, T scale) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        for (long i = 0; i < m; i++)
        {
            for (long j = 0; j < n; j++)
            {
                T dot = System.Numerics.Tensors.TensorPrimitives.Dot(new ReadOnlySpan<T>(a + i * k, (int)k), new ReadOnlySpan<T>(b + j * k, (int)k));
                c[i * n + j] += scale * dot;
            }
        }
    }

    /// <summary>c [m, n] += a [m, k] · b [k, n].</summary>
    static void Multiply<T>(T* a, T* b, T* c, long m, long n, long k) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        for (long i = 0; i < m; i++)
        {
            for (long l = 0; l < k; l++)
            {
                for (long j = 0; j < n; j++)
                {
                    c[i * n + j] += a[i * k + l] * b[l * n + j];
                }
            }
        }
    }

    /// <summary>c [m, n] += scale · aᵀ · b, a [k, m], b [k, n].</summary>
    static void TransposedMultiply<T>(T* a, T* b, T* c, long m, long n, long k, T scale) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        for (long l = 0; l < k; l++)
        {
            for (long i = 0; i < m; i++)
            {
                for (long j = 0; j < n; j++)
                {
                    c[i * n + j] += scale * a[l * m + i] * b[l * n + j];
                }
            }
        }
    }

    static T[] Dense<T>(Weight weight) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        T[] dense = new T[(long)weight.Rows * weight.Columns];
        if (weight.Scales is not { } scales)
        {
            Conversion.Read<T>(weight.Values, 0, dense);
            return dense;
        }

        byte* codes = weight.Values.Pointer<byte>();
        for (int i = 0; i < dense.Length; i++)
        {
            int block = i / scales.BlockSize;
            float absMax = scales.IsDouble
                ? scales.NestedMap.Pointer<float>()[scales.AbsMax.Pointer<byte>()[block]] * scales.NestedAbsMax.Pointer<float>()[block / 256] + scales.NestedOffset
                : scales.AbsMax.Pointer<float>()[block];
            dense[i] = T.CreateTruncating(Codes[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15] * absMax);
        }

        return dense;
    }
}
