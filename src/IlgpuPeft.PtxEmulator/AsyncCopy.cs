using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>`cp.async`: from global to shared memory, past the registers.</summary>
sealed unsafe class AsyncCopy(
    Register to, long toOffset, Register from, long fromOffset, int size, Register? used, Register? ignore, bool ignoreNegated) : Instruction
{
    Allocation? last;

    public override InstructionClass Class => InstructionClass.Memory;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        ulong* targets = stackalloc ulong[EmulatedWarp.Size], sources = stackalloc ulong[EmulatedWarp.Size];
        MemoryAccess.Addresses(warp, to, toOffset, targets);
        MemoryAccess.Addresses(warp, from, fromOffset, sources);
        AccessShape target = warp.Block.Shape(this), source = warp.Block.Shape(this, second: true);
        target.Fit(targets, mask, size);
        MemoryAccess.Check(warp, Space.Shared, target, targets, mask, size, ref last);
        // Bytes beyond the used ones are zeros and are not read.
        uint reading = 0;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            reading |= Used(warp, lane) > 0 ? 1u << lane : 0;
        }
        if (reading != 0)
        {
            source.Fit(sources, reading, size);
            MemoryAccess.Check(warp, Space.Global, source, sources, reading, used == null ? size : 1, ref last);
            MemoryAccess.Count(warp, Space.Global, source, sources, reading, size, store: false);
        }
        MemoryAccess.Count(warp, Space.Shared, target, targets, mask, size, store: true);
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest), length = Used(warp, lane);
            if (length > 0 && used != null && warp.Block.Launch.Memory.Problem(sources[lane], length) is { } problem)
                throw PtxEmulatorException.At(warp, lane, problem, sources[lane]);
            warp.Copies.Start(warp, lane, targets[lane], size, new ReadOnlySpan<byte>((void*)sources[lane], length));
        }
    }

    /// <summary>Bytes of the source that a lane reads; the rest of its copy are zeros.</summary>
    int Used(EmulatedWarp warp, int lane)
    {
        if (ignore != null && RegisterLanes.Read(warp.Registers + ignore.Slot, 0, lane) != (ignoreNegated ? 1u : 0))
            return 0;
        if (used == null)
            return size;
        uint bytes = (uint)RegisterLanes.Read(warp.Registers + used.Slot, used.LaneSize, lane);
        return bytes <= size ? (int)bytes : throw warp.Fault($"cp.async of {size} bytes is told to read {bytes}", 1u << lane);
    }
}

sealed class CommitCopies : Instruction
{
    public override InstructionClass Class => InstructionClass.Memory;

    public override void Execute(EmulatedWarp warp, uint mask) => warp.Copies.Commit(mask);
}

sealed class WaitForCopies(int left, bool all) : Instruction
{
    public override InstructionClass Class => InstructionClass.Memory;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        if (all)
            warp.Copies.Commit(mask);
        warp.Copies.Wait(warp, mask, left);
    }
}
