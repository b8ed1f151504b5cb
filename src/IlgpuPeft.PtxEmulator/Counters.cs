using System.Numerics;
using System.Runtime.CompilerServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>What one worker has counted. Only sums, so that the order of the workers does not matter.</summary>
sealed class Counters
{
    public static readonly int Classes = Enum.GetValues<InstructionClass>().Length;

    public long[] WarpInstructions { get; } = new long[Classes];

    public long[] ThreadInstructions { get; } = new long[Classes];

    public long TotalWarpInstructions => WarpInstructions.Sum();

    public long GlobalLoadRequests { get; set; }

    public long GlobalLoadSectors { get; set; }

    public long GlobalLoadBytes { get; set; }

    public long GlobalStoreRequests { get; set; }

    public long GlobalStoreSectors { get; set; }

    public long GlobalStoreBytes { get; set; }

    public long SharedRequests { get; set; }

    public long SharedWavefronts { get; set; }

    public long SharedBytes { get; set; }

    public long LocalBytes { get; set; }

    public long Barriers { get; set; }

    public long MatrixMultiplies { get; set; }

    public long Branches { get; set; }

    public long DivergentBranches { get; set; }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void Instruction(InstructionClass kind, uint mask)
    {
        WarpInstructions[(int)kind]++;
        ThreadInstructions[(int)kind] += BitOperations.PopCount(mask);
    }

    /// <summary>Counts one global request of a warp: the 32-byte sectors it touches are what the memory system moves.</summary>
    public void Global(int sectors, long bytes, bool store)
    {
        if (store)
        {
            GlobalStoreRequests++;
            GlobalStoreSectors += sectors;
            GlobalStoreBytes += bytes;
        }
        else
        {
            GlobalLoadRequests++;
            GlobalLoadSectors += sectors;
            GlobalLoadBytes += bytes;
        }
    }

    /// <summary>Counts one shared request of a warp: each wavefront serves every one of the 32 banks once.</summary>
    public void Shared(int wavefronts, long bytes)
    {
        SharedRequests++;
        SharedWavefronts += wavefronts;
        SharedBytes += bytes;
    }

    public static Counters Sum(IEnumerable<Counters> parts)
    {
        var sum = new Counters();
        foreach (var part in parts)
        {
            for (int i = 0; i < Classes; i++)
            {
                sum.WarpInstructions[i] += part.WarpInstructions[i];
                sum.ThreadInstructions[i] += part.ThreadInstructions[i];
            }
            sum.GlobalLoadRequests += part.GlobalLoadRequests;
            sum.GlobalLoadSectors += part.GlobalLoadSectors;
            sum.GlobalLoadBytes += part.GlobalLoadBytes;
            sum.GlobalStoreRequests += part.GlobalStoreRequests;
            sum.GlobalStoreSectors += part.GlobalStoreSectors;
            sum.GlobalStoreBytes += part.GlobalStoreBytes;
            sum.SharedRequests += part.SharedRequests;
            sum.SharedWavefronts += part.SharedWavefronts;
            sum.SharedBytes += part.SharedBytes;
            sum.LocalBytes += part.LocalBytes;
            sum.Barriers += part.Barriers;
            sum.MatrixMultiplies += part.MatrixMultiplies;
            sum.Branches += part.Branches;
            sum.DivergentBranches += part.DivergentBranches;
        }
        return sum;
    }
}
