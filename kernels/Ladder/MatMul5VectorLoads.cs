// Rung 5. Four floats in one access.
//
// Maths      c[i, j] = Σ_k a[i, k]·b[k, j]     f32
// Layout     as rung 4; every row starts at a multiple of 16 bytes
// Launch     (n/64)² groups of 256 threads, 64 x 64 elements of C each; tiles of 64 x 16 and 16 x 64 floats in shared memory
// Idea       ld.global.v4, ld.shared.v4 and st.global.v4 move 16 bytes a lane: a quarter of the memory instructions for the same bytes
// Ladder     rung 5 of 9. Next: MatMul6TensorCores

using ILGPU;

namespace IlgpuPeft.Kernels;

static class MatMul5VectorLoads
{
    const int Tile = 64, Depth = 16, Block = 4, Threads = 256;

    public static void Run(KernelDevice device, MatMulProblem problem) => device.Launch(
        Kernel, new LaunchShape(new Index3D(problem.Size / Tile, problem.Size / Tile, 1), Threads),
        device.Buffers.View<Float4>(problem.A), device.Buffers.View<Float4>(problem.B), device.Buffers.View<Float4>(problem.C), problem.Size / 4);

    static void Kernel(ArrayView<Float4> a, ArrayView<Float4> b, ArrayView<Float4> c, int quads)
    {
        var left = SharedMemory.Allocate<Float4>(Depth * Tile / 4);
        var right = SharedMemory.Allocate<Float4>(Depth * Tile / 4);
        var leftFloats = left.Cast<float>();
        int t = Group.IdxX, x = t % (Tile / Block), y = t / (Tile / Block);
        int row = Grid.IdxY * Tile, column = Grid.IdxX * Tile / 4;
        int loadRow = t / (Depth / 4), loadQuad = t % (Depth / 4); // of A's tile: 64 rows of 4 quads
        Float4 c0 = default, c1 = default, c2 = default, c3 = default;
        for (int k0 = 0; k0 < quads; k0 += Depth / 4)
        {
            var four = a[(row + loadRow) * quads + k0 + loadQuad];
            int at = loadQuad * 4 * Tile + loadRow;
            leftFloats[at] = four.X;
            leftFloats[at + Tile] = four.Y;
            leftFloats[at + 2 * Tile] = four.Z;
            leftFloats[at + 3 * Tile] = four.W;
            right[t] = b[(k0 * 4 + t / (Tile / 4)) * quads + column + t % (Tile / 4)];
            Group.Barrier(); // the tiles are whole before anyone reads them
            for (int k = 0; k < Depth; k++)
            {
                Float4 l = left[k * Tile / 4 + y], r = right[k * Tile / 4 + x];
                c0 = MultiplyAdd(c0, l.X, r);
                c1 = MultiplyAdd(c1, l.Y, r);
                c2 = MultiplyAdd(c2, l.Z, r);
                c3 = MultiplyAdd(c3, l.W, r);
            }

            Group.Barrier(); // everyone has read them before they are overwritten
        }

        int result = (row + y * Block) * quads + column + x;
        c[result] = c0;
        c[result + quads] = c1;
        c[result + 2 * quads] = c2;
        c[result + 3 * quads] = c3;
    }

    static Float4 MultiplyAdd(Float4 sum, float a, Float4 b) => new() { X = sum.X + a * b.X, Y = sum.Y + a * b.Y, Z = sum.Z + a * b.Z, W = sum.W + a * b.W };
}
