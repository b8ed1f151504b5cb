// Matrix products on devices: which kernel computes one.
//
// Maths      C (+)= alpha·op(A)·op(B) + bias + scale·X·op(Y), the last a low-rank update
// Shapes     op(A) [M, K] · op(B) [K, N], dense or NF4 · bias [N] · X [M, R] · op(Y) [R, N] → C [M, N]
// Launch     few rows times rows of a weight: MatVecKernels, which reads each weight once for 8 rows. Else TensorCoreMatMul where the device and the caller allow it, after what is not
//            bfloat16 was converted; else PortableMatMul
// Numerics   tensor cores round operands to bfloat16; the other two read them as they are. Sums in f32

namespace IlgpuPeft.Kernels;

static class MatMulKernels
{
    // The emulator counts, for an NF4 weight and all rows, 10, 12, 16 and 25 instructions a lane in MatVecKernels' passes of 1, 2, 4 and 8 rows, 20 in a tile of 64 rows on tensor cores,
    // and 190 in one of the portable kernel; for a bfloat16 weight on tensor cores 12. So passes win up to 4 rows there, and elsewhere while there are few of them.
    const int FewRowsWithTensorCores = 4, FewRowsWithout = 32;

    /// <summary>Computes a dense product.</summary>
    /// <param name="device">Where.</param>
    /// <param name="scratch">Working memory for converted operands and partial sums.</param>
    /// <param name="tensorCores">Whether tensor cores may be used, which round operands to bfloat16.</param>
    /// <param name="call">What.</param>
    /// <param name="update">A low-rank product that is added before the result is rounded, or nothing.</param>
    /// <exception cref="ArgumentException">A slice does not have the size that the extents give it, or a type that no kernel takes.</exception>
    public static void Multiply(KernelDevice device, ScratchBuffers scratch, bool tensorCores, MatMulCall call, LowRankProduct update = default)
    {
        Check(call);
        if (call.M == 0 || call.N == 0)
        {
            return;
        }

        if (tensorCores && !HasFewRows(call, tensorCores))
        {
            call = call with { A = Bfloat16(device, scratch, "left operand", call.A), B = Bfloat16(device, scratch, "right operand", call.B) };
            TensorCoreMatMul.Multiply(device, call, Extension(device, scratch, call, update), scratch);
            return;
        }

        switch (call.B.Type)
        {
            case DType.BF16:
                InFloat32<BF16>(device, scratch, call, update);
                break;
            case DType.F16:
                InFloat32<F16>(device, scratch, call, update);
                break;
            default:
                InFloat32<F32>(device, scratch, call, update);
                break;
        }
    }

    /// <summary>Computes A·op(W) for a weight, NF4 decoded on its way through the product; <see cref="MatMulCall.B"/> is not read, and A not transposed.</summary>
    public static void Multiply(KernelDevice device, ScratchBuffers scratch, bool tensorCores, MatMulCall call, Weight weight, LowRankProduct update = default)
    {
        if (call.M == 0)
        {
            return;
        }

        if (weight.Scales is null)
        {
            Multiply(device, scratch, tensorCores, call with { B = weight.Values }, update);
        }
        else if (HasFewRows(call, tensorCores) && Nf4View.HasRuns(weight, call.K))
        {
            FewRows(device, call, new MatVecRuns(Nf4View.Of(device, weight), call.K), update);
        }
        else if (HasFewRows(call, tensorCores))
        {
            FewRows(device, call, new MatVecQuads<Nf4Operand>(Nf4Operand.Of(device, weight, alongDepth: true), call.K, call.K % 4 == 0), update);
        }
        else if (tensorCores)
        {
            call = call with { A = Bfloat16(device, scratch, "left operand", call.A) };
            Nf4TensorCoreMatMul.Multiply(device, scratch, call, weight, Extension(device, scratch, call, update));
        }
        else
        {
            PortableMatMul.Multiply(device, scratch, call, Nf4Operand.Of(device, weight, call.TransposeB), update);
        }
    }

    /// <summary>Whether the call is a product of few rows with rows of a weight, as of decoded tokens.</summary>
    static bool HasFewRows(MatMulCall call, bool tensorCores) =>
        call.M <= (tensorCores ? FewRowsWithTensorCores : FewRowsWithout) && !call.TransposeA && call.TransposeB && call.A.Type == call.C.Type;

    static void InFloat32<TB>(KernelDevice device, ScratchBuffers scratch, MatMulCall call, LowRankProduct update) where TB : unmanaged, IElement<TB>
    {
        var b = DenseOperand<TB>.Of(device, call.B, call.N, call.K, call.TransposeB);
        if (HasFewRows(call, tensorCores: false))
        {
            FewRows(device, call, new MatVecQuads<DenseOperand<TB>>(b, call.K, Quads.Fit(call.B, call.K)), update);
        }
        else
        {
            PortableMatMul.Multiply(device, scratch, call, b, update);
        }
    }

    static void FewRows<TWeights>(KernelDevice device, MatMulCall call, TWeights weights, LowRankProduct update) where TWeights : struct, IMatVecWeights
    {
        if (call.A.Type == DType.BF16)
        {
            MatVecKernels.Multiply<BF16, TWeights, BF16>(device, call, weights, update);
        }
        else
        {
            MatVecKernels.Multiply<F32, TWeights, F32>(device, call, weights, update);
        }
    }

    /// <summary>The low-rank update as tensor cores take it: further terms of the same sums, which alpha scales too.</summary>
    static MatMulCall? Extension(KernelDevice device, ScratchBuffers scratch, MatMulCall call, LowRankProduct update) => update.Rank == 0 ? null : call with
    {
        K = update.Rank,
        A = Bfloat16(device, scratch, "left factor", update.Left),
        B = Bfloat16(device, scratch, "right factor", update.Right),
        TransposeB = update.TransposeRight,
        Alpha = update.Scale / call.Alpha,
    };

    /// <summary>The operand itself, or its copy in bfloat16.</summary>
    static Slice Bfloat16(KernelDevice device, ScratchBuffers scratch, string operand, Slice values)
    {
        if (values.Type == DType.BF16)
        {
            return values;
        }

        var rounded = scratch.Get($"{operand} in bfloat16", DType.BF16, values.Length);
        ElementwiseKernels.Copy(device, values, rounded);
        return rounded;
    }

    static void Check(MatMulCall call)
    {
        const string Operation = "MatMul";
        Expect.That(call.M >= 0 && call.N >= 0 && call.K >= 0, Operation, $"extents are {call.M} x {call.N} x {call.K}, expected none below zero.");
        Expect.Length(Operation, nameof(call.A), call.A, (long)call.M * call.K);
        Expect.Length(Operation, nameof(call.B), call.B, (long)call.K * call.N);
        Expect.Length(Operation, nameof(call.C), call.C, (long)call.M * call.N);
        Expect.That(call.A.Type is DType.F32 or DType.BF16, Operation, $"A is {call.A.Type}, expected F32 or BF16.");
        Expect.That(call.B.Type is DType.F32 or DType.BF16 or DType.F16, Operation, $"B is {call.B.Type}, expected F32, BF16 or F16.");
        Expect.That(call.C.Type is DType.F32 or DType.BF16, Operation, $"C is {call.C.Type}, expected F32 or BF16.");
        Expect.Optional(Operation, nameof(call.Bias), call.Bias, DType.F32, call.N);
    }
}
