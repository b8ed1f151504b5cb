using System.Numerics;

namespace IlgpuPeft.Kernels;

static class Attention
{
    public static void Forward<T>(AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse) where T : unmanaged, IBinaryFloatingPointIeee754<T> =>
        throw new NotSupportedException("AttentionForward: not written yet.");

    public static void Backward<T>(AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse, Slice dq, Slice dk, Slice dv) where T : unmanaged, IBinaryFloatingPointIeee754<T> =>
        throw new NotSupportedException("AttentionBackward: not written yet.");
}
