using ILGPU;

namespace IlgpuPeft.Kernels;

/// <summary>Sums over the threads of a warp or a group, in an order that never changes.</summary>
static class Reductions
{
    /// <summary>Floats of shared memory that <see cref="Sum(float, int, ArrayView{float}, int)"/> needs: a value a warp, for two turns.</summary>
    public const int SharedFloats = 2 * Turn;

    const int Turn = 32;

    /// <summary>
    /// The sum over <paramref name="lanes"/> neighbouring threads, in all of them. All threads of the group call it together.
    /// </summary>
    /// <param name="value">This thread's term.</param>
    /// <param name="lanes">A power of two up to 32; or the whole group, in warps.</param>
    /// <param name="shared"><see cref="SharedFloats"/> elements, where there is more than a warp.</param>
    /// <param name="turn">0, 1, 0, 1 ... in successive calls: the one barrier of a call then also separates its writes from the reads two calls ago.</param>
    public static float Sum(float value, int lanes, ArrayView<float> shared, int turn)
    {
        if (lanes <= Warp.WarpSize)
        {
            return WarpSum(value, lanes);
        }

        value = WarpSum(value, Warp.WarpSize);
        if (Warp.LaneIdx == 0)
        {
            shared[turn * Turn + Warp.WarpIdx] = value;
        }

        Group.Barrier(); // every warp's sum is written
        return WarpSum(Warp.LaneIdx < lanes / Warp.WarpSize ? shared[turn * Turn + Warp.LaneIdx] : 0, Warp.WarpSize);
    }

    /// <summary>The sum over the group, in its first thread.</summary>
    /// <param name="value">This thread's term.</param>
    /// <param name="shared">An element a warp.</param>
    public static double Sum(double value, ArrayView<double> shared)
    {
        value = WarpSum(value);
        if (Warp.LaneIdx == 0)
        {
            shared[Warp.WarpIdx] = value;
        }

        Group.Barrier(); // every warp's sum is written
        return WarpSum(Group.IdxX < Group.DimX / Warp.WarpSize ? shared[Group.IdxX] : 0);
    }

    static float WarpSum(float value, int lanes)
    {
        for (int offset = lanes / 2; offset > 0; offset /= 2)
        {
            value += Warp.ShuffleXor(value, offset);
        }

        return value;
    }

    static double WarpSum(double value)
    {
        for (int offset = Warp.WarpSize / 2; offset > 0; offset /= 2)
        {
            value += Warp.ShuffleXor(value, offset);
        }

        return value;
    }
}
