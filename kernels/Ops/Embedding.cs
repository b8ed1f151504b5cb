// Embedding: one row of the table for each token.
//
// Maths      y[i] = table[ids[i]]
// Grad       dTable[ids[i]] += dy[i]
// Shapes     ids [N] i32 · table [V, D] in any format of Weight → y [N, D]; dy [N, D] → dTable [V, D]
// Layout     row-major
// Floor      bytes N·D elements read and written (forward), 3·N·D (backward); bound by memory
// Numerics   forward exact up to one rounding of the table's type; backward adds in the order of i for any number of threads

using System.Numerics;

namespace IlgpuPeft.Kernels;

static unsafe class Embedding
{
    public static void Forward<T>(Slice ids, Weight table, Slice y) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "EmbeddingForward";
        Expect.Element<T>(Operation, nameof(y), y);
        Expect.Length(Operation, nameof(y), y, ids.Length * table.Columns);
        Expect.Weight(Operation, nameof(table), table);
        CheckIds(Operation, ids, table.Rows);
        Partition parts = Partition.Rows(ids.Length, table.Columns);
        Workers.Run(parts.Count, new ForwardJob<T>(ids.Pointer<int>(), table, y.Pointer<T>(), parts));
    }

    public static void Backward<T>(Slice ids, Slice dy, Slice dTable) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "EmbeddingBackward";
        Expect.Element<T>(Operation, nameof(dy), dy);
        Expect.Element<T>(Operation, nameof(dTable), dTable);
        if (ids.Length == 0)
        {
            return;
        }

        int width = checked((int)(dy.Length / ids.Length));
        Expect.That(width > 0 && dy.Length % ids.Length == 0, Operation, $"dy has {dy.Length} elements, expected a multiple of the {ids.Length} tokens.");
        Expect.That(dTable.Length % width == 0, Operation, $"dTable has {dTable.Length} elements, expected rows of {width} as dy has.");
        CheckIds(Operation, ids, dTable.Length / width);
        Rows.ScatterInOrder(dy.Pointer<T>(), ids.Pointer<int>(), ids.Length, width, dTable.Pointer<T>(), accumulate: true);
    }

    static void CheckIds(string operation, Slice ids, long vocabulary)
    {
        Expect.Type(operation, nameof(ids), ids, DType.I32);
        int* tokens = ids.Pointer<int>();
        for (long i = 0; i < ids.Length; i++)
        {
            if ((uint)tokens[i] >= vocabulary)
            {
                throw new ArgumentOutOfRangeException(nameof(ids), $"{operation}: token {i} has id {tokens[i]}, expected 0 to {vocabulary - 1} for a vocabulary of " +
                    $"{vocabulary}. Check that the tokenizer belongs to the model.");
            }
        }
    }

    readonly struct ForwardJob<T>(int* ids, Weight table, T* y, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            for (long i = start; i < end; i++)
            {
                WeightReader.Read(table, (long)ids[i] * table.Columns, table.Columns, y + i * table.Columns);
            }
        }
    }
}
