// AdamW: one step of Adam with decoupled weight decay, and clipping by global norm.
//
// Maths      g ← g·min(1, M/(norm + 1e-6)) · p ← p·(1 − η·λ) · m ← β1·m + (1 − β1)·g · v ← β2·v + (1 − β2)·g²
//            p ← p − η·m̂/(√v̂ + ε), m̂ = m/(1 − β1^t), v̂ = v/(1 − β2^t)
// Shapes     p, g, m, v [n] · norm [1]; g is read only: the clipped gradient is not stored
// Layout     contiguous; decay, λ, applies to the first elements
// Floor      bytes 7·n elements (read p, g, m, v, write p, m, v); bound by memory
// Numerics   the constants of a step in f64, the elements in T; a norm that is not finite makes p so, as in PyTorch
// Source     Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2; the order of decay and step, and the 1e-6, as PyTorch has them

using System.Numerics;

namespace IlgpuPeft.Kernels;

static unsafe class AdamW
{
    public static void Step<T>(Slice p, Slice g, Slice m, Slice v, AdamWStep step, Slice norm) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        const string Operation = "AdamW";
        Expect.Element<T>(Operation, nameof(p), p);
        Expect.Elements(Operation, p.Type, p.Length, (nameof(g), g), (nameof(m), m), (nameof(v), v));
        Check(Operation, p, step, norm);
        long decaying = Math.Min(step.Decaying, p.Length);
        var constants = Constants<T>.Of(step);
        constants.Clip = Clip<T>(step, norm);
        Update(0, decaying);
        constants.Keep = T.One;
        Update(decaying, p.Length);

        void Update(long start, long end)
        {
            Partition parts = Partition.Elements(end - start);
            Workers.Run(parts.Count, new Job<T>(p.Pointer<T>() + start, g.Pointer<T>() + start, m.Pointer<T>() + start, v.Pointer<T>() + start, constants, parts));
        }
    }

    /// <summary>What every form of AdamW asks of its step and its norm.</summary>
    public static void Check(string operation, Slice p, AdamWStep step, Slice norm)
    {
        Expect.That(step.Step >= 1, operation, $"step is {step.Step}, expected to count from 1.");
        Expect.That(step.Decaying >= 0, operation, $"step.Decaying is {step.Decaying}, expected 0 or more.");
        if (step.MaxNorm > 0)
        {
            Expect.Elements(operation, p.Type, 1, (nameof(norm), norm));
        }
    }

    /// <summary>The factor on gradients.</summary>
    public static T Clip<T>(AdamWStep step, Slice norm) where T : unmanaged, IBinaryFloatingPointIeee754<T> =>
        step.MaxNorm > 0 ? T.CreateTruncating(Math.Min(1, step.MaxNorm / (double.CreateTruncating(*norm.Pointer<T>()) + 1e-6))) : T.One;

    readonly struct Job<T>(T* p, T* g, T* m, T* v, Constants<T> c, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (i, end) = parts[index];
            Vector<T> clip = new(c.Clip), keep = new(c.Keep), beta1 = new(c.Beta1), rest1 = new(c.Rest1), beta2 = new(c.Beta2), rest2 = new(c.Rest2);
            Vector<T> rate = new(c.Rate), root = new(c.Root), epsilon = new(c.Epsilon);
            for (; i <= end - Vector<T>.Count; i += Vector<T>.Count)
            {
                Vector<T> gradient = Vector.Load(g + i) * clip;
                Vector<T> first = beta1 * Vector.Load(m + i) + rest1 * gradient;
                Vector<T> second = beta2 * Vector.Load(v + i) + rest2 * gradient * gradient;
                first.Store(m + i);
                second.Store(v + i);
                (Vector.Load(p + i) * keep - rate * first / (Vector.SquareRoot(second) * root + epsilon)).Store(p + i);
            }

            for (; i < end; i++)
            {
                T gradient = g[i] * c.Clip;
                m[i] = c.Beta1 * m[i] + c.Rest1 * gradient;
                v[i] = c.Beta2 * v[i] + c.Rest2 * gradient * gradient;
                p[i] = p[i] * c.Keep - c.Rate * m[i] / (T.Sqrt(v[i]) * c.Root + c.Epsilon);
            }
        }
    }

    /// <summary>What is the same for all elements; Rest is 1 − β, Keep 1 − η·λ, Rate η/(1 − β1^t), Root 1/√(1 − β2^t), Clip the factor on gradients.</summary>
    internal struct Constants<T> where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public T Clip, Keep, Beta1, Rest1, Beta2, Rest2, Rate, Root, Epsilon;

        /// <summary>All but <see cref="Clip"/>, which depends on the norm.</summary>
        public static Constants<T> Of(AdamWStep step) => new()
        {
            Keep = T.CreateTruncating(1 - step.LearningRate * step.WeightDecay),
            Beta1 = T.CreateTruncating(step.Beta1),
            Rest1 = T.CreateTruncating(1 - step.Beta1),
            Beta2 = T.CreateTruncating(step.Beta2),
            Rest2 = T.CreateTruncating(1 - step.Beta2),
            Rate = T.CreateTruncating(step.LearningRate / (1 - Math.Pow(step.Beta1, step.Step))),
            Root = T.CreateTruncating(1 / Math.Sqrt(1 - Math.Pow(step.Beta2, step.Step))),
            Epsilon = T.CreateTruncating(step.Epsilon),
        };
    }
}
