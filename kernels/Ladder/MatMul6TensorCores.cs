// Rung 6. Tensor cores.
//
// Maths      c[i, j] = Σ_k a[i, k]·b[k, j]     operands bfloat16, sums f32
// Layout     tiles row by row, as they come
// Launch     (n/64)·(n/32) groups of 4 warps, 64 x 32 elements of C each; tiles of 64 x 32 and 32 x 32 bfloat16 in shared memory
// Idea       one mma.sync multiplies 16 x 16 by 16 x 8: 2,048 multiply-adds in one instruction of a warp, where an fma does 32. ldmatrix brings operands from shared memory in the
//            layout that mma wants. Rows 64 bytes apart meet in the same banks, which costs four passes a load: rung 7 mends that
// Ladder     rung 6 of 9. Next: MatMul7Swizzle

using ILGPU;

namespace IlgpuPeft.Kernels;

static class MatMul6TensorCores
{
    public static void Run(KernelDevice device, MatMulProblem problem) => device.Launch(
        Kernel, new LaunchShape(new Index3D(problem.Size / WarpStep.Columns, problem.Size / WarpStep.Rows, 1), WarpStep.Threads),
        device.Buffers.View<Word4>(problem.HalfA), device.Buffers.View<Word4>(problem.HalfB), device.Buffers.View<float>(problem.C), problem.Size);

    static void Kernel(ArrayView<Word4> a, ArrayView<Word4> b, ArrayView<float> c, int n)
    {
        var tiles = SharedMemory.Allocate<Word4>(WarpStep.Words);
        uint address = Intrinsics.SharedAddress(ref tiles[0]);
        int t = Group.IdxX, lane = t % 32, warp = t / 32, perRow = n / WarpStep.Chunk;
        int row = Grid.IdxY * WarpStep.Rows, column = Grid.IdxX * WarpStep.Columns;
        int tileRow = t / WarpStep.Chunks, chunk = t % WarpStep.Chunks; // of what this thread copies
        WarpSums sums = default;
        for (int k0 = 0; k0 < n; k0 += WarpStep.Depth)
        {
            tiles[Place(tileRow, chunk)] = a[(row + tileRow) * perRow + k0 / WarpStep.Chunk + chunk];
            tiles[Place(tileRow + 32, chunk)] = a[(row + tileRow + 32) * perRow + k0 / WarpStep.Chunk + chunk];
            tiles[Place(WarpStep.Rows + tileRow, chunk)] = b[(k0 + tileRow) * perRow + column / WarpStep.Chunk + chunk];
            Group.Barrier(); // the tiles are whole before anyone reads them
            int left = warp / 2 * 32 + lane % 16;
            for (int k = 0; k < WarpStep.Depth; k += 16)
            {
                int step = k / WarpStep.Chunk + lane / 16;
                sums = WarpStep.MultiplyAdd(sums, At(address, left, step), At(address, left + 16, step), At(address, WarpStep.Rows + k + lane % 16, warp % 2 * 2 + lane / 16));
            }

            Group.Barrier(); // everyone has read them before they are overwritten
        }

        WarpStep.Store(c, row + warp / 2 * 32, column + warp % 2 * 16, n, sums);
    }

    static int Place(int row, int chunk) => row * WarpStep.Chunks + chunk;

    static uint At(uint address, int row, int chunk) => address + (uint)(16 * Place(row, chunk));
}
