using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>
/// `bar.sync`, `bar.arrive` and `bar.red`: warps of the block meet; the last also counts the threads whose predicate holds. Without
/// <paramref name="threads"/> all of the block take part.
/// </summary>
sealed unsafe class Barrier(Register id, Register? threads, bool arrives, string reduction, Register? result, Register? predicate, bool negated)
    : Instruction
{
    /// <summary>Whether warps go on without waiting.</summary>
    public bool Arrives { get; } = arrives;

    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        warp.RequireWhole(mask);
        warp.Block.Barriers.Arrive(warp, this);
    }

    /// <summary>Number of the barrier, and of the threads it is for; 0 for all.</summary>
    public (uint Id, uint Threads) Which(EmulatedWarp warp) => (Uniform(warp, id), threads == null ? 0 : Uniform(warp, threads));

    /// <summary>Whether warps at the two barriers meet each other: both reduce in one way, or neither does.</summary>
    public bool Matches(Barrier other) => reduction == other.Reduction;

    /// <summary>Threads of the warp whose predicate holds.</summary>
    public int Votes(EmulatedWarp warp)
    {
        if (predicate == null)
            return 0;
        uint value = *(uint*)(warp.Registers + predicate.Slot);
        return BitOperations.PopCount((negated ? ~value : value) & warp.AllLanes);
    }

    /// <summary>Hands the count of votes to the warp.</summary>
    public void Complete(EmulatedWarp warp, int votes, int voters)
    {
        if (result == null)
            return;
        ulong value = reduction switch { "popc" => (ulong)votes, "and" => votes == voters ? 1u : 0u, _ => votes > 0 ? 1u : 0u };
        RegisterLanes.Fill(warp.Registers, result, value, uint.MaxValue);
    }

    string Reduction => reduction;

    static uint Uniform(EmulatedWarp warp, Register register)
    {
        uint* values = (uint*)(warp.Registers + register.Slot);
        for (int lane = 1; lane < EmulatedWarp.Size; lane++)
            if ((warp.AllLanes >> lane & 1) != 0 && values[lane] != values[0])
                throw warp.Fault("divergent barrier: lanes of one warp name different barriers or numbers of threads", 1u << lane);
        return values[0];
    }
}

/// <summary>`bar.warp.sync`: orders the memory accesses of the named lanes.</summary>
sealed unsafe class WarpBarrier(Register members) : Instruction
{
    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        for (uint rest = mask; rest != 0; rest &= rest - 1)
            warp.RequireConverged(mask, ((uint*)(warp.Registers + members.Slot))[BitOperations.TrailingZeroCount(rest)]);
        warp.Time++;
    }
}

/// <summary>
/// Instructions that change no result here: fences, since the emulator performs every access at once, prefetches, and sleeping.
/// </summary>
sealed class Nothing(InstructionClass kind) : Instruction
{
    public override InstructionClass Class => kind;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
    }
}
