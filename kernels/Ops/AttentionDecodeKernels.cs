// Attention on devices where queries are few and keys many, as in decoding with a cache: the keys are split among groups.
//
// Maths      each part of the keys leaves its own yₚ and lseₚ; y = Σₚ wₚ·yₚ / Σₚ wₚ, wₚ = exp(lseₚ − max lse), lse = max lse + ln Σₚ wₚ
// Shapes     as in AttentionKernels.cs; of P parts y [P, N, H, C] f32 and lse [P, N, H] f32
// Layout     as in AttentionKernels.cs
// Launch     the grid of AttentionKernels.cs with P parts, then groups of 256: half a warp joins the parts of one head of a query. How many keys a sequence has is known on the
//            device alone: each group takes its share of them, and those without one leave at once
// Floor      bytes of k and v once: the H/G heads that share them are the rows of one tile. What parts leave comes to 4·H/(G·keys of a part) of that in f32; bound by memory
// Numerics   as in AttentionKernels.cs; parts are joined in their order, and their number follows from the shapes: runs repeat bit for bit
// Source     Dao, Haziza, Massa and Sizov 2023, "Flash-Decoding for long-context inference"

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class AttentionDecodeKernels
{
    /// <summary>Groups that occupy a large GPU several times over. A constant: what a run computes must not depend on the device it runs on.</summary>
    const int Groups = 1024;

    /// <summary>Keys of a part, where a sequence has them: enough that what a part leaves is little beside what it reads.</summary>
    const int PartKeys = 2 * AttentionProducts<Four>.Columns;

    const int Threads = 256;

    /// <summary>Into how many parts the keys are split: one, unless keys outnumber queries, as those of a cache do, and tiles are too few to occupy a device.</summary>
    public static int Parts(AttentionShape shape, Slice q, Slice k, Slice sequences)
    {
        var call = new AttentionCall(shape, q, k);
        int tileRows = AttentionKernels.HasFewRows(shape, q, sequences) ? AttentionProducts<Four>.Rows : AttentionProducts<Eight>.Rows;
        long groups = SequenceTile.Bound((long)call.Queries * call.HeadsPerGroup, tileRows, sequences.Length / 4) * shape.KeyValueHeads;
        return call.Keys < 2L * call.Queries ? 1 : (int)Math.Clamp((call.Keys + PartKeys - 1) / PartKeys, 1, (Groups + groups - 1) / groups);
    }

    /// <inheritdoc cref="Backend.AttentionForward" />
    public static void Forward<T>(KernelDevice device, ScratchBuffers scratch, AttentionShape shape, int parts, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
        where T : unmanaged, IElement<T>
    {
        long rows = q.Length / shape.HeadWidth; // heads of queries
        Slice outputs = scratch.Get("attention parts", DType.F32, parts * q.Length), logs = scratch.Get("attention parts' lse", DType.F32, parts * rows);
        AttentionKernels.Launch<T, F32>(device, shape, parts, q, k, v, sequences, outputs, logs);
        var buffers = device.Buffers;
        device.Launch(JoinKernel, LaunchShape.Groups((16 * rows + Threads - 1) / Threads, Threads), buffers.View<F32>(outputs), buffers.View<float>(logs), buffers.View<T>(y),
            buffers.View<float>(lse), parts, new HeadRows(shape.HeadWidth, outputs, y));
    }

    static void JoinKernel<T>(ArrayView<F32> outputs, ArrayView<float> logs, ArrayView<T> y, ArrayView<float> lse, int parts, HeadRows heads) where T : unmanaged, IElement<T>
    {
        long row = Grid.LongGlobalIndex.X / 16, rows = logs.Length / parts;
        int lane = Group.IdxX % 16;
        if (row >= rows)
        {
            return;
        }

        float maximum = float.NegativeInfinity, total = 0;
        for (int i = 0; i < parts; i++)
        {
            maximum = XMath.Max(maximum, logs[i * rows + row]);
        }

        bool covered = maximum != float.NegativeInfinity; // by a sequence
        for (int i = 0; i < parts && covered; i++)
        {
            total += XMath.Exp(logs[i * rows + row] - maximum);
        }

        if (lse.Length > 0 && lane == 0)
        {
            lse[row] = covered ? maximum + XMath.Log(total) : 0;
        }

        for (int column = 4 * lane; column < heads.Width; column += 64)
        {
            Float4 sum = default;
            for (int i = 0; i < parts && covered; i++)
            {
                float weight = XMath.Exp(logs[i * rows + row] - maximum) / total;
                if (weight != 0) // a part without keys has left nothing
                {
                    sum = Float4.AddScaled(sum, weight, heads.Read(outputs, (i * rows + row) * heads.Width, column));
                }
            }

            heads.Write(y, row * heads.Width, column, sum);
        }
    }
}
