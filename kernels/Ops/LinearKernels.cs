// Linear on devices: y = x·Wᵀ + bias + scale·(x'·Aᵀ)·Bᵀ and its gradients, as products of MatMulKernels. The maths is in Linear.cs.
//
// Maths      y = x·Wᵀ + bias + s·xa·Bᵀ with xa = x'·Aᵀ: base and update in one sum, rounded once
// Grad       dxa = s·dy·B · dx = dy·W + dxa·A, again one sum · dA += dxaᵀ·x' · dB += s·dyᵀ·xa · dW += dyᵀ·x · dbias += Σ_n dy[n,:]
// Shapes     x, x' [N, K] T · W [O, K] · bias [O] f32 · A [R, K], B [O, R] f32 · xa [N, R] T → y [N, O] T; gradients of A, B, W and bias f32
// Layout     row-major and contiguous; W dense or NF4, see Weight
// Launch     bias gradient: groups of 256 for 32 columns, 8 threads a column
// Floor      2·N·K·O flops for W and 2·N·R·(K + O) for the adapter; backward, the former again for dx and the latter twice again, and 2·N·K·O for dW where W is trained
// Numerics   sums in f32, see MatMulKernels; xa and dxa are rounded to T; runs repeat bit for bit
// Source     Hu et al. 2021, arXiv:2106.09685 §4.1

using ILGPU;

namespace IlgpuPeft.Kernels;

static class LinearKernels
{
    const int BiasColumns = 32, BiasThreads = 256;

    /// <inheritdoc cref="Backend.LinearForward" />
    /// <exception cref="ArgumentException">A slice does not have the size that the weight and x give it, or not its type.</exception>
    public static void Forward<T>(KernelDevice device, ScratchBuffers scratch, bool tensorCores, Slice x, Weight weight, Slice bias, LoraFactors? lora, Slice loraInput, Slice xa, Slice y,
        bool accumulate) where T : unmanaged, IElement<T>
    {
        const string Operation = "LinearForward";
        Expect.Weight(Operation, nameof(weight), weight);
        int o = weight.Rows, k = weight.Columns, n = Rows<T>(Operation, nameof(x), x, k);
        loraInput = loraInput.IsEmpty ? x : loraInput;
        Expect.Elements(Operation, T.Type, (long)n * o, (nameof(y), y));
        Expect.Optional(Operation, nameof(bias), bias, DType.F32, o);
        CheckLora<T>(Operation, lora, loraInput, xa, n, k, o);
        LowRankProduct update = default;
        if (lora is { } factors)
        {
            int r = factors.Rank;
            MatMulKernels.Multiply(device, scratch, tensorCores, new MatMulCall(n, r, k) { A = loraInput, B = factors.A, TransposeB = true, C = xa });
            update = new LowRankProduct(xa, factors.B, TransposeRight: true, r, (float)factors.Scale);
        }

        var call = new MatMulCall(n, o, k) { A = x, B = default, TransposeB = true, C = y, Bias = bias, Accumulate = accumulate };
        MatMulKernels.Multiply(device, scratch, tensorCores, call, weight, update);
    }

