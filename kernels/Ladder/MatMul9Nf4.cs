// Rung 9. B in 4 bits, decoded on its way into shared memory.
//
// Maths      c[i, j] = Σ_k a[i, k]·code[q[k, j]]·scale[(k·n + j) / 64]     operands of the multiply bfloat16, sums f32
// Layout     tiles as rung 7; the 16 code values in shared memory, one in a bank each. Byte i of B holds elements 2i (high nibble) and 2i + 1
// Launch     as rung 8: A comes by cp.async three stages deep; B's next tile is read into a register while this one is multiplied, and decoded after it
// Idea       a quarter of rung 8's bytes for B, for some integer arithmetic between copy and multiply. Worth it where each tile of B is decoded few times: for many rows of A it is
//            better to decode B once into bfloat16 that stays in the L2 cache
// Ladder     rung 9 of 9. From here: Ops/TensorCoreMatMul.cs, the same ideas for any shape, with larger tiles

using ILGPU;

namespace IlgpuPeft.Kernels;

static class MatMul9Nf4
{
    const int Stages = 3;

    public static void Run(KernelDevice device, MatMulProblem problem) => device.Launch(
        Kernel, new LaunchShape(new Index3D(problem.Size / WarpStep.Columns, problem.Size / WarpStep.Rows, 1), WarpStep.Threads, 16 * Stages * WarpStep.Words),
        device.Buffers.View<Word4>(problem.HalfA), device.Buffers.View<uint>(problem.Codes), device.Buffers.View<float>(problem.Scales), device.Buffers.View<float>(problem.C), problem.Size);

    static void Kernel(ArrayView<Word4> a, ArrayView<uint> codes, ArrayView<float> scales, ArrayView<float> c, int n)
    {
        var stages = SharedMemory.GetDynamic<Word4>();
        var table = SharedMemory.Allocate<float>(16);
        uint address = Intrinsics.SharedAddress(ref stages[0]);
        int t = Group.IdxX, lane = t % 32, warp = t / 32, tileRow = t / WarpStep.Chunks, chunk = t % WarpStep.Chunks;
        int row = Grid.IdxY * WarpStep.Rows, column = Grid.IdxX * WarpStep.Columns;
        Nf4View.Prepare(table);
        Group.Barrier(); // the table is whole before anyone decodes
        for (int stage = 0; stage < Stages - 1; stage++)
        {
            CopyLeft(a, Stage(address, stage), row, stage * WarpStep.Depth, n);
        }

        int first = tileRow * n + column + chunk * WarpStep.Chunk; // element of B that this thread's chunk begins with, in step 0
        stages[Word(0, tileRow, chunk)] = Decode(table, codes[first / 8], scales[first / 64]);
        WarpSums sums = default;
        for (int step = 0; step * WarpStep.Depth < n; step++)
        {
            Intrinsics.CopyAsyncWait(Stages - 2);
            Group.Barrier(); // A by copy and B by store are there for every thread, and all have read what is overwritten now
            CopyLeft(a, Stage(address, step + Stages - 1), row, (step + Stages - 1) * WarpStep.Depth, n);
            int next = (step + 1) * WarpStep.Depth < n ? first + (step + 1) * WarpStep.Depth * n : first;
            uint code = codes[next / 8];
            float scale = scales[next / 64];
            uint tiles = Stage(address, step);
            int left = warp / 2 * 32 + lane % 16;
            for (int k = 0; k < WarpStep.Depth; k += 16)
            {
                int place = k / WarpStep.Chunk + lane / 16;
                sums = WarpStep.MultiplyAdd(sums, MatMul7Swizzle.At(tiles, left, place), MatMul7Swizzle.At(tiles, left + 16, place),
                    MatMul7Swizzle.At(tiles, WarpStep.Rows + k + lane % 16, warp % 2 * 2 + lane / 16));
            }

            stages[Word(step + 1, tileRow, chunk)] = Decode(table, code, scale); // read two steps ago; past the last step never read
        }

        WarpStep.Store(c, row + warp / 2 * 32, column + warp % 2 * 16, n, sums);
    }

    static uint Stage(uint address, int step) => address + (uint)(step % Stages * 16 * WarpStep.Words);

    static int Word(int step, int tileRow, int chunk) => step % Stages * WarpStep.Words + MatMul7Swizzle.Place(WarpStep.Rows + tileRow, chunk);

    static void CopyLeft(ArrayView<Word4> a, uint tiles, int row, int k0, int n)
    {
        int tileRow = Group.IdxX / WarpStep.Chunks, chunk = Group.IdxX % WarpStep.Chunks, perRow = n / WarpStep.Chunk;
        if (k0 < n)
        {
            int left = (row + tileRow) * perRow + k0 / WarpStep.Chunk + chunk;
            Intrinsics.CopyAsync16(MatMul7Swizzle.At(tiles, tileRow, chunk), ref a[left], 16);
            Intrinsics.CopyAsync16(MatMul7Swizzle.At(tiles, tileRow + 32, chunk), ref a[left + 32 * perRow], 16);
        }

        Intrinsics.CopyAsyncCommit();
    }

    /// <summary>Eight codes of one block as eight bfloat16 values.</summary>
    static Word4 Decode(ArrayView<float> table, uint codes, float scale) => new()
    {
        X = Pair(table, codes, scale),
        Y = Pair(table, codes >> 8, scale),
        Z = Pair(table, codes >> 16, scale),
        W = Pair(table, codes >> 24, scale),
    };

    static uint Pair(ArrayView<float> table, uint codes, float scale) => Intrinsics.PackBf16(table[(int)(codes >> 4 & 15)] * scale, table[(int)(codes & 15)] * scale);
}
