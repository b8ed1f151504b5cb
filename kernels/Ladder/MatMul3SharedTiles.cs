// Rung 3. Tiles of A and B that a whole group reads from shared memory.
//
// Maths      c[i, j] = Σ_k a[i, k]·b[k, j]     f32
// Launch     (n/16)² groups of 256 threads, 16 x 16 elements of C each; two tiles of 16 x 16 floats in shared memory
// Idea       every element that a group needs comes from global memory once and is used by 16 threads: a sixteenth of rung 2's loads
// Ladder     rung 3 of 9. Next: MatMul4RegisterTiles

using ILGPU;

namespace IlgpuPeft.Kernels;

static class MatMul3SharedTiles
{
    const int Tile = 16;

    public static void Run(KernelDevice device, MatMulProblem problem) => device.Launch(
        Kernel, new LaunchShape(new Index3D(problem.Size / Tile, problem.Size / Tile, 1), Tile * Tile),
        device.Buffers.View<float>(problem.A), device.Buffers.View<float>(problem.B), device.Buffers.View<float>(problem.C), problem.Size);

    static void Kernel(ArrayView<float> a, ArrayView<float> b, ArrayView<float> c, int n)
    {
        var left = SharedMemory.Allocate<float>(Tile * Tile);
        var right = SharedMemory.Allocate<float>(Tile * Tile);
        int x = Group.IdxX % Tile, y = Group.IdxX / Tile;
        int row = Grid.IdxY * Tile + y, column = Grid.IdxX * Tile + x;
        float sum = 0;
        for (int k0 = 0; k0 < n; k0 += Tile)
        {
            left[y * Tile + x] = a[row * n + k0 + x];
            right[y * Tile + x] = b[(k0 + y) * n + column];
            Group.Barrier(); // the tiles are whole before anyone reads them
            for (int k = 0; k < Tile; k++)
            {
                sum += left[y * Tile + k] * right[k * Tile + x];
            }

            Group.Barrier(); // everyone has read them before they are overwritten
        }

        c[row * n + column] = sum;
    }
}
