namespace IlgpuPeft.Kernels;

/// <summary>
/// Names one stream of counter-based random numbers. The same key and counter give the same bits on every device, in any order,
/// so a resumed run or a recomputed block draws what the first pass drew.
/// </summary>
/// <param name="Seed">The run's seed.</param>
/// <param name="Step">Optimizer step, or rollout number.</param>
/// <param name="Operation">Which draw within the step: fixed by the program, not by execution order.</param>
public readonly record struct RandomKey(ulong Seed, uint Step, uint Operation)
{
    /// <summary>
    /// Four random words for counter <paramref name="index"/>: Philox 4x32 with 10 rounds
    /// (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
    /// </summary>
    public (uint X, uint Y, uint Z, uint W) Philox(ulong index)
    {
        uint k0 = (uint)Seed, k1 = (uint)(Seed >> 32);
        uint x = (uint)index, y = (uint)(index >> 32), z = Step, w = Operation;
        for (int round = 0; round < 10; round++)
        {
            ulong p0 = Intrinsics.MultiplyWide(x, 0xD2511F53), p1 = Intrinsics.MultiplyWide(z, 0xCD9E8D57);
            (x, y, z, w) = ((uint)(p1 >> 32) ^ y ^ k0, (uint)p1, (uint)(p0 >> 32) ^ w ^ k1, (uint)p0);
            k0 += 0x9E3779B9;
            k1 += 0xBB67AE85;
        }

        return (x, y, z, w);
    }

    /// <summary>Uniform in [0, 1) with 24 bits for element <paramref name="index"/>; four neighbours share one Philox call.</summary>
    public float Uniform(ulong index)
    {
        var (x, y, z, w) = Philox(index / 4);
        uint word = (uint)index % 4, bits = word == 0 ? x : word == 1 ? y : word == 2 ? z : w; // a switch would be a table of jumps
        return (bits >> 8) * (1f / (1 << 24));
    }

    /// <summary>Standard normal for element <paramref name="index"/> (Box-Muller on one Philox call).</summary>
    public double Normal(ulong index)
    {
        var (x, y, _, _) = Philox(index);
        double u = (x + 0.5) / 4294967296.0, v = (y + 0.5) / 4294967296.0;
        return Math.Sqrt(-2 * Math.Log(u)) * Math.Cos(2 * Math.PI * v);
    }
}
