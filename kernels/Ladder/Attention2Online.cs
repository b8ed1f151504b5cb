// Rung 2 of attention. One walk over the keys, which carries maximum and total along.
//
// Maths      m' = max(m, s) · r = e^(m − m') · total' = total·r + e^(s − m') · y' = y·r + e^(s − m')·v[j], from m = −∞; at the end y / total     f32
// Launch     N warps in groups of 8; a warp owns a query, a lane one column of its output
// Idea       a softmax can be corrected as it goes: when a larger score turns up, what was summed so far shrinks by e^(m − m'). No score is ever stored. Each warp still reads all keys
//            and values itself, N times in all
// Source     Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135
// Ladder     rung 2 of 4. Next: Ops/AttentionKernels.cs, where a tile of queries shares what it reads

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class Attention2Online
{
    const int C = AttentionProblem.Width, Warps = 8;

    public static void Run(KernelDevice device, AttentionProblem problem)
    {
        var buffers = device.Buffers;
        device.Launch(Kernel, LaunchShape.Groups((problem.Tokens + Warps - 1) / Warps, 32 * Warps),
            buffers.View<float>(problem.Q), buffers.View<float>(problem.K), buffers.View<float>(problem.V), buffers.View<float>(problem.Y), problem.Tokens, AttentionProblem.Scale);
    }

    static void Kernel(ArrayView<float> q, ArrayView<float> k, ArrayView<float> v, ArrayView<float> y, int n, float scale)
    {
        int i = Grid.IdxX * Warps + Group.IdxX / 32, c = Group.IdxX % 32;
        if (i >= n)
        {
            return;
        }

        float query = scale * q[i * C + c], maximum = float.NegativeInfinity, total = 0, sum = 0;
        for (int j = 0; j <= i; j++)
        {
            float score = query * k[j * C + c];
            for (int distance = 16; distance > 0; distance /= 2)
            {
                score += Warp.ShuffleXor(score, distance);
            }

            float larger = XMath.Max(maximum, score), kept = XMath.Exp(maximum - larger), weight = XMath.Exp(score - larger);
            total = total * kept + weight;
            sum = sum * kept + weight * v[j * C + c];
            maximum = larger;
        }

        y[i * C + c] = sum / total;
    }
}
