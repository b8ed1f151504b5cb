// Attention: causal grouped-query attention over packed sequences, with an online softmax.
//
// Maths      y[i,h] = Σ_j P[i,j]·v[j,g], P[i,j] = exp(scale·q[i,h]·k[j,g] − lse[i,h]), g = h / (H/G). Running maximum m and sum l per row:
//            a block of keys scales what is there by exp(m − m'), adds its own, and ends in y = acc / l, lse = m + ln l
// Grad       D = Σ_c dy·y · dP = dy·vᵀ · dS = P·(dP − D) · dq = scale·dS·k · dk = scale·dSᵀ·q · dv = Pᵀ·dy
// Shapes     q, y [N, H, C] · k, v [M, G, C] · sequences [S, 4] i32 · lse [N, H]; C is any width, T is float or double
// Layout     row-major. Keys and values are packed per block into panels (Tile); queries are read in place
// Launch     forward: a task is (sequence, key/value head, block of queries); with one query (sequence, part of its keys) for all heads at once.
//            Backward: a task is (sequence, query head); the heads of a group are then summed in order
// Floor      forward 4·C, backward 10·C flops per visible (query, key, head); bytes are those of the arguments. Compute-bound but for decoding
// Numerics   sums in T, in an order set by the shapes alone: the same bits for any number of threads, and for a sequence packed or by itself
// Source     Dao 2023, arXiv:2307.08691 (FlashAttention-2), algorithms 1 and 2; online softmax: Milakov and Gimelshein 2018, arXiv:1805.02867

using System.Numerics;

namespace IlgpuPeft.Kernels;

/// <summary>Causal grouped-query attention on the host.</summary>
static unsafe partial class Attention
{
    /// <summary>Keys per block: the score tile and the panels of a common head width stay in the second-level cache.</summary>
    const int KeyBlock = 96;

    /// <summary>Queries whose scores are computed together; few, so that little of the causal triangle's upper half is computed.</summary>
    const int Strip = 24;

    /// <inheritdoc cref="Backend.AttentionForward" />
    public static void Forward<T>(AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences, Slice y, Slice lse)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        var (queryRows, keyRows) = Check<T>("AttentionForward", shape, q, k, v, sequences);
        Expect.Element<T>("AttentionForward", nameof(y), y);
        Expect.Length("AttentionForward", nameof(y), y, q.Length);
        if (!lse.IsEmpty)
        {
            Expect.Element<T>("AttentionForward", nameof(lse), lse);
            Expect.Length("AttentionForward", nameof(lse), lse, queryRows * shape.Heads);
        }

        var table = new ReadOnlySpan<Sequence>((void*)sequences.Address, (int)(sequences.Length / 4));
        if (Check("AttentionForward", table, queryRows, keyRows, false) < queryRows)
        {
            new Span<byte>((void*)y.Address, checked((int)y.Bytes)).Clear();
            new Span<byte>((void*)lse.Address, checked((int)lse.Bytes)).Clear();
        }

        int group = shape.Heads / shape.KeyValueHeads;
        int queryBlock = Math.Clamp(192 / group / Strip * Strip, Strip, 4 * Strip);
        int blocks = 0;
        foreach (var sequence in table)
        {
            blocks = Math.Max(blocks, (sequence.Queries + queryBlock - 1) / queryBlock);
        }

