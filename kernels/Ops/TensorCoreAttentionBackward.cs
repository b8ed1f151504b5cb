// Gradients of attention on tensor cores. Sequences, masks and windows are those of Attention.cs.
//
// Maths      D = Σ_c dy·y (a kernel of its own) · P = 2^(f·S − lse·log₂e) · dP = dY·Vᵀ · dS = P·(dP − D) · dq = scale·dS·K · dk = scale·dSᵀ·Q · dv = Pᵀ·dY,
//            with S = Q·Kᵀ and f = scale·log₂e. Products of bfloat16, sums in f32; P and dS are rounded to bfloat16 as operands
// Shapes     dy, q, y, dq [N, H, C] bf16 · k, v, dk, dv [M, G, C] bf16 · sequences [S, 4] i32 · lse [N, H] f32. C as in TensorCoreAttention.cs
// Layout     row-major; moved in chunks of 16 bytes where C is a multiple of 8 and slices are aligned to 16 bytes, else value by value
// Launch     D: 8 lanes a (query, head). dq: grid (tiles of queries, at most; H), group 128, loops over keys. dk and dv: grid (tiles of keys, at most; G), group 128, loops over the
//            queries of all heads of the group; it computes Sᵀ and dPᵀ, whose registers are the left operands of its next products, and for C > 128 takes two launches, one for each
//            gradient, since the sums of both do not fit the registers. A warp owns 16 or 32 rows, as registers allow: see the switch
//            Shared: two tiles of a group's rows, two stages of two tiles of what it loops over: 49 KB for C = 64, 96.5 KB and 64.5 KB for C = 128, 96.5 KB for C = 256
// Floor      flops 10·C per visible (query, key, head), here 14·C (18·C for C > 128), since S and dP are computed for each kernel · bound by tensor cores
// Numerics   within 1e-2 of the f64 oracle; no atomics, runs repeat bit for bit
// Source     Dao 2023, arXiv:2307.08691 (FlashAttention-2), algorithm 2, with dq in a loop of its own

using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>The gradients of <see cref="Forward"/>.</summary>
static partial class TensorCoreAttention
{
    /// <inheritdoc cref="Backend.AttentionBackward" />
    public static void Backward(KernelDevice device, ScratchBuffers scratch, AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse,
        Slice dq, Slice dk, Slice dv)
    {
        var call = new AttentionCall(shape, q, k);
        long rows = (long)call.Queries * call.Heads;
        var sums = scratch.Get("attention backward", DType.F32, 2 * rows);
        var run = new BackwardRun(device, call, dy, q, k, v, sequences, y, lse, dq, dk, dv, sums.Range(0, rows), sums.Range(rows, rows));
        run.LaunchDelta();
        switch (shape.HeadWidth)
        {
            case <= 16:
                run.LaunchQueries<Floats16, Floats32, Float4>();
                run.LaunchKeys<Floats16, Floats32, Float4, KeysAndValues>();
                break;
            case <= 32:
                run.LaunchQueries<Floats32, Floats32, Float4>();
                run.LaunchKeys<Floats32, Floats32, Float4, KeysAndValues>();
                break;
            case <= 48:
                run.LaunchQueries<Floats48, Floats32, Float4>();
                run.LaunchKeys<Floats24, Floats32, Float2, KeysAndValues>();
                break;
            case <= 64:
                run.LaunchQueries<Floats64, Floats32, Float4>();
                run.LaunchKeys<Floats32, Floats32, Float2, KeysAndValues>();
                break;
            case <= 96:
                run.LaunchQueries<Floats48, Floats32, Float2>();
                run.LaunchKeys<Floats48, Floats16, Float2, KeysAndValues>();
                break;
            case <= 128:
                run.LaunchQueries<Floats64, Floats32, Float2>();
                run.LaunchKeys<Floats64, Floats16, Float2, KeysAndValues>();
                break;
            case <= 192:
                run.LaunchQueries<Floats96, Floats16, Float2>();
                run.LaunchKeys<Floats96, Floats16, Float2, KeysOnly>();
                run.LaunchKeys<Floats96, Floats16, Float2, ValuesOnly>();
                break;
            default:
                run.LaunchQueries<Floats128, Floats8, Float2>();
                run.LaunchKeys<Floats128, Floats8, Float2, KeysOnly>();
                run.LaunchKeys<Floats128, Floats8, Float2, ValuesOnly>();
                break;
        }
    }