    /// <inheritdoc cref="Backend.LinearBackward" />
    /// <exception cref="ArgumentException">A slice does not have the size that the weight and dy give it, or not its type.</exception>
    public static void Backward<T>(KernelDevice device, ScratchBuffers scratch, bool tensorCores, Slice dy, Slice x, Slice loraInput, Weight weight, LoraFactors? lora, Slice xa, Slice dx,
        Slice dLoraInput, bool accumulate, Slice dA, Slice dB, Slice dWeight, Slice dBias) where T : unmanaged, IElement<T>
    {
        const string Operation = "LinearBackward";
        Expect.Weight(Operation, nameof(weight), weight);
        int o = weight.Rows, k = weight.Columns, n = Rows<T>(Operation, nameof(dy), dy, o);
        loraInput = loraInput.IsEmpty ? x : loraInput;
        Expect.Optional(Operation, nameof(dx), dx, T.Type, (long)n * k);
        Expect.Optional(Operation, nameof(dWeight), dWeight, DType.F32, (long)o * k);
        Expect.Optional(Operation, nameof(dBias), dBias, DType.F32, o);
        CheckLora<T>(Operation, lora, loraInput, xa, n, k, o);
        LowRankProduct update = default;
        if (lora is { } factors)
        {
            int r = factors.Rank;
            Expect.Optional(Operation, nameof(dLoraInput), dLoraInput, T.Type, (long)n * k);
            Expect.Optional(Operation, nameof(dA), dA, DType.F32, (long)r * k);
            Expect.Optional(Operation, nameof(dB), dB, DType.F32, (long)o * r);
            if (!dB.IsEmpty)
            {
                Multiply(new MatMulCall(o, r, n) { A = dy, TransposeA = true, B = xa, C = dB, Alpha = (float)factors.Scale, Accumulate = true });
            }

            if (!dA.IsEmpty || !dLoraInput.IsEmpty || !dx.IsEmpty)
            {
                var dXa = scratch.Get("gradient of xa", T.Type, (long)n * r);
                Multiply(new MatMulCall(n, r, o) { A = dy, B = factors.B, C = dXa, Alpha = (float)factors.Scale });
                update = new LowRankProduct(dXa, factors.A, TransposeRight: false, r, 1);
                if (!dA.IsEmpty)
                {
                    Multiply(new MatMulCall(r, k, n) { A = dXa, TransposeA = true, B = loraInput, C = dA, Accumulate = true });
                }

                if (!dLoraInput.IsEmpty)
                {
                    Multiply(new MatMulCall(n, k, r) { A = dXa, B = factors.A, C = dLoraInput, Accumulate = accumulate });
                    update = default;
                }
            }
        }

        if (!dx.IsEmpty)
        {
            MatMulKernels.Multiply(device, scratch, tensorCores, new MatMulCall(n, k, o) { A = dy, B = default, C = dx, Accumulate = accumulate }, weight, update);
        }

        if (!dWeight.IsEmpty)
        {
            Expect.Elements(Operation, T.Type, (long)n * k, (nameof(x), x));
            Multiply(new MatMulCall(o, k, n) { A = dy, TransposeA = true, B = x, C = dWeight, Accumulate = true });
        }

        if (!dBias.IsEmpty)
        {
            var shape = LaunchShape.Groups((o + BiasColumns - 1) / BiasColumns, BiasThreads);
            device.Launch(BiasKernel<T>, shape, device.Buffers.View<T>(dy), device.Buffers.View<F32>(dBias), n);
        }

        void Multiply(MatMulCall call) => MatMulKernels.Multiply(device, scratch, tensorCores, call);
    }

    /// <summary>Column sums: a warp takes every eighth row of 32 columns, and the first warp adds the eight sums in order.</summary>
    static void BiasKernel<T>(ArrayView<T> dy, ArrayView<F32> dBias, int rows) where T : unmanaged, IElement<T>
    {
        const int warps = BiasThreads / BiasColumns;
        var partial = SharedMemory.Allocate<float>(BiasThreads);
        int warp = Group.IdxX / BiasColumns, lane = Group.IdxX % BiasColumns;
        long columns = dBias.Length, column = (long)Grid.IdxX * BiasColumns + lane;
        float sum = 0;
        for (int row = warp; row < rows && column < columns; row += warps)
        {
            sum += T.Widen(dy[row * columns + column]);
        }

        partial[Group.IdxX] = sum;
        Group.Barrier(); // all partial sums are there
        if (warp == 0 && column < columns)
        {
            float total = F32.Widen(dBias[column]);
            for (int i = 0; i < warps; i++)
            {
                total += partial[i * BiasColumns + lane];
            }

            dBias[column] = F32.Narrow(total);
        }
    }

    static int Rows<T>(string operation, string name, Slice matrix, int columns) where T : unmanaged, IElement<T>
    {
        Expect.Type(operation, name, matrix, T.Type);
        Expect.That(matrix.Length % columns == 0, operation, $"{name} has {matrix.Length} elements, expected a multiple of {columns} to match the weight.");
        return checked((int)(matrix.Length / columns));
    }

    static void CheckLora<T>(string operation, LoraFactors? lora, Slice loraInput, Slice xa, int n, int k, int o) where T : unmanaged, IElement<T>
    {
        if (lora is { } factors)
        {
            Expect.Elements(operation, T.Type, (long)n * k, (nameof(loraInput), loraInput));
            Expect.Elements(operation, T.Type, (long)n * factors.Rank, (nameof(xa), xa));
            Expect.Elements(operation, DType.F32, (long)factors.Rank * k, ("lora.A", factors.A));
            Expect.Elements(operation, DType.F32, (long)o * factors.Rank, ("lora.B", factors.B));
        }
    }
}
