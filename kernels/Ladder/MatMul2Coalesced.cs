// Rung 2. The same work, with neighbours in a row.
//
// Maths      c[i, j] = Σ_k a[i, k]·b[k, j]     f32
// Launch     n²/256 groups of 256; thread t of the grid owns row t / n, column t mod n
// Idea       a warp's 32 lanes read 32 neighbouring elements of b: 4 sectors of 32 bytes instead of 32. All read the same element of a, which is one sector
// Ladder     rung 2 of 9. Next: MatMul3SharedTiles

using ILGPU;

namespace IlgpuPeft.Kernels;

static class MatMul2Coalesced
{
    public static void Run(KernelDevice device, MatMulProblem problem) => device.Launch(
        Kernel, LaunchShape.Over((long)problem.Size * problem.Size), device.Buffers.View<float>(problem.A), device.Buffers.View<float>(problem.B), device.Buffers.View<float>(problem.C), problem.Size);

    static void Kernel(ArrayView<float> a, ArrayView<float> b, ArrayView<float> c, int n)
    {
        int thread = Grid.GlobalIndex.X, row = thread / n, column = thread % n;
        float sum = 0;
        for (int k = 0; k < n; k++)
        {
            sum += a[row * n + k] * b[k * n + column];
        }

        c[row * n + column] = sum;
    }
}