    readonly record struct BackwardRun(KernelDevice Device, AttentionCall Call, Slice Dy, Slice Q, Slice K, Slice V, Slice Sequences, Slice Y, Slice Lse, Slice Dq, Slice Dk, Slice Dv,
        Slice Lse2, Slice Delta)
    {
        bool InChunks => ChunkCopy.Serves(Call.Width, Dy, Q, K, V, Y, Dq, Dk, Dv);

        public void LaunchDelta()
        {
            if (InChunks)
            {
                LaunchDelta<Word4, ChunkCopy>();
            }
            else
            {
                LaunchDelta<ushort, ElementCopy>();
            }
        }

        public void LaunchQueries<TOutput, TScores, TRows>() where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged
        {
            if (InChunks)
            {
                LaunchQueries<TOutput, TScores, TRows, Word4, ChunkCopy>();
            }
            else
            {
                LaunchQueries<TOutput, TScores, TRows, ushort, ElementCopy>();
            }
        }

        public void LaunchKeys<TOutput, TScores, TRows, TParts>()
            where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TParts : IGradients
        {
            if (InChunks)
            {
                LaunchKeys<TOutput, TScores, TRows, Word4, ChunkCopy, TParts>();
            }
            else
            {
                LaunchKeys<TOutput, TScores, TRows, ushort, ElementCopy, TParts>();
            }
        }

        void LaunchDelta<TUnit, TCopy>() where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
        {
            var buffers = Device.Buffers;
            Device.Launch(DeltaKernel<TUnit, TCopy>, LaunchShape.Over(8 * Delta.Length), buffers.View<TUnit>(Dy), buffers.View<TUnit>(Y), buffers.View<float>(Lse),
                buffers.View<float>(Lse2), buffers.View<float>(Delta), Call.Width);
        }

        void LaunchQueries<TOutput, TScores, TRows, TUnit, TCopy>()
            where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
        {
            var buffers = Device.Buffers;
            int width = AttentionWarp<TOutput, TScores, TRows>.Width, columns = AttentionWarp<TOutput, TScores, TRows>.Columns, rows = Warps * AttentionWarp<TOutput, TScores, TRows>.Rows;
            int tiles = checked((int)SequenceTile.Bound(Call.Queries, rows, Sequences.Length / 4));
            Device.Launch(QueryKernel<TOutput, TScores, TRows, TUnit, TCopy>,
                new LaunchShape(new Index3D(tiles, Call.Heads, 1), 32 * Warps, 4 * width * (rows + 2 * columns) + 8 * rows),
                buffers.View<TUnit>(Dy), buffers.View<TUnit>(Q), buffers.View<TUnit>(K), buffers.View<TUnit>(V), buffers.View<int>(Sequences), buffers.View<float>(Lse2),
                buffers.View<float>(Delta), buffers.View<TUnit>(Dq), Call);
        }

        void LaunchKeys<TOutput, TScores, TRows, TUnit, TCopy, TParts>()
            where TOutput : unmanaged where TScores : unmanaged where TRows : unmanaged where TUnit : unmanaged where TCopy : ITileCopy<TUnit> where TParts : IGradients
        {
            var buffers = Device.Buffers;
            int width = AttentionWarp<TOutput, TScores, TRows>.Width, columns = AttentionWarp<TOutput, TScores, TRows>.Columns, rows = Warps * AttentionWarp<TOutput, TScores, TRows>.Rows;
            int tiles = checked((int)SequenceTile.Bound(Call.Keys, rows, Sequences.Length / 4));
            Device.Launch(KeyKernel<TOutput, TScores, TRows, TUnit, TCopy, TParts>,
                new LaunchShape(new Index3D(tiles, Call.Heads / Call.HeadsPerGroup, 1), 32 * Warps, 4 * width * (rows + 2 * columns) + 16 * columns),
                buffers.View<TUnit>(Dy), buffers.View<TUnit>(Q), buffers.View<TUnit>(K), buffers.View<TUnit>(V), buffers.View<int>(Sequences), buffers.View<float>(Lse2),
                buffers.View<float>(Delta), buffers.View<TUnit>(Dk), buffers.View<TUnit>(Dv), Call);
        }
    }

    /// <summary>What both kernels need of each (query, head): lse·log₂e and D. Eight lanes share a row.</summary>
    static void DeltaKernel<TUnit, TCopy>(ArrayView<TUnit> dy, ArrayView<TUnit> y, ArrayView<float> lse, ArrayView<float> lse2, ArrayView<float> delta, int width)
        where TUnit : unmanaged where TCopy : ITileCopy<TUnit>
    {
        long row = Grid.LongGlobalIndex.X / 8;
        float sum = 0;
        if (row < delta.Length)
        {
            for (int column = SharedRows.Chunk * (Group.IdxX & 7); column < width; column += 8 * SharedRows.Chunk)
            {
                int count = IntrinsicMath.Min(width - column, SharedRows.Chunk);
                Word4 a = TCopy.Read(dy, row * width + column, count), b = TCopy.Read(y, row * width + column, count);
                sum += Dot(a.X, b.X) + Dot(a.Y, b.Y) + (Dot(a.Z, b.Z) + Dot(a.W, b.W));
            }
        }

        sum += Warp.ShuffleXor(sum, 4);
        sum += Warp.ShuffleXor(sum, 2);
        sum += Warp.ShuffleXor(sum, 1);
        if (row < delta.Length && (Group.IdxX & 7) == 0)
        {
            lse2[row] = lse[row] * Intrinsics.Log2E;
            delta[row] = sum;
        }
    }

    /// <summary>The products of two pairs of bfloat16 values, added.</summary>
    static float Dot(uint a, uint b) => Interop.IntAsFloat(a << 16) * Interop.IntAsFloat(b << 16) + Interop.IntAsFloat(a & 0xFFFF0000) * Interop.IntAsFloat(b & 0xFFFF0000);
}
