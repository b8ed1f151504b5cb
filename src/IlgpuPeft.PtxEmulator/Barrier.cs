using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>`bar.sync` and `bar.red`: all threads of the block meet; the latter also counts the threads whose predicate holds.</summary>
sealed unsafe class Barrier(int id, string reduction, Register? result, Register? predicate, bool negated) : Instruction
{
    public int Id { get; } = id;

    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask) => warp.Wait(this, mask);

    /// <summary>Whether warps at the two barriers meet each other.</summary>
    public bool Matches(Barrier other) => Id == other.Id && reduction == other.Reduction;

    /// <summary>Threads of the warp whose predicate holds.</summary>
    public int Votes(EmulatedWarp warp)
    {
        if (predicate == null)
            return 0;
        uint value = *(uint*)(warp.Registers + predicate.Slot);
        return BitOperations.PopCount((negated ? ~value : value) & warp.AllLanes);
    }

    /// <summary>Hands the block's count of votes to the warp.</summary>
    public void Complete(EmulatedWarp warp, int votes, int threads)
    {
        if (result == null)
            return;
        ulong value = reduction switch { "popc" => (ulong)votes, "and" => votes == threads ? 1u : 0u, _ => votes > 0 ? 1u : 0u };
        RegisterLanes.Fill(warp.Registers, result, value, uint.MaxValue);
    }

    string Reduction => reduction;
}

/// <summary>`bar.warp.sync`: orders the memory accesses of the named lanes.</summary>
sealed class WarpBarrier(uint members) : Instruction
{
    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        warp.RequireConverged(mask, members);
        warp.Time++;
    }
}

/// <summary>`membar`, `fence`: the emulator performs every access at once, so there is nothing to wait for.</summary>
sealed class Fence : Instruction
{
    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
    }
}
