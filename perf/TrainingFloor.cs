using IlgpuPeft.Models;

namespace IlgpuPeft.Perf;

/// <summary>
/// The time that OpenBLAS needs for the dense products of one training step over frozen weights, at their real shapes: forward y = x·Wᵀ and backward
/// dx = dy·W of every linear layer and of the head. The low-rank factors, attention and everything else are not counted, so the floor is on the low side.
/// </summary>
sealed unsafe class TrainingFloor : IDisposable
{
    readonly Buffers buffers = new();
    readonly List<(int Outputs, int Inputs, int Count)> shapes;
    readonly int tokens;
    readonly float* x;
    readonly float* y;
    readonly float* weight;

    public TrainingFloor(CausalLm model, int tokens)
    {
        this.tokens = tokens;
        shapes = [.. model.Linears.Select(layer => (layer.Outputs, layer.Inputs))
            .Append((model.Config.Vocabulary, model.Config.Hidden))
            .GroupBy(shape => shape)
            .Select(group => (group.Key.Item1, group.Key.Item2, group.Count()))];
        x = buffers.Random((long)tokens * shapes.Max(shape => shape.Inputs)).Pointer<float>();
        y = buffers.Random((long)tokens * shapes.Max(shape => shape.Outputs)).Pointer<float>();
        weight = buffers.Random(shapes.Max(shape => (long)shape.Outputs * shape.Inputs)).Pointer<float>();
    }

    /// <summary>Floating-point operations of one step's dense products.</summary>
    public double Flops => shapes.Sum(shape => 4.0 * tokens * shape.Outputs * shape.Inputs * shape.Count);

    /// <summary>Runs each distinct shape <paramref name="repeats"/> times and returns the seconds of a whole step.</summary>
    public double Seconds(int repeats)
    {
        double total = 0;
        foreach (var (outputs, inputs, count) in shapes)
        {
            int runs = Math.Min(repeats, count);
            long start = System.Diagnostics.Stopwatch.GetTimestamp();
            for (int i = 0; i < runs; i++)
            {
                OpenBlas.Multiply(tokens, outputs, inputs, x, weight, transposeB: true, y);
                OpenBlas.Multiply(tokens, inputs, outputs, y, weight, transposeB: false, x);
            }

            total += System.Diagnostics.Stopwatch.GetElapsedTime(start).TotalSeconds / runs * count;
        }

        return total;
    }

    public void Dispose() => buffers.Dispose();
}
