using System.Numerics;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

sealed unsafe class Copy<T>(Register d, Register a) : Instruction where T : unmanaged
{
    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        T* to = (T*)(warp.Registers + d.Slot), from = (T*)(warp.Registers + a.Slot);
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<T>.Count)
            Vectors.Store(to, i, Vector256.LoadAligned(from + i), mask);
    }
}

sealed unsafe class PredicateMove(Register d, Register a) : Instruction
{
    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        uint* to = (uint*)(warp.Registers + d.Slot);
        *to = (*to & ~mask) | (*(uint*)(warp.Registers + a.Slot) & mask);
    }
}

/// <summary>`mov.b64 {low, high}, a`.</summary>
sealed unsafe class Unpack(Register[] parts, Register whole) : Instruction
{
    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            ulong bits = RegisterLanes.Read(warp.Registers + whole.Slot, whole.LaneSize, lane);
            foreach (var part in parts)
            {
                RegisterLanes.Write(warp.Registers + part.Slot, part.LaneSize, lane, bits);
                bits >>= 8 * part.LaneSize;
            }
        }
    }
}

/// <summary>`mov.b64 d, {low, high}`.</summary>
sealed unsafe class Pack(Register whole, Register[] parts) : Instruction
{
    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            ulong bits = 0;
            for (int i = parts.Length - 1; i >= 0; i--)
                bits = (bits << (8 * parts[i].LaneSize)) | RegisterLanes.Read(warp.Registers + parts[i].Slot, parts[i].LaneSize, lane);
            RegisterLanes.Write(warp.Registers + whole.Slot, whole.LaneSize, lane, bits);
        }
    }
}
