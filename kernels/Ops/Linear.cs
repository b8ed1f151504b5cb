// Linear: y = x·Wᵀ + bias + scale·(x'·Aᵀ)·Bᵀ, a frozen or trained linear layer with an optional low-rank adapter.
//
// Maths      y = x·Wᵀ + bias + s·xa·Bᵀ with xa = x'·Aᵀ, where x' is x after the adapter's dropout
// Grad       dx = dy·W · dxa = s·dy·B · dx' = dxa·A · dA += dxaᵀ·x' · dB += s·dyᵀ·xa · dW += dyᵀ·x · dbias += Σ_n dy[n,:]
// Shapes     x, x' [N, K] · W [O, K] · bias [O] · A [R, K] · B [O, R] · xa [N, R] → y [N, O]
// Layout     row-major and contiguous; W dense or NF4, see Weight
// Floor      2·N·K·O flops for W and 2·N·R·(K + O) for the adapter, each twice again in the backward pass
// Numerics   sums in T, see Gemm; the same bits for any number of threads
// Source     Hu et al. 2021, arXiv:2106.09685 §4.1

using System.Numerics;

namespace IlgpuPeft.Kernels;

static unsafe class Linear
{
    const int BiasColumns = 64; // outputs of the bias gradient per task

    /// <summary>
    /// y (+)= x·Wᵀ + bias + scale·(loraInput·Aᵀ)·Bᵀ; xa receives loraInput·Aᵀ. An empty loraInput means x, an empty bias none.
    /// </summary>
    /// <exception cref="ArgumentException">A slice does not have the size that the weight and x give it, or is not of type T.</exception>
    public static void Forward<T>(Slice x, Weight weight, Slice bias, LoraFactors? lora, Slice loraInput, Slice xa, Slice y, bool accumulate)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "LinearForward";
        Expect.Weight(Operation, nameof(weight), weight);
        int o = weight.Rows, k = weight.Columns, n = Rows<T>(Operation, nameof(x), x, k);
        loraInput = loraInput.IsEmpty ? x : loraInput;
        Expect.Element<T>(Operation, nameof(y), y);
        Expect.Length(Operation, nameof(y), y, (long)n * o);
        Expect.Optional<T>(Operation, nameof(bias), bias, o);
        CheckLora<T>(Operation, lora, loraInput, xa, n, k, o);
        if (!bias.IsEmpty)
        {
            StartFromBias(bias.Pointer<T>(), y.Pointer<T>(), n, o, accumulate);
            accumulate = true;
        }

