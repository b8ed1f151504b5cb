// Nf4TensorCoreMatMul: products with frozen 4-bit weights on tensor cores.
//
// Maths      y (+)= alpha·(x·Wᵀ + s·X·Y) + bias, or dx (+)= alpha·(dy·W + s·X·Y); W[i] = bf16(code[q[i]] · absmax[i / block]), as TensorCoreMatMul
// Shapes     x [M, K] · W [O, K] NF4 → y [M, O];  dy [M, O] · W → dx [M, K];  x, dy BF16, results F32 or BF16
// Layout     row-major; W as Nf4Scales describes it, blocks of 32 to 4096, single or double quantisation
// Launch     few rows: as TensorCoreMatMul, in tiles of 64 columns; a thread decodes 32 weights for every 64 terms. More rows: Nf4Kernels restores a bfloat16 copy once, and a
//            dense product follows
// Floor      2·M·O·K flops and O·K/2 bytes; up to 128 rows reading W binds. A group decodes what it multiplies, so with more rows each weight would be decoded M/128 times
// Numerics   as TensorCoreMatMul with weights rounded to bfloat16; both ways give the same bits where sums are split alike
// Source     Dettmers et al. 2023, arXiv:2305.14314 §3; that decoding first is right for many rows: Marlin's measurements (Frantar et al. 2024, arXiv:2408.11743)

namespace IlgpuPeft.Kernels;

static class Nf4TensorCoreMatMul
{
    /// <summary>Rows up to which weights are decoded within the product.</summary>
    public const int MostFusedRows = 128;

    const string Operation = nameof(Nf4TensorCoreMatMul);

    /// <summary>Computes x·Wᵀ, or dy·W if the call's B is not transposed.</summary>
    /// <param name="device">One that has tensor cores.</param>
    /// <param name="scratch">Working memory for a decoded copy, and for parts of long sums.</param>
    /// <param name="call">What; its A is not transposed, and its B is left out: the weight takes its place.</param>
    /// <param name="weight">NF4 [N, K] of the call, or [K, N] if its B is not transposed.</param>
    /// <param name="extension">As in <see cref="TensorCoreMatMul.Multiply(KernelDevice, MatMulCall, MatMulCall?, ScratchBuffers?)"/>.</param>
    /// <exception cref="ArgumentException">The weight is dense, or not of the call's extents, or a slice does not fit its extents.</exception>
    /// <exception cref="NotSupportedException">The device has no tensor cores.</exception>
    public static void Multiply(KernelDevice device, ScratchBuffers scratch, MatMulCall call, Weight weight, MatMulCall? extension = null)
    {
        var (rows, columns) = call.TransposeB ? (call.N, call.K) : (call.K, call.N);
        Expect.Weight(Operation, nameof(weight), weight);
        Expect.That(weight.Scales != null, Operation, $"the weight is {weight.Values.Type}, expected NF4. Dense weights are TensorCoreMatMul's.");
        Expect.That((weight.Rows, weight.Columns) == (rows, columns), Operation, $"the weight is [{weight.Rows}, {weight.Columns}], expected [{rows}, {columns}].");
        Expect.That(!call.TransposeA, Operation, "A is transposed, expected [M, K].");
        if (call.M > MostFusedRows || !Nf4View.HasRuns(weight, weight.Columns))
        {
            var dense = scratch.Get("decoded weight", DType.BF16, (long)rows * columns);
            Nf4Kernels.Dequantize(device, weight, dense);
            TensorCoreMatMul.Multiply(device, call with { B = dense }, extension, scratch);
            return;
        }

        TensorCoreMatMul.Check(device, call, extension);
        var b = new Nf4TileOperand(Nf4View.Of(device, weight), rows, columns);
        if (call.M > 2 * WarpTile32x32.Rows)
        {
            Multiply<WarpTile64x32>(device, scratch, call, b, extension);
        }
        else
        {
            Multiply<WarpTile32x32>(device, scratch, call, b, extension);
        }
    }

    static void Multiply<TTile>(KernelDevice device, ScratchBuffers scratch, MatMulCall call, Nf4TileOperand b, MatMulCall? extension) where TTile : unmanaged, IWarpTile<TTile>
    {
        if (call.TransposeB)
        {
            TensorCoreMatMul.Multiply<TTile, ByExtent, ByExtent, Nf4TileOperand, Nf4Words>(device, scratch, call, b, extension);
        }
        else
        {
            TensorCoreMatMul.Multiply<TTile, ByExtent, ByDepth, Nf4TileOperand, Nf4Words>(device, scratch, call, b, extension);
        }
    }
}
