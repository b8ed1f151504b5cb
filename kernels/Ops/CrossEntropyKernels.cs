// CrossEntropy on devices: log-probabilities of target tokens and their gradient, a chunk of rows at a time. The maths is in CrossEntropy.cs.
//
// Maths      as CrossEntropy.cs; maximum, sum and Σ exp(z − max)·(z − max) in one reading of a row, rescaled when the maximum grows
// Grad       with p = softmax(z): dz = coefficient·(onehot(target) − p)/temperature − entropyCoefficient·p·(z − Σ p·z)/temperature · dHidden = dz·head · dHead += dzᵀ·hidden
// Shapes     hidden, dHidden [N, D] T · head [V, D] of any format · targets [N] i32 · logprobs, entropy, coefficients, entropyCoefficients [N] f32 · dHead [V, D] f32
// Layout     chunks of at most 128 MB of f32 logits, at least 64 rows. dz is stored as T: over the logits in f32, beside them in bfloat16. Rows without a target are computed with the
//            others and get dz = 0: which they are is known on the device alone, and to count them would mean to wait for it
// Launch     the products are MatMulKernels'; between them a group of 1,024 a row, or of as many as the device has room for
// Floor      2·N·V·D flops, 4·N·V·D more for both gradients, bound by the products; the row kernel 4·V bytes a row, with gradients (8 + size of T)·V
// Numerics   logits and sums in f32: a thread adds up V/1024 terms, then pairs of threads; finite for logits of any size; runs repeat bit for bit
// Source     Wijmans et al. 2024, arXiv:2411.09009; the running softmax: Milakov and Gimelshein 2018, arXiv:1805.02867

using ILGPU;
using ILGPU.Algorithms;

namespace IlgpuPeft.Kernels;

static class CrossEntropyKernels
{
    const long ChunkBytes = 128 << 20;
    const int RowsOfTile = 64, MostThreads = 1024;

    /// <inheritdoc cref="Backend.TokenLogProbs" />
    public static void Run<T>(KernelDevice device, ScratchBuffers scratch, bool tensorCores, Slice hidden, Weight head, Slice targets, double temperature, Slice logprobs, Slice entropy,
        Slice coefficients, Slice dHidden, Slice dHead, Slice entropyCoefficients) where T : unmanaged, IElement<T> =>
        Run<T>(device, scratch, tensorCores, hidden, head, targets, temperature, logprobs, entropy, coefficients, dHidden, dHead, entropyCoefficients, ChunkRows(head.Rows));

    /// <summary>Rows whose logits fit the budget: whole tiles, so that no chunk but the last leaves a tile unfilled.</summary>
    public static int ChunkRows(int vocabulary) => (int)Math.Max(1, ChunkBytes / (sizeof(float) * (long)vocabulary) / RowsOfTile) * RowsOfTile;

    /// <summary><see cref="Run{T}(KernelDevice, ScratchBuffers, bool, Slice, Weight, Slice, double, Slice, Slice, Slice, Slice, Slice, Slice)"/> with so many rows a chunk.</summary>
    public static void Run<T>(KernelDevice device, ScratchBuffers scratch, bool tensorCores, Slice hidden, Weight head, Slice targets, double temperature, Slice logprobs, Slice entropy,
        Slice coefficients, Slice dHidden, Slice dHead, Slice entropyCoefficients, int chunkRows) where T : unmanaged, IElement<T>
    {
        CrossEntropy.Check(hidden, head, targets, temperature, logprobs, entropy, coefficients, dHidden, dHead, entropyCoefficients, T.Type, DType.F32);
        int width = head.Columns, vocabulary = head.Rows, count = checked((int)targets.Length), chunk = Math.Min(count, chunkRows);
        if (count == 0)
        {
            return;
        }

        int threads = Math.Min(MostThreads, device.Accelerator.MaxNumThreadsPerGroup);
        var logits = scratch.Get("logits", DType.F32, (long)chunk * vocabulary);
        var dz = T.Type == DType.F32 || coefficients.IsEmpty ? logits : scratch.Get("gradient of logits", T.Type, (long)chunk * vocabulary);
        for (int start = 0; start < count; start += chunk)
        {
            int rows = Math.Min(chunk, count - start);
            Slice z = logits.Range(0, (long)rows * vocabulary), gradient = dz.Range(0, z.Length), x = Chunk(hidden, width);
            var product = new MatMulCall(rows, vocabulary, width) { A = x, B = default, TransposeB = true, C = z, Alpha = (float)(1 / temperature) };
            MatMulKernels.Multiply(device, scratch, tensorCores, product, head);
            device.Launch(RowKernel, LaunchShape.Groups(rows, threads), View<F32>(z), View<T>(coefficients.IsEmpty ? default : gradient), View<int>(Chunk(targets, 1)),
                View<float>(Chunk(logprobs, 1)), View<float>(Chunk(entropy, 1)), View<float>(Chunk(coefficients, 1)), View<float>(Chunk(entropyCoefficients, 1)),
                vocabulary, (float)(1 / temperature), Quads.Fit(z, vocabulary) && Quads.Fit(gradient, vocabulary) ? 1 : 0);
            if (!dHead.IsEmpty)
            {
                MatMulKernels.Multiply(device, scratch, tensorCores, new MatMulCall(vocabulary, width, rows) { A = gradient, TransposeA = true, B = x, C = dHead, Accumulate = true });
            }

            if (!dHidden.IsEmpty)
            {
                MatMulKernels.Multiply(device, scratch, tensorCores, new MatMulCall(rows, width, vocabulary) { A = gradient, B = default, C = Chunk(dHidden, width) }, head);
            }

            Slice Chunk(Slice whole, long each) => whole.IsEmpty ? default : whole.Range(start * each, rows * each);
        }

        ArrayView<TView> View<TView>(Slice slice) where TView : unmanaged => device.Buffers.View<TView>(slice);
    }

