using System.Numerics;

namespace IlgpuPeft.Kernels;

static class Sampler
{
    public static void Draw<T>(Slice logits, int rows, Sampling sampling, RandomKey key, Slice ids, Slice logprobs) where T : unmanaged, IBinaryFloatingPointIeee754<T> =>
        throw new NotSupportedException("Sample: not written yet.");
}