        Workers.Run(table.Length * blocks * shape.KeyValueHeads, new ForwardJob<T>(shape, (Sequence*)sequences.Address, table.Length, blocks, queryBlock,
            q.Pointer<T>(), k.Pointer<T>(), v.Pointer<T>(), y.Pointer<T>(), lse.Pointer<T>()));
        Decode(shape, table, q.Pointer<T>(), k.Pointer<T>(), v.Pointer<T>(), y.Pointer<T>(), lse.Pointer<T>());
    }

    static (long QueryRows, long KeyRows) Check<T>(string operation, AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences)
    {
        Expect.Element<T>(operation, nameof(q), q);
        Expect.Element<T>(operation, nameof(k), k);
        Expect.Element<T>(operation, nameof(v), v);
        return CheckShapes(operation, shape, q, k, v, sequences);
    }

    /// <summary>Checks lengths, and returns the rows of queries and of keys.</summary>
    internal static (long QueryRows, long KeyRows) CheckShapes(string operation, AttentionShape shape, Slice q, Slice k, Slice v, Slice sequences)
    {
        Expect.That(shape.HeadWidth > 0 && shape.KeyValueHeads > 0 && shape.Heads > 0 && shape.Heads % shape.KeyValueHeads == 0 && shape.Window >= 0,
            operation, $"{shape} is not a shape: key/value heads must divide heads, width be positive, window not negative.");
        long queryWidth = (long)shape.Heads * shape.HeadWidth, keyWidth = (long)shape.KeyValueHeads * shape.HeadWidth;
        Expect.That(q.Length % queryWidth == 0, operation, $"q has {q.Length} elements, expected rows of {queryWidth}.");
        Expect.That(k.Length % keyWidth == 0, operation, $"k has {k.Length} elements, expected rows of {keyWidth}.");
        Expect.Length(operation, nameof(v), v, k.Length);
        Expect.Type(operation, nameof(sequences), sequences, DType.I32);
        Expect.That(sequences.Length % 4 == 0, operation, $"sequences has {sequences.Length} elements, expected rows of 4.");
        return (q.Length / queryWidth, k.Length / keyWidth);
    }

    /// <summary>Checks the ranges and returns how many query rows they cover.</summary>
    static long Check(string operation, ReadOnlySpan<Sequence> table, long queryRows, long keyRows, bool keysInOrder)
    {
        long covered = 0, queryEnd = 0, keyEnd = 0;
        for (int i = 0; i < table.Length; i++)
        {
            var (query, queries, key, keys) = table[i];
            Expect.That(queries >= 0 && keys >= queries && query >= queryEnd && (long)query + queries <= queryRows && key >= 0 && (long)key + keys <= keyRows
                && (!keysInOrder || key >= keyEnd), operation, $"sequence {i} is (query {query}, queries {queries}, key {key}, keys {keys}), expected keys >= queries, " +
                $"query rows after the sequence before and within {queryRows}, key rows within {keyRows}{(keysInOrder ? " and after the sequence before" : "")}.");
            covered += queries;
            queryEnd = query + queries;
            keyEnd = key + keys;
        }

        return covered;
    }

    /// <summary>A row of the table of sequences.</summary>
    readonly record struct Sequence(int Query, int Queries, int Key, int Keys)
    {
        /// <summary>The last key that the first query sees; each query sees one more.</summary>
        public int Offset => Keys - Queries;

        /// <summary>The first key that query <paramref name="i"/> sees.</summary>
        public int First(int i, int window) => window == 0 ? 0 : Math.Max(0, Offset + i + 1 - window);
    }

    readonly struct ForwardJob<T>(AttentionShape shape, Sequence* sequences, int count, int blocks, int queryBlock, T* q, T* k, T* v, T* y, T* lse) : IJob
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        readonly int group = shape.Heads / shape.KeyValueHeads;
        readonly int width = shape.HeadWidth;
        readonly nint queryStride = shape.Heads * (nint)shape.HeadWidth;
        readonly nint keyStride = shape.KeyValueHeads * (nint)shape.HeadWidth;

        // The last blocks of a sequence see the most keys: they go first, so that no thread is left alone with one.
        public void Run(int index)
        {
            (index, int head) = Math.DivRem(index, shape.KeyValueHeads);
            (int block, index) = Math.DivRem(index, count);
            var sequence = sequences[index];
            int from = (blocks - 1 - block) * queryBlock;
            if (sequence.Queries > 1 && from < sequence.Queries)
            {
                Block(sequence, head, from, Math.Min(from + queryBlock, sequence.Queries));
            }
        }

        void Block(Sequence sequence, int head, int from, int to)
        {
            int padded = Tile<T>.Pad(width), queries = (to - from + Strip - 1) / Strip * Strip, rows = group * queries;
            T* scores = Scratch.Get<T>(ScratchSlot.Attention, (long)Strip * KeyBlock + 2L * KeyBlock * padded + (long)rows * padded + 2L * rows);
            T* keyPanels = scores + Strip * KeyBlock;       // kᵀ: [C, keys]
            T* valuePanels = keyPanels + KeyBlock * padded; // v: [keys, C]
            T* sums = valuePanels + KeyBlock * padded;      // [group, queries, C]
            T* maxima = sums + rows * padded;               // [group, queries]
            T* totals = maxima + rows;                      // [group, queries]
            new Span<T>(sums, rows * padded).Clear();
            new Span<T>(maxima, rows).Fill(T.NegativeInfinity);
            new Span<T>(totals, rows).Clear();

            int keyEnd = sequence.Offset + to;
            for (int start = sequence.First(from, shape.Window); start < keyEnd; start += KeyBlock)
            {
                int keys = Math.Min(KeyBlock, keyEnd - start);
                nint at = (nint)(sequence.Key + start) * keyStride + head * width;
                Tile<T>.PackTransposed(k + at, keyStride, keys, width, keyPanels);
                Tile<T>.Pack(v + at, keyStride, keys, width, valuePanels);
                for (int i = 0; i < group; i++)
                {
                    // Earlier strips end before a block that lies wholly after their last query.
                    for (int query = from; query < to; query += Strip)
                    {
                        int strip = Math.Min(Strip, to - query), row = i * queries + query - from;
                        int seen = Math.Min(keys, sequence.Offset + query + strip - start);
                        if (seen > 0)
                        {
                            T* source = q + (sequence.Query + query) * queryStride + (head * group + i) * width;
                            Tile<T>.Multiply(strip, seen, width, source, queryStride, 1, keyPanels, width, scores, KeyBlock, false);
                            Softmax(shape, sequence, query, strip, start, seen, scores, sums + row * padded, maxima + row, totals + row);
                            Tile<T>.Multiply(strip, width, seen, scores, KeyBlock, 1, valuePanels, keys, sums + row * padded, padded, true);
                        }
                    }
                }
            }

            for (int i = 0; i < group; i++)
            {
                for (int query = from; query < to; query++)
                {
                    int row = i * queries + query - from;
                    Write(shape, sequence.Query + query, head * group + i, sums + row * padded, maxima[row], totals[row], y, lse);
                }
            }
        }
    }

    /// <summary>Turns a strip of scores into exp(scale·score − maximum), zero where masked, after scaling what earlier blocks left.</summary>
    static void Softmax<T>(AttentionShape shape, Sequence sequence, int query, int strip, int start, int seen, T* scores, T* sums, T* maxima, T* totals)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int padded = Tile<T>.Pad(shape.HeadWidth);
        var scale = T.CreateTruncating(shape.Scale);
        for (int i = 0; i < strip; i++, scores += KeyBlock, sums += padded)
        {
            int first = Math.Max(0, sequence.First(query + i, shape.Window) - start), end = Math.Min(seen, sequence.Offset + query + i + 1 - start);
            if (first >= end)
            {
                new Span<T>(scores, seen).Clear();
                continue;
            }

            new Span<T>(scores, first).Fill(T.NegativeInfinity);
            new Span<T>(scores + end, Tile<T>.Pad(seen) - end).Fill(T.NegativeInfinity);
            var maximum = T.Max(maxima[i], Lanes<T>.ScaleAndMax(scores, Tile<T>.Pad(seen), scale));
            var kept = T.Exp(maxima[i] - maximum);
            totals[i] = totals[i] * kept + Lanes<T>.ExpAndSum(scores, Tile<T>.Pad(seen), maximum);
            maxima[i] = maximum;
            if (kept != T.One)
            {
                Lanes<T>.Scale(sums, padded, kept, sums);
            }
        }
    }

    /// <summary>Writes a head of a row: the sums over their total, and the logarithm of the denominator.</summary>
    static void Write<T>(AttentionShape shape, int row, int head, T* sums, T maximum, T total, T* y, T* lse) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        nint at = (nint)row * shape.Heads + head;
        Lanes<T>.Scale(sums, shape.HeadWidth, T.One / total, y + at * shape.HeadWidth);
        if (lse != null)
        {
            lse[at] = maximum + T.Log(total);
        }
    }
}
