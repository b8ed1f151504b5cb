using System.Numerics;

namespace IlgpuPeft.Kernels;

static class CrossEntropy
{
    public static void Run<T>(Slice hidden, Weight head, Slice targets, double temperature, Slice logprobs, Slice entropy, Slice coefficients, Slice dHidden, Slice dHead) where T : unmanaged, IBinaryFloatingPointIeee754<T> =>
        throw new NotSupportedException("TokenLogProbs: not written yet.");
}
