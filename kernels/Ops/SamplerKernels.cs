// Sampler on devices: draws the next token of every row of logits without sorting it. The maths is in Sampler.cs.
//
// Maths      as Sampler.cs. The logit at which a running sum of weights, or of tokens, from the largest logit down reaches a target is found 4 bits at a time: its bits, made to
//            ascend with the logit, are the path through 16-way histograms. Equal logits stand in order of id
// Shapes     logits [B, V] T · ids, draws [B] i32 · logprobs [B] f32
// Layout     row-major; four logits an access where rows start at multiples of them, else one by one
// Launch     a group of 512 a row, or of as many as the device has room for; every thread adds to a histogram column of its own, in 32 KB of shared memory, so that there are no atomics
//            and no bank conflicts; then a warp adds up a bin
// Floor      bytes of the logits; they are read 3 times without filters, and once per 4 bits of a stored logit for top-k, for top-p and for the draw among what they keep
// Numerics   sums in f32 in a fixed order: runs repeat bit for bit. The token is the host's unless the draw falls within rounding of the border between two
// Source     radix selection: Alabi et al. 2012, "Fast k-selection algorithms for graphics processing units"; top-k, top-p: see Sampler.cs

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static partial class SamplerKernels
{
    const int MostThreads = 512, Bins = 16, Bits = 4; // as many bins as warps at most
    const int Tile = 128; // logits that a warp reads at once
    const uint Sign = 0x8000_0000;

    /// <inheritdoc cref="Backend.Sample" />
    public static void Draw<T>(KernelDevice device, Slice logits, int rows, Sampling sampling, RandomKey key, Slice ids, Slice logprobs, Slice draws) where T : unmanaged, IElement<T>
    {
        Sampler.Check(logits, rows, sampling, ids, logprobs, draws, T.Type, DType.F32);
        if (rows == 0)
        {
            return;
        }

        int vocabulary = checked((int)(logits.Length / rows));
        bool filters = sampling.Temperature > 0 && ((sampling.TopK > 0 && sampling.TopK < vocabulary) || sampling.TopP < 1);
        var shape = LaunchShape.Groups(rows, Math.Min(MostThreads, device.Accelerator.MaxNumThreadsPerGroup));
        device.Launch(Kernel, shape, device.Buffers.View<T>(logits), device.Buffers.View<int>(ids), device.Buffers.View<float>(logprobs), vocabulary, Quads.Fit(logits, vocabulary) ? 1 : 0,
            (float)sampling.Temperature, filters ? 1 : 0, Math.Min(sampling.TopK, vocabulary), (float)sampling.TopP, key,
            device.Buffers.View<int>(draws));
    }

    static void Kernel<T>(ArrayView<T> logits, ArrayView<int> ids, ArrayView<float> logprobs, int vocabulary, int quads, float temperature, int filters, int topK, float topP, RandomKey key,
        ArrayView<int> draws) where T : unmanaged, IElement<T>
    {
        var histogram = SharedMemory.Allocate<float>(Bins * MostThreads);
        var sums = SharedMemory.Allocate<float>(Bins);
        var places = SharedMemory.Allocate<int>(Bins);
        var row = new Row<T> { Logits = logits, Start = Grid.IdxX * (long)vocabulary, Vocabulary = vocabulary, Quads = quads };
        int best = Largest(row, sums, places);
        float inverse = temperature > 0 ? 1 / temperature : 1;
        row.Maximum = row.At(best);
        row.Scale = inverse * Intrinsics.Log2E;
        float total = Sum(row, 0, sums), u = key.Uniform((uint)(draws.Length > 0 ? draws[Grid.IdxX] : Grid.IdxX));
        int token = best;
        if (temperature > 0)
        {
            token = filters != 0 ? Filtered(row, total, u, topK, topP, histogram, sums) : Find(row, 0, Above(u * total), sums);
        }

        if (Group.IdxX == 0)
        {
            bool valid = total >= 1; // the largest logit alone weighs 1, unless it is infinite; a NaN spreads
            ids[Grid.IdxX] = valid ? token : -1;
            if (logprobs.Length > 0)
            {
                logprobs[Grid.IdxX] = valid ? (row.At(token) - row.Maximum) * inverse - XMath.Log(total) : float.NaN;
            }
        }
    }

    /// <summary>Where the filters cut, then a draw among what is above: of tokens with the cutting logit, the first <c>ties</c> are kept.</summary>
    static int Filtered<T>(Row<T> row, float total, float u, int topK, float topP, ArrayView<float> histogram, ArrayView<float> sums) where T : unmanaged, IElement<T>
    {
        uint cut = 0;
        int ties = row.Vocabulary;
        float kept = total;
        if (topK > 0 && topK < row.Vocabulary)
        {
            var place = Select(row, true, topK, histogram, sums);
            cut = place.Key;
            ties = topK - (int)place.Before;
            kept = Sum(row, cut, sums) + ties * row.WeightOf(cut);
        }

        if (topP < 1)
        {
            float enough = topP * kept;
            var place = Select(row, false, enough, histogram, sums);
            float weight = row.WeightOf(place.Key), share = (enough - place.Before) / weight;
            int needed = (int)share < share ? (int)share + 1 : IntrinsicMath.Max((int)share, 1);
            ties = place.Key > cut ? needed : IntrinsicMath.Min(needed, ties);
            cut = IntrinsicMath.Max(cut, place.Key);
            kept = place.Before + ties * weight;
        }

        float at = u * kept;
        var drawn = Select(row, false, Above(at), histogram, sums);
        int rank = drawn.Key < cut ? ties - 1 : (int)((at - drawn.Before) / row.WeightOf(drawn.Key)); // below the cut only by rounding
        rank = drawn.Key > cut ? rank : IntrinsicMath.Min(rank, ties - 1);
        return Find(row, IntrinsicMath.Max(cut, drawn.Key), IntrinsicMath.Max(rank, 0) + 1, sums);
    }

    /// <summary>The first of the largest.</summary>
    static int Largest<T>(Row<T> row, ArrayView<float> sums, ArrayView<int> places) where T : unmanaged, IElement<T>
    {
        var best = new Best { Value = float.NegativeInfinity };
        for (int i = 4 * Group.IdxX; i < row.Vocabulary; i += 4 * Group.DimX)
        {
            var x = row.Load(i);
            best = best.Or(x.X, i).Or(x.Y, i + 1).Or(x.Z, i + 2).Or(x.W, i + 3);
        }

        for (int distance = 16; distance > 0; distance /= 2)
        {
            best = best.Or(Warp.ShuffleXor(best.Value, distance), Warp.ShuffleXor(best.Place, distance));
        }

        if (Warp.LaneIdx == 0)
        {
            sums[Group.IdxX / 32] = best.Value;
            places[Group.IdxX / 32] = best.Place;
        }

        Group.Barrier(); // the best of all warps are there
        for (int i = 0; i < Group.DimX / 32; i++)
        {
            best = best.Or(sums[i], places[i]);
        }

        Group.Barrier(); // sums is free again
        return best.Place;
    }

    /// <summary>The weights of all tokens whose key is above <paramref name="cut"/>; 0 is below all keys.</summary>
    static float Sum<T>(Row<T> row, uint cut, ArrayView<float> sums) where T : unmanaged, IElement<T>
    {
        float sum = 0;
        for (int i = 4 * Group.IdxX; i < row.Vocabulary; i += 4 * Group.DimX)
        {
            var x = row.Load(i);
            sum += (row.WeightAbove(x.X, cut) + row.WeightAbove(x.Y, cut)) + (row.WeightAbove(x.Z, cut) + row.WeightAbove(x.W, cut));
        }

        Collect(sum, sums, Group.IdxX / 32);
        Group.Barrier(); // the sums of all warps are there
        float total = 0;
        for (int i = 0; i < Group.DimX / 32; i++)
        {
            total += sums[i];
        }

        Group.Barrier(); // sums is free again
        return total;
    }

    /// <summary>The next float above one that is not negative: a sum exceeds <paramref name="x"/> where it reaches this.</summary>
    static float Above(float x) => Interop.IntAsFloat(Interop.FloatAsInt(x) + 1);

    /// <summary>The larger of two logits, of equals the first.</summary>
    struct Best
    {
        public float Value;
        public int Place;

        public readonly Best Or(float value, int place) => value > Value || (value == Value && place < Place) ? new Best { Value = value, Place = place } : this;
    }

    /// <summary>One row, and how its logits become weights: 2^((logit − Maximum)·Scale).</summary>
    struct Row<T> where T : unmanaged, IElement<T>
    {
        public ArrayView<T> Logits;
        public long Start;
        public int Vocabulary, Quads;
        public float Maximum, Scale;

        static uint Stored => T.Type == DType.BF16 ? 0xFFFF_0000 : 0xFFFF_FFFF;

        /// <summary>The bits of a logit, changed so that they ascend with it; both zeros are one.</summary>
        public static uint Key(float x)
        {
            uint bits = Interop.FloatAsInt(x == 0 ? 0 : x);
            return bits ^ ((bits & Sign) != 0 ? Stored : Sign);
        }

        public readonly float At(int token) => T.Widen(Logits[Start + token]);

        /// <summary>Four logits; −∞ beyond the end.</summary>
        public readonly Float4 Load(int token) => Quads != 0 && token < Vocabulary
            ? Kernels.Quads.Load(Logits, (Start + token) / 4)
            : new Float4 { X = Guarded(token), Y = Guarded(token + 1), Z = Guarded(token + 2), W = Guarded(token + 3) };

        public readonly float Weight(float x) => Intrinsics.Exp2((x - Maximum) * Scale);

        public readonly float WeightOf(uint key) => Weight(Interop.IntAsFloat(key ^ ((key & Sign) != 0 ? Sign : Stored)));

        public readonly float WeightAbove(float x, uint cut) => Key(x) > cut ? Weight(x) : 0;

        /// <summary>The weight of a token; with a key, 1 for those that have it.</summary>
        public readonly float WeightAt(float x, uint key) => key == 0 ? Weight(x) : Key(x) == key ? 1f : 0f; // not ints: ILGPU converts a comparison to float wrongly

        readonly float Guarded(int token) => token < Vocabulary ? At(token) : float.NegativeInfinity;
    }
}
