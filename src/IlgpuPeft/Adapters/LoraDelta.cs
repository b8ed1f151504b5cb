using System.Numerics.Tensors;

namespace IlgpuPeft.Adapters;

/// <summary>The dense form of a low-rank update, on the host: what merging adds to a weight.</summary>
public static class LoraDelta
{
    /// <summary>weight += scale · B·A, row by row in F32.</summary>
    /// <param name="a">[R, K].</param>
    /// <param name="b">[O, R].</param>
    /// <param name="rank">R.</param>
    /// <param name="scale">alpha / R, or alpha / √R.</param>
    /// <param name="weight">[O, K].</param>
    /// <exception cref="ArgumentException">The sizes disagree.</exception>
    public static void Add(float[] a, float[] b, int rank, double scale, float[] weight)
    {
        int inputs = a.Length / rank, outputs = b.Length / rank;
        if (weight.Length != (long)inputs * outputs)
        {
            throw new ArgumentException($"LoraDelta: the weight has {weight.Length} elements, expected {outputs} x {inputs} from B and A.", nameof(weight));
        }

        Parallel.For(0, outputs, row =>
        {
            // The sum over the rank is made first, so that the weight is rounded once.
            var update = new float[inputs];
            for (int r = 0; r < rank; r++)
            {
                TensorPrimitives.MultiplyAdd(a.AsSpan(r * inputs, inputs), b[row * rank + r], update, update);
            }

            var target = weight.AsSpan(row * inputs, inputs);
            TensorPrimitives.MultiplyAdd(update, (float)scale, target, target);
        });
    }
}
