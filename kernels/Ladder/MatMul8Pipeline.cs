// Rung 8. Copies that run while earlier tiles are multiplied.
//
// Maths      c[i, j] = Σ_k a[i, k]·b[k, j]     operands bfloat16, sums f32
// Layout     tiles as rung 7
// Launch     (n/64)·(n/32) groups of 4 warps, 64 x 32 elements of C each; three stages of both tiles, 18 KB of shared memory
// Idea       cp.async brings 16 bytes from global to shared memory past the registers, and the thread goes on: two stages are on their way while one is multiplied. A memory access takes
//            hundreds of cycles; the counters do not show it, time does. One barrier a step is enough, since a stage is only overwritten two steps after it was read
// Ladder     rung 8 of 9. Next: MatMul9Nf4

using ILGPU;

namespace IlgpuPeft.Kernels;

static class MatMul8Pipeline
{
    const int Stages = 3;

    public static void Run(KernelDevice device, MatMulProblem problem) => device.Launch(
        Kernel, new LaunchShape(new Index3D(problem.Size / WarpStep.Columns, problem.Size / WarpStep.Rows, 1), WarpStep.Threads, 16 * Stages * WarpStep.Words),
        device.Buffers.View<Word4>(problem.HalfA), device.Buffers.View<Word4>(problem.HalfB), device.Buffers.View<float>(problem.C), problem.Size);

    static void Kernel(ArrayView<Word4> a, ArrayView<Word4> b, ArrayView<float> c, int n)
    {
        var stages = SharedMemory.GetDynamic<Word4>();
        uint address = Intrinsics.SharedAddress(ref stages[0]);
        int t = Group.IdxX, lane = t % 32, warp = t / 32;
        int row = Grid.IdxY * WarpStep.Rows, column = Grid.IdxX * WarpStep.Columns;
        for (int stage = 0; stage < Stages - 1; stage++)
        {
            Copy(a, b, Stage(address, stage), row, column, stage * WarpStep.Depth, n);
        }

        WarpSums sums = default;
        for (int step = 0; step * WarpStep.Depth < n; step++)
        {
            Intrinsics.CopyAsyncWait(Stages - 2); // this step's tiles are there; the next step's may be under way
            Group.Barrier(); // they are there for every thread, and all have read what is overwritten now
            Copy(a, b, Stage(address, step + Stages - 1), row, column, (step + Stages - 1) * WarpStep.Depth, n);
            uint tiles = Stage(address, step);
            int left = warp / 2 * 32 + lane % 16;
            for (int k = 0; k < WarpStep.Depth; k += 16)
            {
                int chunk = k / WarpStep.Chunk + lane / 16;
                sums = WarpStep.MultiplyAdd(sums, MatMul7Swizzle.At(tiles, left, chunk), MatMul7Swizzle.At(tiles, left + 16, chunk),
                    MatMul7Swizzle.At(tiles, WarpStep.Rows + k + lane % 16, warp % 2 * 2 + lane / 16));
            }
        }

        WarpStep.Store(c, row + warp / 2 * 32, column + warp % 2 * 16, n, sums);
    }

    static uint Stage(uint address, int step) => address + (uint)(step % Stages * 16 * WarpStep.Words);

    /// <summary>Starts the copies of a step as one group; past the last step the group is empty, so that the count of groups stays the same.</summary>
    static void Copy(ArrayView<Word4> a, ArrayView<Word4> b, uint tiles, int row, int column, int k0, int n)
    {
        int tileRow = Group.IdxX / WarpStep.Chunks, chunk = Group.IdxX % WarpStep.Chunks, perRow = n / WarpStep.Chunk;
        if (k0 < n)
        {
            int left = (row + tileRow) * perRow + k0 / WarpStep.Chunk + chunk;
            Intrinsics.CopyAsync16(MatMul7Swizzle.At(tiles, tileRow, chunk), ref a[left], 16);
            Intrinsics.CopyAsync16(MatMul7Swizzle.At(tiles, tileRow + 32, chunk), ref a[left + 32 * perRow], 16);
            Intrinsics.CopyAsync16(MatMul7Swizzle.At(tiles, WarpStep.Rows + tileRow, chunk), ref b[(k0 + tileRow) * perRow + column / WarpStep.Chunk + chunk], 16);
        }

        Intrinsics.CopyAsyncCommit();
    }
}
