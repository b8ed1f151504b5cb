using System.Numerics.Tensors;
using IlgpuPeft.Kernels;

namespace IlgpuPeft.Perf;

/// <summary>Reads memory with all threads and does nothing else: the bandwidth that weight-bound operations are held to.</summary>
static unsafe class MemoryRead
{
    const int Piece = 1 << 18;

    public static void All(Slice values) => Workers.Run((int)(values.Bytes / Piece), new Job { Values = (ulong*)values.Address });

    struct Job : IJob
    {
        public ulong* Values;

        public readonly void Run(int index)
        {
            const int count = Piece / sizeof(ulong);
            // A plain vectorised sum; a value that no sum has keeps the compiler from dropping it.
            if (TensorPrimitives.Sum(new ReadOnlySpan<ulong>(Values + (long)index * count, count)) == 0x1234_5678_9abc_def1)
            {
                Console.Error.WriteLine();
            }
        }
    }
}
