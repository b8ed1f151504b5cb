// ScalarHead: one number for every row of activations, as reward and value models have it.
//
// Maths      values[i] = Σ_j hidden[i,j]·weight[j]
// Grad       dHidden[i,j] = dValues[i]·weight[j] · dWeight[j] += Σ_i dValues[i]·hidden[i,j]
// Shapes     hidden, dHidden [N, D] · weight, dWeight [D] · values, dValues [N]
// Layout     row-major; dHidden may be hidden
// Floor      bytes N·D elements forward, N·D for each of the gradients
// Numerics   sums over D in T, in vector lanes; dWeight adds rows in order, columns shared out to threads: the same for any number of them
// Source     Stiennon et al. 2020, arXiv:2009.01325, section 3.4: a linear head that outputs a scalar

using System.Numerics;
using System.Numerics.Tensors;

namespace IlgpuPeft.Kernels;

static unsafe class ScalarHead
{
    /// <inheritdoc cref="Backend.ScalarHeadForward" />
    public static void Forward<T>(Slice hidden, Slice weight, Slice values) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int width = Check("ScalarHeadForward", hidden, weight, nameof(values), values, Type<T>(), Type<T>());
        Partition parts = Partition.Rows(values.Length, width);
        Workers.Run(parts.Count, new ForwardJob<T>(hidden.Pointer<T>(), weight.Pointer<T>(), values.Pointer<T>(), width, parts));
    }

    /// <inheritdoc cref="Backend.ScalarHeadBackward" />
    public static void Backward<T>(Slice dValues, Slice hidden, Slice weight, Slice dHidden, Slice dWeight) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int width = CheckBackward(dValues, hidden, weight, dHidden, dWeight, Type<T>(), Type<T>());
        if (!dWeight.IsEmpty)
        {
            Partition columns = Partition.Columns(width);
            Workers.Run(columns.Count, new WeightJob<T>(dValues.Pointer<T>(), hidden.Pointer<T>(), dWeight.Pointer<T>(), dValues.Length, width, columns));
        }

        if (!dHidden.IsEmpty)
        {
            Partition parts = Partition.Rows(dValues.Length, width);
            Workers.Run(parts.Count, new HiddenJob<T>(dValues.Pointer<T>(), weight.Pointer<T>(), dHidden.Pointer<T>(), width, parts));
        }
    }

    /// <summary>What every device asks of a forward pass; and D.</summary>
    public static int Check(string operation, Slice hidden, Slice weight, string valuesName, Slice values, DType activation, DType parameter)
    {
        Expect.Type(operation, nameof(hidden), hidden, activation);
        Expect.Type(operation, nameof(weight), weight, parameter);
        Expect.That(weight.Length > 0 && hidden.Length % weight.Length == 0, operation, $"hidden has {hidden.Length} elements, expected rows of {weight.Length} as the weight has.");
        Expect.Elements(operation, parameter, hidden.Length / weight.Length, (valuesName, values));
        return checked((int)weight.Length);
    }

    /// <summary>What every device asks of a backward pass; and D.</summary>
    public static int CheckBackward(Slice dValues, Slice hidden, Slice weight, Slice dHidden, Slice dWeight, DType activation, DType parameter)
    {
        const string Operation = "ScalarHeadBackward";
        int width = Check(Operation, hidden, weight, nameof(dValues), dValues, activation, parameter);
        Expect.Optional(Operation, nameof(dHidden), dHidden, activation, hidden.Length);
        Expect.Optional(Operation, nameof(dWeight), dWeight, parameter, width);
        return width;
    }

    static DType Type<T>() => typeof(T) == typeof(float) ? DType.F32 : DType.F64;

    readonly struct ForwardJob<T>(T* hidden, T* weight, T* values, int width, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            for (long row = start; row < end; row++)
            {
                values[row] = TensorPrimitives.Dot(new ReadOnlySpan<T>(hidden + row * width, width), new ReadOnlySpan<T>(weight, width));
            }
        }
    }

    readonly struct HiddenJob<T>(T* dValues, T* weight, T* dHidden, int width, Partition parts) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = parts[index];
            for (long row = start; row < end; row++)
            {
                TensorPrimitives.Multiply(new ReadOnlySpan<T>(weight, width), dValues[row], new Span<T>(dHidden + row * width, width));
            }
        }
    }

    readonly struct WeightJob<T>(T* dValues, T* hidden, T* dWeight, long rows, int width, Partition columns) : IJob where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        public void Run(int index)
        {
            var (start, end) = columns[index];
            int count = (int)(end - start);
            Span<T> sums = new(dWeight + start, count);
            for (long row = 0; row < rows; row++)
            {
                TensorPrimitives.MultiplyAdd(new ReadOnlySpan<T>(hidden + row * width + start, count), dValues[row], sums, sums);
            }
        }
    }
}
