// Rung 1. One thread for each element of C, neighbours in a column.
//
// Maths      c[i, j] = Σ_k a[i, k]·b[k, j]     f32
// Launch     n²/256 groups of 256; thread t of the grid owns row t mod n, column t / n
// Idea       none: this is the formula. Neighbouring threads read and write n elements apart, so each lane of a warp touches a 32-byte sector of its own
// Ladder     rung 1 of 9. Next: MatMul2Coalesced

using ILGPU;

namespace IlgpuPeft.Kernels;

static class MatMul1Naive
{
    public static void Run(KernelDevice device, MatMulProblem problem) => device.Launch(
        Kernel, LaunchShape.Over((long)problem.Size * problem.Size), device.Buffers.View<float>(problem.A), device.Buffers.View<float>(problem.B), device.Buffers.View<float>(problem.C), problem.Size);

    static void Kernel(ArrayView<float> a, ArrayView<float> b, ArrayView<float> c, int n)
    {
        int thread = Grid.GlobalIndex.X, row = thread % n, column = thread / n;
        float sum = 0;
        for (int k = 0; k < n; k++)
        {
            sum += a[row * n + k] * b[k * n + column];
        }

        c[row * n + column] = sum;
    }
}