        T* output = y.Pointer<T>();
        Gemm.Multiply(n, T.One, x.Pointer<T>(), k, weight, transpose: true, accumulate ? T.One : T.Zero, output, o);
        if (lora is { } factors)
        {
            int r = factors.Rank;
            T* projected = xa.Pointer<T>();
            Gemm.Multiply(n, r, k, T.One, loraInput.Pointer<T>(), k, false, factors.A.Pointer<T>(), k, true, T.Zero, projected, r);
            Gemm.Multiply(n, o, r, T.CreateTruncating(factors.Scale), projected, r, false, factors.B.Pointer<T>(), r, true, T.One, output, o);
        }
    }

    /// <summary>
    /// Gradients of <see cref="Forward{T}"/>. An empty gradient slice is not wanted. dx and dLoraInput are written, or added to if
    /// <paramref name="accumulate"/>; without dLoraInput, the adapter's part goes to dx. dA, dB, dWeight and dBias are added to.
    /// </summary>
    /// <exception cref="ArgumentException">A slice does not have the size that the weight and dy give it, or is not of type T.</exception>
    public static void Backward<T>(Slice dy, Slice x, Slice loraInput, Weight weight, LoraFactors? lora, Slice xa, Slice dx, Slice dLoraInput, bool accumulate,
        Slice dA, Slice dB, Slice dWeight, Slice dBias) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "LinearBackward";
        Expect.Weight(Operation, nameof(weight), weight);
        int o = weight.Rows, k = weight.Columns, n = Rows<T>(Operation, nameof(dy), dy, o);
        Expect.Optional<T>(Operation, nameof(dx), dx, (long)n * k);
        Expect.Optional<T>(Operation, nameof(dWeight), dWeight, (long)o * k);
        Expect.Optional<T>(Operation, nameof(dBias), dBias, o);
        T* gradient = dy.Pointer<T>();
        loraInput = loraInput.IsEmpty ? x : loraInput;
        T beta = accumulate ? T.One : T.Zero;
        if (!dx.IsEmpty)
        {
            Gemm.Multiply(n, T.One, gradient, o, weight, transpose: false, beta, dx.Pointer<T>(), k);
        }

        if (!dWeight.IsEmpty)
        {
            Expect.Element<T>(Operation, nameof(x), x);
            Expect.Length(Operation, nameof(x), x, (long)n * k);
            Gemm.Multiply(o, k, n, T.One, gradient, o, true, x.Pointer<T>(), k, false, T.One, dWeight.Pointer<T>(), k);
        }

        if (!dBias.IsEmpty)
        {
            Workers.Run((o + BiasColumns - 1) / BiasColumns, new BiasJob<T> { Gradient = gradient, Sum = dBias.Pointer<T>(), N = n, O = o });
        }

        if (lora is { } factors)
        {
            CheckLora<T>(Operation, lora, loraInput, xa, n, k, o);
            Expect.Optional<T>(Operation, nameof(dLoraInput), dLoraInput, (long)n * k);
            Expect.Optional<T>(Operation, nameof(dA), dA, (long)factors.Rank * k);
            Expect.Optional<T>(Operation, nameof(dB), dB, (long)o * factors.Rank);
            bool separate = !dLoraInput.IsEmpty;
            LoraBackward<T>(factors, n, k, o, gradient, loraInput.Pointer<T>(), xa.Pointer<T>(),
                separate ? dLoraInput : dx, separate ? beta : T.One, dA, dB);
        }
    }

    static void LoraBackward<T>(LoraFactors lora, int n, int k, int o, T* dy, T* input, T* xa, Slice dInput, T beta, Slice dA, Slice dB)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int r = lora.Rank;
        T scale = T.CreateTruncating(lora.Scale);
        if (!dB.IsEmpty)
        {
            Gemm.Multiply(o, r, n, scale, dy, o, true, xa, r, false, T.One, dB.Pointer<T>(), r);
        }

        if (dA.IsEmpty && dInput.IsEmpty)
        {
            return;
        }

        T* dXa = Scratch.Get<T>(ScratchSlot.LoraGradient, (long)n * r);
        Gemm.Multiply(n, r, o, scale, dy, o, false, lora.B.Pointer<T>(), r, false, T.Zero, dXa, r);
        if (!dA.IsEmpty)
        {
            Gemm.Multiply(r, k, n, T.One, dXa, r, true, input, k, false, T.One, dA.Pointer<T>(), k);
        }

        if (!dInput.IsEmpty)
        {
            Gemm.Multiply(n, k, r, T.One, dXa, r, false, lora.A.Pointer<T>(), k, false, beta, dInput.Pointer<T>(), k);
        }
    }

    static int Rows<T>(string operation, string name, Slice matrix, int columns)
    {
        Expect.Element<T>(operation, name, matrix);
        Expect.That(matrix.Length % columns == 0, operation, $"{name} has {matrix.Length} elements, expected a multiple of {columns} to match the weight.");
        return checked((int)(matrix.Length / columns));
    }

    static void CheckLora<T>(string operation, LoraFactors? lora, Slice loraInput, Slice xa, int n, int k, int o)
    {
        if (lora is { } factors)
        {
            Expect.Element<T>(operation, nameof(loraInput), loraInput);
            Expect.Length(operation, nameof(loraInput), loraInput, (long)n * k);
            Expect.Element<T>(operation, nameof(xa), xa);
            Expect.Length(operation, nameof(xa), xa, (long)n * factors.Rank);
            Expect.Element<T>(operation, "lora.A", factors.A);
            Expect.Element<T>(operation, "lora.B", factors.B);
            Expect.Length(operation, "lora.A", factors.A, (long)factors.Rank * k);
            Expect.Length(operation, "lora.B", factors.B, (long)o * factors.Rank);
        }
    }

    static void StartFromBias<T>(T* bias, T* y, int n, int o, bool accumulate) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        for (int i = 0; i < n; i++, y += o)
        {
            for (int j = 0; j < o; j++)
            {
                y[j] = accumulate ? y[j] + bias[j] : bias[j];
            }
        }
    }

    /// <summary>Column sums of dy, rows in order.</summary>
    struct BiasJob<T> : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public T* Gradient, Sum;
        public int N, O;

        public readonly void Run(int index)
        {
            int first = index * BiasColumns, last = Math.Min(first + BiasColumns, O);
            for (int i = 0; i < N; i++)
            {
                for (int j = first; j < last; j++)
                {
                    Sum[j] += Gradient[(long)i * O + j];
                }
            }
        }
    }
}
