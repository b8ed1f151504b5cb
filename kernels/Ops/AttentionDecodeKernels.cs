// Attention on devices where queries are few and keys many, as in decoding with a cache: the keys are split among groups.
//
// Maths      each part of the keys leaves its own output yₚ and lseₚ; y = Σₚ wₚ·yₚ / Σₚ wₚ, wₚ = exp(lseₚ − max lse), lse = max lse + ln Σₚ wₚ
// Shapes     as in AttentionKernels.cs; parts [P, N, H, C] f32 and [P, N, H] f32
// Launch     the tiles of AttentionKernels.cs times P, then groups of 256: half a warp joins the parts of one head of a query. How many keys a sequence has is known on the
//            device alone: a group takes its share of them, and those without one leave at once
// Floor      bytes of k and v once, which the H/G heads of a group share, plus 8·C bytes a head and part; bound by memory
// Numerics   parts are joined in their order, and their number follows from the shapes: runs repeat bit for bit
// Source     Dao et al. 2023, "Flash-Decoding for long-context inference"

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class AttentionDecodeKernels
{
    /// <summary>Groups that occupy a large GPU several times over. A constant: what a run computes must not depend on the device it runs on.</summary>
    const int Groups = 1024;

    /// <summary>Keys of a part at least, where there are so many: so that what parts leave are few bytes beside the keys and values.</summary>
    const int PartKeys = 2 * AttentionTile.Columns;

    const int Threads = 256;

    /// <summary>Into how many parts the keys are split: one, unless tiles are too few for a device and keys outnumber queries, as those of a cache do.</summary>
    public static int Parts(AttentionShape shape, Slice q, Slice k, Slice sequences)
    {
        long queryRows = q.Length / shape.Heads / shape.HeadWidth, keyRows = k.Length / shape.KeyValueHeads / shape.HeadWidth;
        long rows = queryRows * (shape.Heads / shape.KeyValueHeads);
        long groups = Math.Max(1, AttentionSequences.MaxTiles(rows, sequences.Length / 4, AttentionKernels.RowsOfTile(shape, q, sequences)) * (long)shape.KeyValueHeads);
        return keyRows < 2 * queryRows ? 1 : (int)Math.Clamp((keyRows + PartKeys - 1) / PartKeys, 1, (Groups + groups - 1) / groups);
    }

    /// <inheritdoc cref="Backend.AttentionForward" />
    public static void Forward<T>(KernelDevice device, ScratchBuffers scratch, AttentionShape shape, int parts, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
        where T : unmanaged, IElement<T>
    {
        Slice outputs = scratch.Get("attention parts", DType.F32, parts * q.Length), logs = scratch.Get("attention logs", DType.F32, parts * (q.Length / shape.HeadWidth));
        AttentionKernels.Launch<T, F32>(device, shape, parts, q, k, v, sequences, outputs, logs);
        var buffers = device.Buffers;
        device.Launch(JoinKernel, LaunchShape.Groups((q.Length / shape.HeadWidth * 16 + Threads - 1) / Threads, Threads), buffers.View<F32>(outputs), buffers.View<float>(logs),
            buffers.View<Attention.Sequence>(sequences), buffers.View<T>(y), buffers.View<float>(lse), parts, new AttentionSizes(shape, Quads.Fit(y, shape.HeadWidth)));
    }

    static void JoinKernel<T>(ArrayView<F32> outputs, ArrayView<float> logs, ArrayView<Attention.Sequence> table, ArrayView<T> y, ArrayView<float> lse, int parts, AttentionSizes sizes)
        where T : unmanaged, IElement<T>
    {
        long row = Grid.LongGlobalIndex.X / 16, rows = y.Length / sizes.Width; // a head of a query
        if (row >= rows)
        {
            return;
        }

        bool covered = AttentionSequences.Covers(table, row / sizes.Heads, false);
        float maximum = float.NegativeInfinity, total = 0;
        for (int i = 0; i < parts && covered; i++)
        {
            maximum = XMath.Max(maximum, logs[i * rows + row]);
        }

        for (int i = 0; i < parts && covered; i++)
        {
            total += XMath.Exp(logs[i * rows + row] - maximum);
        }

        if (lse.Length > 0 && Group.IdxX % 16 == 0)
        {
            lse[row] = covered ? maximum + XMath.Log(total) : 0;
        }

        for (int at = 4 * (Group.IdxX % 16); at < sizes.Width; at += AttentionTile.Columns)
        {
            Float4 sum = default;
            for (int i = 0; i < parts && covered; i++)
            {
                float weight = XMath.Exp(logs[i * rows + row] - maximum) / total;
                if (weight != 0)
                {
                    sum = AttentionTile.Add(sum, weight, AttentionTile.Read(outputs, (i * rows + row) * sizes.Width + at, sizes.Width - at, sizes));
                }
            }

            AttentionTile.Write(y, row * sizes.Width + at, sizes.Width - at, sum, sizes);
        }
    }
}