    static void RowKernel<T>(ArrayView<F32> logits, ArrayView<T> dz, ArrayView<int> targets, ArrayView<float> logprobs, ArrayView<float> entropy, ArrayView<float> coefficients,
        ArrayView<float> entropyCoefficients, int vocabulary, float scale, int quads) where T : unmanaged, IElement<T>
    {
        var partial = SharedMemory.Allocate<RunningSum>(MostThreads / 32);
        int row = Grid.IdxX, target = targets[row];
        long start = row * (long)vocabulary;
        if ((uint)target >= (uint)vocabulary)
        {
            Skip(dz, start, vocabulary);
            if (Group.IdxX == 0)
            {
                float nothing = target < 0 ? 0 : float.NaN;
                logprobs[row] = nothing;
                if (entropy.Length > 0)
                {
                    entropy[row] = nothing;
                }
            }

            return;
        }

        float aim = F32.Widen(logits[start + target]); // read before dz is written over it
        var sum = Collect(Read(logits, start, vocabulary, quads), partial);
        float log = XMath.Log(sum.Total);
        if (Group.IdxX == 0)
        {
            logprobs[row] = aim - sum.Maximum - log; // the difference first: a large maximum cancels no digits of the logarithm
            if (entropy.Length > 0)
            {
                entropy[row] = log - sum.Weighted / sum.Total;
            }
        }

        if (dz.Length > 0)
        {
            float factor = coefficients[row] * scale, power = Exp(aim - sum.Maximum), own = factor * (1 - power / sum.Total);
            var gradient = new Gradient { Maximum = sum.Maximum, Factor = -factor / sum.Total };
            if (entropyCoefficients.Length > 0)
            {
                gradient.Slope = -entropyCoefficients[row] * scale / sum.Total;
                gradient.Mean = sum.Weighted / sum.Total;
                own += power * gradient.OfEntropy(aim);
                Write(logits, dz, start, vocabulary, quads, gradient, entropy: true);
            }
            else
            {
                Write(logits, dz, start, vocabulary, quads, gradient, entropy: false);
            }

            if (Group.IdxX == (quads != 0 ? target / 4 : target) % Group.DimX) // the thread that wrote this element
            {
                dz[start + target] = T.Narrow(own);
            }
        }
    }

    static void Skip<T>(ArrayView<T> dz, long start, int vocabulary) where T : unmanaged, IElement<T>
    {
        for (int i = Group.IdxX; i < vocabulary && dz.Length > 0; i += Group.DimX)
        {
            dz[start + i] = T.Narrow(0);
        }
    }

    static RunningSum Read(ArrayView<F32> logits, long start, int vocabulary, int quads)
    {
        var sum = RunningSum.OfNothing;
        if (quads != 0)
        {
            for (int i = Group.IdxX; i < vocabulary / 4; i += Group.DimX)
            {
                sum = sum.Plus(Quads.Load(logits, start / 4 + i));
            }
        }
        else
        {
            for (int i = Group.IdxX; i < vocabulary; i += Group.DimX)
            {
                sum = sum.Plus(new RunningSum { Maximum = F32.Widen(logits[start + i]), Total = 1 });
            }
        }

        return sum;
    }

