using System.Numerics;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The case of one query and a cache of keys: bound by the bytes of the cache. A part of the keys is read in memory order for all heads together,
/// and the parts are joined in order. Header in Attention.cs.
/// </summary>
static unsafe partial class Attention
{
    /// <summary>Keys of one task; fixed, so that the sums do not depend on the number of threads.</summary>
    const int PartKeys = 4 * KeyBlock;

    static void Decode<T>(AttentionShape shape, ReadOnlySpan<Sequence> table, T* q, T* k, T* v, T* y, T* lse) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int parts = 0;
        foreach (var sequence in table)
        {
            parts = Math.Max(parts, Parts(shape, sequence));
        }

        if (parts == 0)
        {
            return;
        }

        T* partial = Scratch.Get<T>(ScratchSlot.AttentionParts, (long)table.Length * parts * shape.Heads * (Tile<T>.Pad(shape.HeadWidth) + 2));
        fixed (Sequence* sequences = table)
        {
            Workers.Run(table.Length * parts, new PartJob<T>(shape, sequences, parts, q, k, v, partial));
            Workers.Run(table.Length, new JoinJob<T>(shape, sequences, parts, partial, y, lse));
        }
    }

    static int Parts(AttentionShape shape, Sequence sequence) =>
        sequence.Queries == 1 ? (sequence.Keys - sequence.First(0, shape.Window) + PartKeys - 1) / PartKeys : 0;

    /// <summary>What a part leaves for each head: sums [H, C padded], then maxima [H], then totals [H].</summary>
    readonly struct Part<T>(AttentionShape shape, T* partial, int index) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public int Padded { get; } = Tile<T>.Pad(shape.HeadWidth);

        public T* Sums => partial + (long)index * shape.Heads * (Padded + 2);

        public T* Maxima => Sums + shape.Heads * Padded;

        public T* Totals => Maxima + shape.Heads;
    }

    readonly struct PartJob<T>(AttentionShape shape, Sequence* sequences, int parts, T* q, T* k, T* v, T* partial) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var sequence = sequences[index / parts];
            if (index % parts >= Parts(shape, sequence))
            {
                return;
            }

            var part = new Part<T>(shape, partial, index);
            int width = shape.HeadWidth, heads = shape.Heads, group = heads / shape.KeyValueHeads, padded = part.Padded;
            T* sums = part.Sums, maxima = part.Maxima, totals = part.Totals, query = q + (nint)sequence.Query * heads * width;
            new Span<T>(sums, heads * padded).Clear();
            new Span<T>(maxima, heads).Fill(T.NegativeInfinity);
            new Span<T>(totals, heads).Clear();

            T* scores = Scratch.Get<T>(ScratchSlot.Attention, heads * KeyBlock); // [H, keys]
            nint stride = (nint)shape.KeyValueHeads * width;
            int first = sequence.First(0, shape.Window) + index % parts * PartKeys, end = Math.Min(first + PartKeys, sequence.Keys);
            for (int start = first; start < end; start += KeyBlock)
            {
                int keys = Math.Min(KeyBlock, end - start);
                T* key = k + (sequence.Key + start) * stride, value = v + (sequence.Key + start) * stride;
                for (int j = 0; j < keys; j++, key += stride)
                {
                    for (int head = 0; head < heads; head++)
                    {
                        scores[head * KeyBlock + j] = Lanes<T>.Dot(query + head * width, key + head / group * width, width);
                    }
                }

                for (int head = 0; head < heads; head++)
                {
                    Softmax(shape, sequence, 0, 1, start, keys, scores + head * KeyBlock, sums + head * padded, maxima + head, totals + head);
                }

                for (int j = 0; j < keys; j++, value += stride)
                {
                    for (int head = 0; head < heads; head++)
                    {
                        Lanes<T>.AddScaled(value + head / group * width, width, scores[head * KeyBlock + j], sums + head * padded);
                    }
                }
            }
        }
    }

    readonly struct JoinJob<T>(AttentionShape shape, Sequence* sequences, int parts, T* partial, T* y, T* lse) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var sequence = sequences[index];
            int count = Parts(shape, sequence);
            for (int head = 0; head < shape.Heads && count > 0; head++)
            {
                var maximum = T.NegativeInfinity;
                for (int i = 0; i < count; i++)
                {
                    maximum = T.Max(maximum, new Part<T>(shape, partial, index * parts + i).Maxima[head]);
                }

                // The first part becomes the sum.
                var first = new Part<T>(shape, partial, index * parts);
                T* sums = first.Sums + head * first.Padded;
                var kept = T.Exp(first.Maxima[head] - maximum);
                var total = first.Totals[head] * kept;
                Lanes<T>.Scale(sums, shape.HeadWidth, kept, sums);
                for (int i = 1; i < count; i++)
                {
                    var part = new Part<T>(shape, partial, index * parts + i);
                    kept = T.Exp(part.Maxima[head] - maximum);
                    total += part.Totals[head] * kept;
                    Lanes<T>.AddScaled(part.Sums + head * part.Padded, shape.HeadWidth, kept, sums);
                }

                Write(shape, sequence.Query, head, sums, maximum, total, y, lse);
            }
        }
    }
}
