// Embedding on devices: one row of the table for each token. The kernels are those of RowsKernels.cs, which says what they cost.
//
// Maths      y[i] = table[ids[i]]
// Grad       dTable[ids[i]] += dy[i]
// Shapes     ids [N] i32 · table [V, D] F32, BF16 or F16 → y [N, D] T; dy [N, D] T → dTable [V, D] f32
// Layout     row-major
// Floor      bytes N·D elements read and written (forward); N·D read and two f32 for every element of a row that occurs (backward); bound by memory
// Numerics   forward exact up to one rounding to T; backward adds in f32 in the order of i. An id outside the table, which the host refuses, reads zeros and adds nothing

namespace IlgpuPeft.Kernels;

static class EmbeddingKernels
{
    /// <inheritdoc cref="Backend.EmbeddingForward" />
    public static void Forward<T>(KernelDevice device, Slice ids, Weight table, Slice y) where T : unmanaged, IElement<T>
    {
        const string Operation = "EmbeddingForward";
        Expect.Type(Operation, nameof(ids), ids, DType.I32);
        Expect.Elements(Operation, T.Type, ids.Length * table.Columns, (nameof(y), y));
        Expect.Weight(Operation, nameof(table), table);
        switch (table.Values.Type)
        {
            case DType.F32:
                RowsKernels.Gather<F32, T>(device, table.Values, ids, table.Columns, y);
                break;
            case DType.BF16:
                RowsKernels.Gather<BF16, T>(device, table.Values, ids, table.Columns, y);
                break;
            case DType.F16:
                RowsKernels.Gather<F16, T>(device, table.Values, ids, table.Columns, y);
                break;
            default:
                throw new ArgumentException($"{Operation}: table is {(table.Scales is null ? $"{table.Values.Type}" : "NF4")} on {device.Name}, expected F32, BF16 or F16.", nameof(table));
        }
    }

    /// <inheritdoc cref="Backend.EmbeddingBackward" />
    public static void Backward<T>(KernelDevice device, ScratchBuffers scratch, Slice ids, Slice dy, Slice dTable) where T : unmanaged, IElement<T>
    {
        const string Operation = "EmbeddingBackward";
        Expect.Type(Operation, nameof(ids), ids, DType.I32);
        Expect.Type(Operation, nameof(dy), dy, T.Type);
        Expect.Type(Operation, nameof(dTable), dTable, DType.F32);
        if (ids.Length == 0)
        {
            return;
        }

        int width = checked((int)(dy.Length / ids.Length));
        Expect.That(width > 0 && dy.Length % ids.Length == 0, Operation, $"dy has {dy.Length} elements, expected a multiple of the {ids.Length} tokens.");
        Expect.That(dTable.Length % width == 0, Operation, $"dTable has {dTable.Length} elements, expected rows of {width} as dy has.");
        RowsKernels.ScatterAdd<T, F32>(device, scratch, dy, ids, width, dTable);
    }
}
