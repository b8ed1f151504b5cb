using System.Numerics;

namespace IlgpuPeft.Kernels;

/// <summary>The gradients of <see cref="Attention"/>: header in Attention.cs.</summary>
static unsafe partial class Attention
{
    /// <summary>Queries per tile of the backward pass: deep enough for the sums over queries, while five operands still fit the cache.</summary>
    const int BackwardStrip = 48;

    /// <inheritdoc cref="Backend.AttentionBackward" />
    public static void Backward<T>(AttentionShape shape, Slice dy, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse, Slice dq, Slice dk, Slice dv)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        var (queryRows, keyRows) = Check<T>("AttentionBackward", shape, q, k, v, sequences);
        foreach (var (name, slice, length) in (ReadOnlySpan<(string, Slice, long)>)[(nameof(dy), dy, q.Length), (nameof(y), y, q.Length), (nameof(lse), lse, queryRows * shape.Heads),
            (nameof(dq), dq, q.Length), (nameof(dk), dk, k.Length), (nameof(dv), dv, k.Length)])
        {
            Expect.Element<T>("AttentionBackward", name, slice);
            Expect.Length("AttentionBackward", name, slice, length);
        }

        var table = new ReadOnlySpan<Sequence>((void*)sequences.Address, (int)(sequences.Length / 4));
        Check("AttentionBackward", table, queryRows, keyRows, true);
        new Span<byte>((void*)dq.Address, checked((int)dq.Bytes)).Clear();
        new Span<byte>((void*)dk.Address, checked((int)dk.Bytes)).Clear();
        new Span<byte>((void*)dv.Address, checked((int)dv.Bytes)).Clear();

