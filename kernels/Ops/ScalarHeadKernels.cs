// ScalarHead on devices: one number for every row of activations. The maths is in ScalarHead.cs.
//
// Maths      values[i] = Σ_j hidden[i,j]·weight[j]     in f32
// Grad       dHidden[i,j] = dValues[i]·weight[j] · dWeight[j] += Σ_i dValues[i]·hidden[i,j]
// Shapes     hidden, dHidden [N, D] T · weight, dWeight [D] f32 · values, dValues [N] f32
// Layout     row-major; dHidden may be hidden
// Launch     forward a warp a row, eight rows a group of 256. Backward a thread keeps 16 bytes of columns, their weights and sums in registers and walks over rows: a row belongs to as many
//            neighbouring threads as it has packets, several rows to a group of 256, or several groups to a row. At least 16 rows a thread, so that the parts of dWeight, which one
//            more kernel adds up, stay small beside what they are the sum of
// Floor      bytes N·D elements forward, and the weight for each row, from cache; N·D for each of the gradients; bound by memory
// Numerics   dHidden rounded once to T; the order of all sums follows from the shape and the device's largest group, so runs repeat bit for bit
// Source     Stiennon et al. 2020, arXiv:2009.01325, section 3.4

using ILGPU;

namespace IlgpuPeft.Kernels;

static class ScalarHeadKernels
{
    /// <summary>Threads of a row's product: a warp.</summary>
    const int Lanes = 32;

    /// <summary>Rows that a thread sums, where there are so many: a part is written and read in f32, which costs as much as four rows of BF16.</summary>
    const int LeastRows = 16;

    /// <summary>Threads of a backward launch: 1,024 for each multiprocessor of a large GPU.</summary>
    const int ResidentThreads = 132 * 1024;

    /// <inheritdoc cref="Backend.ScalarHeadForward" />
    public static void Forward<T>(KernelDevice device, Slice hidden, Slice weight, Slice values) where T : unmanaged, IElement<T>
    {
        int width = ScalarHead.Check("ScalarHeadForward", hidden, weight, nameof(values), values, T.Type, DType.F32);
        var buffers = device.Buffers;
        device.Launch(ForwardKernel, LaunchShape.Over(values.Length * Lanes), buffers.View<T>(hidden), buffers.View<F32>(weight), buffers.View<float>(values),
            Packet.Fits<T>(width, hidden, weight));
    }

    /// <inheritdoc cref="Backend.ScalarHeadBackward" />
    public static void Backward<T>(KernelDevice device, ScratchBuffers scratch, Slice dValues, Slice hidden, Slice weight, Slice dHidden, Slice dWeight) where T : unmanaged, IElement<T>
    {
        int width = ScalarHead.CheckBackward(dValues, hidden, weight, dHidden, dWeight, T.Type, DType.F32);
        long rows = dValues.Length, packets = Packet.Count<T>(width);
        if (rows == 0 || (dHidden.IsEmpty && dWeight.IsEmpty))
        {
            return;
        }

        int threads = LaunchShape.Threads, groupsOfRow = (int)((packets + threads - 1) / threads), lanes = (int)((packets + groupsOfRow - 1) / groupsOfRow), rowsOfGroup = threads / lanes;
        long share = (long)rowsOfGroup * LeastRows;
        int walks = (int)Math.Min((rows + share - 1) / share, Math.Max(1, ResidentThreads / (threads * groupsOfRow))), owners = walks * rowsOfGroup;
        var buffers = device.Buffers;
        var parts = ColumnSums.Parts(device, scratch, owners, dWeight);
        device.Launch(BackwardKernel, new LaunchShape(new Index3D(groupsOfRow, walks, 1), threads), buffers.View<float>(dValues), buffers.View<T>(hidden), buffers.View<F32>(weight),
            buffers.View<T>(dHidden), parts, lanes, Packet.Fits<T>(width, hidden, weight, dHidden));
        ColumnSums.Add(device, parts, owners, dWeight);
    }

    static void ForwardKernel<T>(ArrayView<T> hidden, ArrayView<F32> weight, ArrayView<float> values, int aligned) where T : unmanaged, IElement<T>
    {
        var shared = SharedMemory.Allocate<float>(Reductions.SharedFloats);
        long row = Grid.LongGlobalIndex.X / Lanes;
        if (row >= values.Length)
        {
            return; // the whole warp
        }

        float value = aligned != 0 ? Dot(hidden, weight, row, whole: true) : Dot(hidden, weight, row, whole: false);
        value = Reductions.Sum(value, Lanes, shared, 0);
        if (Warp.LaneIdx == 0)
        {
            values[row] = value;
        }
    }

    /// <summary>This lane's share of a row's product.</summary>
    static float Dot<T>(ArrayView<T> hidden, ArrayView<F32> weight, long row, bool whole) where T : unmanaged, IElement<T>
    {
        int width = weight.IntLength;
        long start = row * width, end = start + width;
        Packet sum = default;
        for (int j = Warp.LaneIdx * Packet.Size<T>(); j < width; j += Lanes * Packet.Size<T>())
        {
            sum += Packet.Load(hidden, start + j, end, whole) * Packet.Load<F32, T>(weight, j, width, whole);
        }

        return Packet.Sum<T>(sum);
    }

    static void BackwardKernel<T>(ArrayView<float> dValues, ArrayView<T> hidden, ArrayView<F32> weight, ArrayView<T> dHidden, ArrayView<F32> parts, int lanes, int aligned)
        where T : unmanaged, IElement<T>
    {
        int owner = Group.IdxX / lanes, owners = Group.DimX / lanes, column = (Grid.IdxX * lanes + Group.IdxX - owner * lanes) * Packet.Size<T>();
        if (owner >= owners || column >= weight.Length)
        {
            return; // the group holds no further whole row, or the row ends
        }

        owner += Grid.IdxY * owners;
        owners *= Grid.DimY;
        if (aligned != 0)
        {
            Backward(dValues, hidden, weight, dHidden, parts, column, owner, owners, whole: true);
        }
        else
        {
            Backward(dValues, hidden, weight, dHidden, parts, column, owner, owners, whole: false);
        }
    }

    static void Backward<T>(ArrayView<float> dValues, ArrayView<T> hidden, ArrayView<F32> weight, ArrayView<T> dHidden, ArrayView<F32> parts, int column, int owner, int owners, bool whole)
        where T : unmanaged, IElement<T>
    {
        long width = weight.Length;
        var w = Packet.Load<F32, T>(weight, column, width, whole);
        Packet dw = default;
        for (long row = owner; row < dValues.Length; row += owners)
        {
            float d = dValues[row];
            long start = row * width, end = start + width;
            if (parts.Length > 0)
            {
                dw += d * Packet.Load(hidden, start + column, end, whole);
            }

            if (dHidden.Length > 0)
            {
                (d * w).Store(dHidden, start + column, end, whole);
            }
        }

        if (parts.Length > 0)
        {
            long part = owner * width;
            dw.Store<F32, T>(parts, part + column, part + width, whole);
        }
    }
}
