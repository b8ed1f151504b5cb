using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>The gradients of RMS norm: header in RmsNormKernels.cs.</summary>
static partial class RmsNormKernels
{
    /// <inheritdoc cref="Backend.RmsNormBackward" />
    public static void Backward<T>(KernelDevice device, ScratchBuffers scratch, Slice dy, Slice x, Slice weight, Slice rstd, Slice dx, bool accumulate, Slice dWeight)
        where T : unmanaged, IElement<T>
    {
        const string Operation = "RmsNormBackward";
        long rows = Check<T>(Operation, x, weight, rstd);
        Expect.That(!rstd.IsEmpty, Operation, "rstd is left out, expected what the forward pass kept.");
        Expect.Elements(Operation, T.Type, x.Length, (nameof(dy), dy));
        Expect.Optional(Operation, nameof(dx), dx, T.Type, x.Length);
        Expect.Optional(Operation, nameof(dWeight), dWeight, DType.F32, weight.Length);
        if (rows == 0)
        {
            return;
        }

        var (shape, layout) = Plan<T>(device, rows, weight, x, dy, dx);
        var buffers = device.Buffers;
        int owners = shape.Grid.X * (shape.Group / layout.Lanes);
        var parts = ColumnSums.Parts(device, scratch, owners, dWeight);
        device.Launch(BackwardKernel, shape, buffers.View<T>(dy), buffers.View<T>(x), buffers.View<F32>(weight), buffers.View<float>(rstd), buffers.View<T>(dx),
            accumulate && !dx.IsEmpty ? 1 : 0, parts, layout);
        ColumnSums.Add(device, parts, owners, dWeight);
    }

    static void BackwardKernel<T>(ArrayView<T> dy, ArrayView<T> x, ArrayView<F32> weight, ArrayView<float> rstd, ArrayView<T> dx, int accumulate, ArrayView<F32> parts, Layout layout)
        where T : unmanaged, IElement<T>
    {
        var shared = SharedMemory.Allocate<float>(Reductions.SharedFloats);
        if (layout.Aligned != 0)
        {
            Backward(dy, x, weight, rstd, dx, accumulate, parts, layout, shared, whole: true);
        }
        else
        {
            Backward(dy, x, weight, rstd, dx, accumulate, parts, layout, shared, whole: false);
        }
    }

    static void Backward<T>(ArrayView<T> dy, ArrayView<T> x, ArrayView<F32> weight, ArrayView<float> rstd, ArrayView<T> dx, int accumulate, ArrayView<F32> parts, Layout layout,
        ArrayView<float> shared, bool whole) where T : unmanaged, IElement<T>
    {
        int width = layout.Width, lanes = layout.Lanes, owner = Group.IdxX / lanes, owners = Group.DimX / lanes;
        int column = (Group.IdxX - owner * lanes) * Packet.Size<T>(), step = lanes * Packet.Size<T>(), turn = 0;
        long part = ((long)Grid.IdxX * owners + owner) * width, partEnd = part + width;
        var w = column < width ? Packet.Load<F32, T>(weight, column, width, whole) : default;
        Packet dw = default;
        for (long first = (long)Grid.IdxX * owners; first < layout.Rows; first += (long)Grid.DimX * owners)
        {
            long row = first + owner, start = row * width, end = start + width;
            bool busy = row < layout.Rows && column < width;
            Packet d = default, a = default, before = default;
            float r = 0;
            if (busy && accumulate != 0)
            {
                before = Packet.Load(dx, start + column, end, whole);
                d = Packet.Load(dy, start + column, end, whole);
                a = Packet.Load(x, start + column, end, whole);
                r = rstd[row];
            }
            else if (busy)
            {
                d = Packet.Load(dy, start + column, end, whole);
                a = Packet.Load(x, start + column, end, whole);
                r = rstd[row];
            }

            var g = d * w;
            float dot = Packet.Sum<T>(g * a);
            dw += r * (d * a);
            for (int j = column + step; j < width; j += step)
            {
                var product = Packet.Load(dy, start + j, end, whole) * Packet.Load(x, start + j, end, whole);
                dot += Packet.Sum<T>(product * Packet.Load<F32, T>(weight, j, width, whole));
                if (parts.Length > 0)
                {
                    // Only the first packet of a thread has registers for its sum; the others are summed in memory, which is undefined at the owner's first row.
                    var sum = first == (long)Grid.IdxX * owners ? default : Packet.Load<F32, T>(parts, part + j, partEnd, whole);
                    (sum + r * product).Store<F32, T>(parts, part + j, partEnd, whole);
                }
            }

            if (dx.Length > 0)
            {
                dot = Reductions.Sum(dot, lanes, shared, turn);
                turn ^= 1;
                float slope = r * r * r * dot / width;
                if (busy)
                {
                    (before + (r * g - slope * a)).Store(dx, start + column, end, whole);
                }

                for (int j = column + step; j < width; j += step)
                {
                    var more = Packet.Load(dy, start + j, end, whole) * Packet.Load<F32, T>(weight, j, width, whole);
                    var gradient = r * more - slope * Packet.Load(x, start + j, end, whole);
                    (accumulate != 0 ? Packet.Load(dx, start + j, end, whole) + gradient : gradient).Store(dx, start + j, end, whole);
                }
            }
        }

        if (parts.Length > 0 && column < width)
        {
            dw.Store<F32, T>(parts, part + column, partEnd, whole);
        }
    }
}
