using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

/// <summary>Where a running sum over the logits of a row reaches a target, in descending order or in order of id: header in SamplerKernels.cs.</summary>
static partial class SamplerKernels
{
    /// <summary>
    /// The key at which the running sum from the largest logit down reaches <paramref name="target"/> (the last with a weight if none does), and the sum before it: of tokens, or of their
    /// weights.
    /// </summary>
    static Place Select<T>(Row<T> row, bool tokens, float target, ArrayView<float> histogram, ArrayView<float> sums) where T : unmanaged, IElement<T>
    {
        var place = default(Place);
        int lowest = T.Type == DType.BF16 ? 16 : 0;
        for (int shift = 32 - Bits; shift >= lowest; shift -= Bits)
        {
            for (int bin = 0; bin < Bins; bin++)
            {
                histogram[bin * Group.DimX + Group.IdxX] = 0;
            }

            for (int i = 4 * Group.IdxX; i < row.Vocabulary; i += 4 * Group.DimX)
            {
                var x = row.Load(i);
                Count(row, x.X, tokens, place.Key, shift, histogram);
                Count(row, x.Y, tokens, place.Key, shift, histogram);
                Count(row, x.Z, tokens, place.Key, shift, histogram);
                Count(row, x.W, tokens, place.Key, shift, histogram);
            }

            Group.Barrier(); // all columns are complete
            for (int bin = Group.IdxX / 32; bin < Bins; bin += Group.DimX / 32)
            {
                float sum = 0;
                for (int i = Warp.LaneIdx; i < Group.DimX; i += 32)
                {
                    sum += histogram[bin * Group.DimX + i];
                }

                Collect(sum, sums, bin);
            }

            Group.Barrier(); // the sums of all bins are there
            int chosen = 0;
            float running = place.Before;
            for (int bin = Bins - 1; bin >= 0; bin--)
            {
                float weight = sums[bin];
                if (weight > 0 && running < target)
                {
                    chosen = bin;
                    place.Before = running;
                    running += weight;
                }
            }

            place.Key |= (uint)chosen << shift;
            Group.Barrier(); // sums is free again
        }

        return place;
    }

    /// <summary>Adds a token to the thread's column if the bits above <paramref name="shift"/> + 4 of its key are those found so far.</summary>
    static void Count<T>(Row<T> row, float x, bool tokens, uint found, int shift, ArrayView<float> histogram) where T : unmanaged, IElement<T>
    {
        uint key = Row<T>.Key(x);
        if (((key ^ found) >> shift) < Bins)
        {
            histogram[(int)((key >> shift) & (Bins - 1)) * Group.DimX + Group.IdxX] += tokens ? 1 : row.Weight(x);
        }
    }

    /// <summary>
    /// The token at which the running sum in order of id reaches <paramref name="target"/> (the last with a weight if none does): of weights, or with a <paramref name="key"/> of tokens
    /// that have it. Every warp adds up a part of the range; the part that holds the token is the next range.
    /// </summary>
    static int Find<T>(Row<T> row, uint key, float target, ArrayView<float> sums) where T : unmanaged, IElement<T>
    {
        int low = 0, high = row.Vocabulary;
        while (high - low > Tile)
        {
            int tiles = Group.DimX / 32 * Tile, part = (high - low + tiles - 1) / tiles * Tile, from = low + Group.IdxX / 32 * part, end = IntrinsicMath.Min(high, from + part);
            float sum = 0;
            for (int i = from + 4 * Warp.LaneIdx; i < end; i += Tile)
            {
                var x = row.Load(i);
                sum += (row.WeightAt(x.X, key) + row.WeightAt(x.Y, key)) + (row.WeightAt(x.Z, key) + row.WeightAt(x.W, key));
            }

            Collect(sum, sums, Group.IdxX / 32);
            Group.Barrier(); // the sums of all parts are there
            int chosen = 0;
            float running = 0, before = 0;
            for (int i = 0; i < Group.DimX / 32; i++)
            {
                float weight = sums[i];
                if (weight > 0 && running < target)
                {
                    chosen = i;
                    before = running;
                    running += weight;
                }
            }

            low += chosen * part;
            high = IntrinsicMath.Min(high, low + part);
            target -= before;
            Group.Barrier(); // sums is free again
        }

        int at = low + 4 * Warp.LaneIdx;
        var last = row.Load(at);
        float first = row.WeightAt(last.X, key), second = row.WeightAt(last.Y, key), third = row.WeightAt(last.Z, key), fourth = row.WeightAt(last.W, key);
        float lane = first + second + (third + fourth), sumBefore = 0, rest = lane;
        for (int distance = 1; distance < 32; distance *= 2)
        {
            float other = Warp.ShuffleUp(rest, distance);
            if (Warp.LaneIdx >= distance)
            {
                sumBefore += other;
                rest += other;
            }
        }

        int token = -1;
        token = first > 0 && sumBefore < target ? at : token;
        token = second > 0 && sumBefore + first < target ? at + 1 : token;
        token = third > 0 && sumBefore + (first + second) < target ? at + 2 : token;
        token = fourth > 0 && sumBefore + (first + second + third) < target ? at + 3 : token;
        for (int distance = 16; distance > 0; distance /= 2)
        {
            token = XMath.Max(token, Warp.ShuffleXor(token, distance));
        }

        return token;
    }

    /// <summary>Writes the sum of a warp's <paramref name="x"/>.</summary>
    static void Collect(float x, ArrayView<float> sums, int place)
    {
        x = Reductions.Sum(x, 32, sums, 0);
        if (Warp.LaneIdx == 0)
        {
            sums[place] = x;
        }
    }

    /// <summary>A key, and the sum over all above it.</summary>
    struct Place
    {
        public uint Key;
        public float Before;
    }
}