    /// <summary>dz of all logits, as if none were the target's. Whether there is an entropy is a constant: without one, the loop does not know of it.</summary>
    static void Write<T>(ArrayView<F32> logits, ArrayView<T> dz, long start, int vocabulary, int quads, Gradient gradient, bool entropy) where T : unmanaged, IElement<T>
    {
        if (quads != 0)
        {
            for (int i = Group.IdxX; i < vocabulary / 4; i += Group.DimX)
            {
                var z = Quads.Load(logits, start / 4 + i);
                z.X = gradient.Of(z.X, entropy);
                z.Y = gradient.Of(z.Y, entropy);
                z.Z = gradient.Of(z.Z, entropy);
                z.W = gradient.Of(z.W, entropy);
                Quads.Store(dz, start / 4 + i, z);
            }
        }
        else
        {
            for (int i = Group.IdxX; i < vocabulary; i += Group.DimX)
            {
                dz[start + i] = T.Narrow(gradient.Of(F32.Widen(logits[start + i]), entropy));
            }
        }
    }

    /// <summary>The sum of all threads, in every thread.</summary>
    static RunningSum Collect(RunningSum sum, ArrayView<RunningSum> partial)
    {
        sum = sum.PlusLanes();
        if (Warp.LaneIdx == 0)
        {
            partial[Group.IdxX / 32] = sum;
        }

        Group.Barrier(); // the sums of all warps are there
        return (Warp.LaneIdx < Group.DimX / 32 ? partial[Warp.LaneIdx] : RunningSum.OfNothing).PlusLanes();
    }

    static float Exp(float x) => Intrinsics.Exp2(x * Intrinsics.Log2E);

    /// <summary>The gradient of a row, with s = z − Maximum: exp(s)·(Factor + Slope·(s − Mean)).</summary>
    struct Gradient
    {
        /// <summary>Of the row's logits.</summary>
        public float Maximum;

        /// <summary>−coefficient / (temperature · Σ exp(s)).</summary>
        public float Factor;

        /// <summary>The same of the entropy's coefficient.</summary>
        public float Slope;

        /// <summary>Σ softmax(z)·s: what separates s from ln softmax(z) + entropy.</summary>
        public float Mean;

        public readonly float Of(float z, bool entropy) => Exp(z - Maximum) * (entropy ? Factor + OfEntropy(z) : Factor);

        /// <summary>What the entropy adds to Factor; clamped where the exponential is 0 anyway, since 0·∞ is NaN.</summary>
        public readonly float OfEntropy(float z) => Slope * (XMath.Max(z - Maximum, -200) - Mean);
    }

    /// <summary>Σ exp(z − Maximum) and Σ exp(z − Maximum)·(z − Maximum) over some logits z.</summary>
    struct RunningSum
    {
        public float Maximum, Total, Weighted;

        public static RunningSum OfNothing => new() { Maximum = float.MinValue };

        public readonly RunningSum Plus(Float4 z)
        {
            float maximum = XMath.Max(XMath.Max(z.X, z.Y), XMath.Max(z.Z, z.W));
            float x = z.X - maximum, y = z.Y - maximum, v = z.Z - maximum, w = z.W - maximum;
            float ex = Exp(x), ey = Exp(y), ev = Exp(v), ew = Exp(w);
            return Plus(new RunningSum { Maximum = maximum, Total = ex + ey + (ev + ew), Weighted = ex * x + ey * y + (ev * v + ew * w) });
        }

        public readonly RunningSum Plus(RunningSum other)
        {
            // Clamped where the factor is 0 anyway: the difference of two huge maxima may be infinite, and 0·∞ is NaN.
            float maximum = XMath.Max(Maximum, other.Maximum), mine = XMath.Max(Maximum - maximum, -200), theirs = XMath.Max(other.Maximum - maximum, -200);
            float a = Exp(mine), b = Exp(theirs);
            return new RunningSum
            {
                Maximum = maximum,
                Total = Total * a + other.Total * b,
                Weighted = (Weighted + Total * mine) * a + (other.Weighted + other.Total * theirs) * b,
            };
        }

        public readonly RunningSum PlusLanes()
        {
            var sum = this;
            for (int distance = 16; distance > 0; distance /= 2)
            {
                sum = sum.Plus(new RunningSum
                {
                    Maximum = Warp.ShuffleXor(sum.Maximum, distance),
                    Total = Warp.ShuffleXor(sum.Total, distance),
                    Weighted = Warp.ShuffleXor(sum.Weighted, distance),
                });
            }

            return sum;
        }
    }
}