        // Each query head has its own gradients of keys and values, so that heads of a group run at once; with one head per group they are the result.
        int group = shape.Heads / shape.KeyValueHeads;
        long expanded = keyRows * shape.Heads * shape.HeadWidth;
        T* keyGradients = group == 1 ? dk.Pointer<T>() : Scratch.Get<T>(ScratchSlot.HeadGradients, 2 * expanded);
        T* valueGradients = group == 1 ? dv.Pointer<T>() : keyGradients + expanded;
        Workers.Run(table.Length * shape.Heads, new BackwardJob<T>(shape, (Sequence*)sequences.Address, dy.Pointer<T>(), q.Pointer<T>(), k.Pointer<T>(), v.Pointer<T>(),
            y.Pointer<T>(), lse.Pointer<T>(), dq.Pointer<T>(), keyGradients, valueGradients));
        if (group > 1)
        {
            Workers.Run(table.Length * shape.KeyValueHeads, new GroupSumJob<T>(shape, (Sequence*)sequences.Address, keyGradients, valueGradients, dk.Pointer<T>(), dv.Pointer<T>()));
        }
    }

    readonly struct BackwardJob<T>(AttentionShape shape, Sequence* sequences, T* dy, T* q, T* k, T* v, T* y, T* lse, T* dq, T* dk, T* dv) : IJob
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        readonly int width = shape.HeadWidth;
        readonly nint queryStride = shape.Heads * (nint)shape.HeadWidth;
        readonly nint keyStride = shape.KeyValueHeads * (nint)shape.HeadWidth;

        public void Run(int index)
        {
            (index, int head) = Math.DivRem(index, shape.Heads);
            var sequence = sequences[index];
            int padded = Tile<T>.Pad(width), queries = (sequence.Queries + BackwardStrip - 1) / BackwardStrip * BackwardStrip;
            int tile = BackwardStrip * KeyBlock, keyTile = KeyBlock * padded, queryTile = BackwardStrip * padded;
            T* scores = Scratch.Get<T>(ScratchSlot.Attention, 2L * tile + 5L * keyTile + 2L * queryTile + (long)queries * (padded + 1));
            T* gradients = scores + tile;              // dP, then dS
            T* keysTransposed = gradients + tile;      // kᵀ: [C, keys]
            T* valuesTransposed = keysTransposed + keyTile;
            T* keyPanels = valuesTransposed + keyTile; // k: [keys, C]
            T* keySums = keyPanels + keyTile;          // dk of the block
            T* valueSums = keySums + keyTile;          // dv of the block
            T* queryPanels = valueSums + keyTile;      // q: [strip, C]
            T* outputPanels = queryPanels + queryTile; // dy: [strip, C]
            T* querySums = outputPanels + queryTile;   // dq: [queries, C]
            T* products = querySums + (long)queries * padded; // D: [queries]
            new Span<T>(querySums, queries * padded).Clear();
            nint start = sequence.Query * queryStride + head * width;
            for (int i = 0; i < sequence.Queries; i++)
            {
                products[i] = Lanes<T>.Dot(dy + start + i * queryStride, y + start + i * queryStride, width);
            }

            var scale = T.CreateTruncating(shape.Scale);
            int keyHead = head / (shape.Heads / shape.KeyValueHeads);
            for (int key = 0; key < sequence.Keys; key += KeyBlock)
            {
                int keys = Math.Min(KeyBlock, sequence.Keys - key);
                nint at = (nint)(sequence.Key + key) * keyStride + keyHead * width;
                Tile<T>.PackTransposed(k + at, keyStride, keys, width, keysTransposed);
                Tile<T>.PackTransposed(v + at, keyStride, keys, width, valuesTransposed);
                Tile<T>.Pack(k + at, keyStride, keys, width, keyPanels);
                new Span<T>(keySums, 2 * keyTile).Clear();

                int from = Math.Max(0, key - sequence.Offset) / BackwardStrip * BackwardStrip;
                int to = shape.Window == 0 ? sequence.Queries : (int)Math.Min(sequence.Queries, (long)key + keys - 1 + shape.Window - sequence.Offset);
                for (int query = from; query < to; query += BackwardStrip)
                {
                    // Whole register blocks of keys: their sums must not take in the rows past the end of a product.
                    int strip = Math.Min(BackwardStrip, sequence.Queries - query);
                    int seen = Math.Min(keys, (sequence.Offset + query + strip - key + Tile<T>.Rows - 1) / Tile<T>.Rows * Tile<T>.Rows);
                    T* rows = q + start + query * queryStride, outputs = dy + start + query * queryStride;
                    Tile<T>.Multiply(strip, seen, width, rows, queryStride, 1, keysTransposed, width, scores, KeyBlock, false);
                    Tile<T>.Multiply(strip, seen, width, outputs, queryStride, 1, valuesTransposed, width, gradients, KeyBlock, false);
                    T* logs = lse + (nint)(sequence.Query + query) * shape.Heads + head;
                    for (int i = 0; i < strip; i++)
                    {
                        int first = Math.Clamp(sequence.First(query + i, shape.Window) - key, 0, seen);
                        int end = Math.Clamp(sequence.Offset + query + i + 1 - key, first, seen);
                        T* probabilities = scores + i * KeyBlock, row = gradients + i * KeyBlock;
                        Lanes<T>.SoftmaxGradient(probabilities, row, Tile<T>.Pad(seen), scale, logs[(nint)i * shape.Heads], products[query + i]);
                        new Span<T>(probabilities, first).Clear();
                        new Span<T>(probabilities + end, seen - end).Clear();
                        new Span<T>(row, first).Clear();
                        new Span<T>(row + end, seen - end).Clear();
                    }

                    Tile<T>.Pack(rows, queryStride, strip, width, queryPanels);
                    Tile<T>.Pack(outputs, queryStride, strip, width, outputPanels);
                    Tile<T>.Multiply(strip, width, seen, gradients, KeyBlock, 1, keyPanels, keys, querySums + (nint)query * padded, padded, true);
                    Tile<T>.Multiply(seen, width, strip, gradients, 1, KeyBlock, queryPanels, strip, keySums, padded, true);
                    Tile<T>.Multiply(seen, width, strip, scores, 1, KeyBlock, outputPanels, strip, valueSums, padded, true);
                }

                nint row0 = (nint)(sequence.Key + key) * queryStride + head * width;
                Write(keySums, padded, keys, scale, dk + row0);
                Write(valueSums, padded, keys, T.One, dv + row0);
            }

            Write(querySums, padded, sequence.Queries, scale, dq + start);
        }

        void Write(T* sums, int padded, int rows, T scale, T* target)
        {
            for (int i = 0; i < rows; i++, sums += padded, target += queryStride)
            {
                Lanes<T>.Scale(sums, width, scale, target);
            }
        }
    }

    /// <summary>Adds the gradients of a group's heads, [M, H, C], into [M, G, C].</summary>
    readonly struct GroupSumJob<T>(AttentionShape shape, Sequence* sequences, T* keyGradients, T* valueGradients, T* dk, T* dv) : IJob
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            (index, int keyHead) = Math.DivRem(index, shape.KeyValueHeads);
            var sequence = sequences[index];
            int group = shape.Heads / shape.KeyValueHeads;
            for (int key = 0; key < sequence.Keys; key++)
            {
                nint target = ((nint)(sequence.Key + key) * shape.KeyValueHeads + keyHead) * shape.HeadWidth, source = target * group;
                for (int i = 0; i < group; i++, source += shape.HeadWidth)
                {
                    Lanes<T>.AddScaled(keyGradients + source, shape.HeadWidth, T.One, dk + target);
                    Lanes<T>.AddScaled(valueGradients + source, shape.HeadWidth, T.One, dv + target);
                }
            }
        }
    }
}
