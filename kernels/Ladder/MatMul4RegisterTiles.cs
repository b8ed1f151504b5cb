// Rung 4. A block of 4 x 4 elements in the registers of each thread.
//
// Maths      c[i, j] = Σ_k a[i, k]·b[k, j]     f32
// Layout     A's tile is stored transposed, [k, row], so that the four values of a column lie side by side
// Launch     (n/64)² groups of 256 threads, 64 x 64 elements of C each; tiles of 64 x 16 and 16 x 64 floats in shared memory
// Idea       8 values from shared memory feed 16 multiplies instead of 1: shared memory, not arithmetic, was what rung 3 waited for. Sixteen named sums: an array would
//            be indexed by a loop, which ILGPU does not unroll, and so live in local memory
// Ladder     rung 4 of 9. Next: MatMul5VectorLoads

using ILGPU;

namespace IlgpuPeft.Kernels;

static class MatMul4RegisterTiles
{
    const int Tile = 64, Depth = 16, Block = 4, Threads = 256;

    public static void Run(KernelDevice device, MatMulProblem problem) => device.Launch(
        Kernel, new LaunchShape(new Index3D(problem.Size / Tile, problem.Size / Tile, 1), Threads),
        device.Buffers.View<float>(problem.A), device.Buffers.View<float>(problem.B), device.Buffers.View<float>(problem.C), problem.Size);

    static void Kernel(ArrayView<float> a, ArrayView<float> b, ArrayView<float> c, int n)
    {
        var left = SharedMemory.Allocate<float>(Depth * Tile);
        var right = SharedMemory.Allocate<float>(Depth * Tile);
        int t = Group.IdxX, x = t % (Tile / Block) * Block, y = t / (Tile / Block) * Block;
        int row = Grid.IdxY * Tile, column = Grid.IdxX * Tile;
        Float4 c0 = default, c1 = default, c2 = default, c3 = default;
        for (int k0 = 0; k0 < n; k0 += Depth)
        {
            for (int i = t; i < Depth * Tile; i += Threads)
            {
                left[i % Depth * Tile + i / Depth] = a[(row + i / Depth) * n + k0 + i % Depth];
                right[i] = b[(k0 + i / Tile) * n + column + i % Tile];
            }

            Group.Barrier(); // the tiles are whole before anyone reads them
            for (int k = 0; k < Depth; k++)
            {
                int l = k * Tile + y, r = k * Tile + x;
                Float4 values = new() { X = right[r], Y = right[r + 1], Z = right[r + 2], W = right[r + 3] };
                c0 = MultiplyAdd(c0, left[l], values);
                c1 = MultiplyAdd(c1, left[l + 1], values);
                c2 = MultiplyAdd(c2, left[l + 2], values);
                c3 = MultiplyAdd(c3, left[l + 3], values);
            }

            Group.Barrier(); // everyone has read them before they are overwritten
        }

        int at = (row + y) * n + column + x;
        Store(c, at, c0);
        Store(c, at + n, c1);
        Store(c, at + 2 * n, c2);
        Store(c, at + 3 * n, c3);
    }

    static Float4 MultiplyAdd(Float4 sum, float a, Float4 b) => new() { X = sum.X + a * b.X, Y = sum.Y + a * b.Y, Z = sum.Z + a * b.Z, W = sum.W + a * b.W };

    static void Store(ArrayView<float> c, int at, Float4 values)
    {
        c[at] = values.X;
        c[at + 1] = values.Y;
        c[at + 2] = values.Z;
        c[at + 3] = values.W;
    }
}
