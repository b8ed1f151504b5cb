using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>`bra`: to another instruction; under a guard, for some lanes.</summary>
sealed class Branch(bool uniform) : Instruction
{
    public int Target { get; set; }

    /// <summary>Where diverged lanes meet, or -1.</summary>
    public int Join { get; set; }

    public override InstructionClass Class => InstructionClass.Control;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        if (uniform && !warp.Runs(mask))
            throw warp.Fault("bra.uni promises that all lanes agree, and they do not", mask);
        warp.Branch(mask, Target, Join);
    }
}

/// <summary>`brx.idx`: each lane picks a target from a list.</summary>
sealed unsafe class IndexedBranch(Register index, bool uniform) : Instruction
{
    public int[] Targets { get; set; } = [];

    public int Join { get; set; }

    public override InstructionClass Class => InstructionClass.Control;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        var lanesOf = new uint[Targets.Length];
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            uint choice = (uint)RegisterLanes.Read(warp.Registers + index.Slot, index.LaneSize, lane);
            if (choice >= (uint)Targets.Length)
                throw warp.Fault($"brx.idx picks target {choice} of {Targets.Length}", 1u << lane);
            lanesOf[choice] |= 1u << lane;
        }
        if (uniform && Array.FindIndex(lanesOf, lanes => lanes == mask) < 0)
            throw warp.Fault("brx.idx.uni promises that all lanes agree, and they do not", mask);
        warp.Scatter(lanesOf, Targets, Join);
    }
}

/// <summary>`call`: the parameters have been stored where the function reads them.</summary>
sealed class Call(string function) : Instruction
{
    public string Function { get; } = function;

    public int Target { get; set; }

    public override InstructionClass Class => InstructionClass.Control;

    public override void Execute(EmulatedWarp warp, uint mask) => warp.Call(Target, mask);
}

/// <summary>Hands parameters to a function, or its result back: a copy within each lane's memory. No instruction of the PTX.</summary>
sealed unsafe class PassParameter(int from, int to, int bytes) : Instruction
{
    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        int stride = warp.Block.Launch.Program.LaneBytes;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            byte* lane = warp.LaneMemory + (BitOperations.TrailingZeroCount(rest) * stride);
            Buffer.MemoryCopy(lane + from, lane + to, bytes, bytes);
        }
    }
}

/// <summary>`ret` and `exit`.</summary>
sealed class Return(bool exit) : Instruction
{
    public override InstructionClass Class => InstructionClass.Control;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        if (exit)
            warp.Exit(mask);
        else
            warp.Return(mask);
    }
}

/// <summary>`trap`: the kernel gives up.</summary>
sealed class Trap : Instruction
{
    public override InstructionClass Class => InstructionClass.Control;

    public override void Execute(EmulatedWarp warp, uint mask) => throw warp.Fault("trap", mask);
}
