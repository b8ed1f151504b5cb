using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>
/// The gradient of a weight that every row shares. Each owner of rows sums its own into a part; one more kernel adds up the parts, without atomics: the order
/// follows from the shape alone, and runs repeat bit for bit.
/// </summary>
static class ColumnSums
{
    /// <summary>Columns whose parts one group adds up.</summary>
    const int Columns = 32;

    /// <summary>Room for the parts [owners, width], whose contents are undefined; none where no gradient is asked for.</summary>
    public static ArrayView<F32> Parts(KernelDevice device, ScratchBuffers scratch, long owners, Slice gradient) =>
        gradient.IsEmpty ? default : device.Buffers.View<F32>(scratch.Get("parts of a weight's gradient", DType.F32, owners * gradient.Length)).SubView(0, owners * gradient.Length);

    /// <summary>Queues gradient[j] += Σ parts[i, j]; nothing where there are no parts.</summary>
    public static void Add(KernelDevice device, ArrayView<F32> parts, int owners, Slice gradient)
    {
        int threads = Math.Min(1024, device.Accelerator.MaxNumThreadsPerGroup);
        device.Launch(Kernel, LaunchShape.Groups((gradient.Length + Columns - 1) / Columns, threads, sizeof(float) * threads), parts, owners, device.Buffers.View<float>(gradient));
    }

    /// <summary>A warp adds up every so many-th part of 32 columns, then one warp the warps' sums.</summary>
    static void Kernel(ArrayView<F32> parts, int owners, ArrayView<float> gradient)
    {
        var shared = SharedMemory.GetDynamic<float>();
        int column = Group.IdxX % Columns, warp = Group.IdxX / Columns, warps = Group.DimX / Columns, width = gradient.IntLength;
        int j = Grid.IdxX * Columns + column;
        float sum = 0;
        if (j < width)
        {
            for (int i = warp; i < owners; i += warps)
            {
                sum += F32.Widen(parts[(long)i * width + j]);
            }
        }

        shared[Group.IdxX] = sum;
        Group.Barrier(); // every warp's sums are written
        if (warp == 0 && j < width)
        {
            float total = 0;
            for (int i = 0; i < warps; i++)
            {
                total += shared[i * Columns + column];
            }

            gradient[j] += total;
        }
    }
}
