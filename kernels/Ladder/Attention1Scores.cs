// Rung 1 of attention. Scores in memory, one kernel for each step of the formula.
//
// Maths      s[i, j] = scale·q[i]·k[j] for j ≤ i · p = softmax of each row · y[i] = Σ_j p[i, j]·v[j]     f32
// Launch     three kernels: N²/256 groups for the scores, N warps for the softmax, N·C/256 groups for the sums
// Idea       none: this is the formula. The N x N matrix is written once and read three times, which at 8,192 tokens is a gigabyte of traffic for each head
// Ladder     rung 1 of 4. Next: Attention2Online

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class Attention1Scores
{
    const int C = AttentionProblem.Width;

    public static void Run(KernelDevice device, AttentionProblem problem)
    {
        var buffers = device.Buffers;
        var scores = buffers.View<float>(problem.Scores);
        int n = problem.Tokens;
        device.Launch(Scores, LaunchShape.Over((long)n * n), buffers.View<float>(problem.Q), buffers.View<float>(problem.K), scores, n, AttentionProblem.Scale);
        device.Launch(Softmax, LaunchShape.Groups(n, 32), scores, n);
        device.Launch(Sums, LaunchShape.Over((long)n * C), scores, buffers.View<float>(problem.V), buffers.View<float>(problem.Y), n);
    }

    static void Scores(ArrayView<float> q, ArrayView<float> k, ArrayView<float> scores, int n, float scale)
    {
        int thread = Grid.GlobalIndex.X, i = thread / n, j = thread % n;
        if (i < n && j <= i)
        {
            float sum = 0;
            for (int c = 0; c < C; c++)
            {
                sum += q[i * C + c] * k[j * C + c];
            }

            scores[i * n + j] = scale * sum;
        }
    }

    static void Softmax(ArrayView<float> scores, int n)
    {
        int i = Grid.IdxX, lane = Group.IdxX;
        float maximum = float.NegativeInfinity, total = 0;
        for (int j = lane; j <= i; j += 32)
        {
            maximum = XMath.Max(maximum, scores[i * n + j]);
        }

        for (int distance = 16; distance > 0; distance /= 2)
        {
            maximum = XMath.Max(maximum, Warp.ShuffleXor(maximum, distance));
        }

        for (int j = lane; j <= i; j += 32)
        {
            float weight = XMath.Exp(scores[i * n + j] - maximum);
            scores[i * n + j] = weight;
            total += weight;
        }

        for (int distance = 16; distance > 0; distance /= 2)
        {
            total += Warp.ShuffleXor(total, distance);
        }

        for (int j = lane; j <= i; j += 32)
        {
            scores[i * n + j] /= total;
        }
    }

    static void Sums(ArrayView<float> p, ArrayView<float> v, ArrayView<float> y, int n)
    {
        int thread = Grid.GlobalIndex.X, i = thread / C, c = thread % C;
        if (i < n)
        {
            float sum = 0;
            for (int j = 0; j <= i; j++)
            {
                sum += p[i * n + j] * v[j * C + c];
            }

            y[i * C + c] = sum;
        }
    }
}
