using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>What `ld` and `st` share: the address, and the registers of one or more consecutive values.</summary>
abstract unsafe class MemoryInstruction(Space space, Register start, long offset, Register[] values, PtxType type) : Instruction
{
    Allocation? last;

    protected Register[] Values { get; } = values;

    protected PtxType Type { get; } = type;

    /// <summary>Bytes of one value.</summary>
    protected int Size { get; } = type.Size();

    public override InstructionClass Class => InstructionClass.Memory;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[EmulatedWarp.Size];
        MemoryAccess.Addresses(warp, start, offset, addresses);
        if (space != Space.Generic)
        {
            Access(warp, space, addresses, mask);
            return;
        }
        foreach (var part in (ReadOnlySpan<Space>)[Space.Shared, Space.Local, Space.Global])
        {
            uint lanes = MemoryAccess.Select(addresses, mask, part);
            if (lanes != 0)
                Access(warp, part, addresses, lanes);
            mask &= ~lanes;
        }
        if (mask != 0)
            throw warp.Fault("out of bounds: no memory has such an address", mask, addresses[BitOperations.TrailingZeroCount(mask)]);
    }

    protected abstract void Transfer(EmulatedWarp warp, Space part, ulong* addresses, uint mask);

    protected abstract bool Stores { get; }

    void Access(EmulatedWarp warp, Space part, ulong* addresses, uint mask)
    {
        int bytes = Size * Values.Length;
        var seen = last;
        MemoryAccess.Check(warp, part, addresses, mask, bytes, ref seen);
        if (seen != last)
            last = seen;
        MemoryAccess.Count(warp, part, addresses, mask, bytes, Stores);
        Transfer(warp, part, addresses, mask);
    }
}

/// <summary>`ld`.</summary>
sealed unsafe class Load(Space space, Register start, long offset, Register[] values, PtxType type)
    : MemoryInstruction(space, start, offset, values, type)
{
    protected override bool Stores => false;

    protected override void Transfer(EmulatedWarp warp, Space part, ulong* addresses, uint mask)
    {
        if (part == Space.Shared)
        {
            var shared = warp.Block.Shared;
            int bytes = Size * Values.Length;
            for (uint rest = mask; rest != 0; rest &= rest - 1)
            {
                int lane = BitOperations.TrailingZeroCount(rest);
                if (shared.Read(warp, lane, addresses[lane], bytes) is { } problem)
                    throw PtxEmulatorException.At(warp, lane, problem, addresses[lane]);
            }
        }
        for (int i = 0; i < Values.Length; i++)
        {
            var register = Values[i];
            byte* to = warp.Registers + register.Slot;
            if (Size == 4 && register.LaneSize == 4)
                for (uint rest = mask; rest != 0; rest &= rest - 1)
                {
                    int lane = BitOperations.TrailingZeroCount(rest);
                    ((uint*)to)[lane] = ((uint*)MemoryAccess.Pointer(warp, part, addresses[lane], lane))[i];
                }
            else
                for (uint rest = mask; rest != 0; rest &= rest - 1)
                {
                    int lane = BitOperations.TrailingZeroCount(rest);
                    byte* from = MemoryAccess.Pointer(warp, part, addresses[lane], lane) + (i * Size);
                    RegisterLanes.Write(to, register.LaneSize, lane, MemoryValue.Read(from, Type));
                }
        }
    }
}

/// <summary>`st`. Of lanes that store to one address the highest wins, as good a choice as any.</summary>
sealed unsafe class Store(Space space, Register start, long offset, Register[] values, PtxType type)
    : MemoryInstruction(space, start, offset, values, type)
{
    protected override bool Stores => true;

    protected override void Transfer(EmulatedWarp warp, Space part, ulong* addresses, uint mask)
    {
        byte* value = stackalloc byte[32];
        int bytes = Size * Values.Length;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            for (int i = 0; i < Values.Length; i++)
                *(ulong*)(value + (i * Size)) = RegisterLanes.Read(warp.Registers + Values[i].Slot, Values[i].LaneSize, lane);
            if (part == Space.Shared && warp.Block.Shared.Write(warp, lane, addresses[lane], bytes, value) is { } problem)
                throw PtxEmulatorException.At(warp, lane, problem, addresses[lane]);
            new ReadOnlySpan<byte>(value, bytes).CopyTo(new Span<byte>(MemoryAccess.Pointer(warp, part, addresses[lane], lane), bytes));
        }
    }
}

/// <summary>`ld.param` of the kernel's own parameters: the same for every thread.</summary>
sealed unsafe class LoadParameter(int offset, Register[] values, PtxType type) : Instruction
{
    public override InstructionClass Class => InstructionClass.Memory;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        fixed (byte* parameters = warp.Block.Launch.Arguments)
            for (int i = 0; i < values.Length; i++)
            {
                ulong bits = MemoryValue.Read(parameters + offset + (i * type.Size()), type);
                for (uint rest = mask; rest != 0; rest &= rest - 1)
                    RegisterLanes.Write(warp.Registers + values[i].Slot, values[i].LaneSize, BitOperations.TrailingZeroCount(rest), bits);
            }
    }
}

/// <summary>`cvta`: between an address of one space and a generic one.</summary>
sealed unsafe class ConvertAddress(Register d, Register a, Space space, bool toGeneric) : Instruction
{
    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        ulong window = space switch { Space.Shared => MemoryAccess.SharedWindow, Space.Local => MemoryAccess.LocalWindow, _ => 0 };
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            ulong address = RegisterLanes.Read(warp.Registers + a.Slot, a.LaneSize, lane);
            if (!toGeneric && address >> 56 != window >> 56 && address != 0)
                throw PtxEmulatorException.At(warp, lane, "the generic address does not lie in the space that cvta.to names", address);
            RegisterLanes.Write(warp.Registers + d.Slot, d.LaneSize, lane, toGeneric ? address | window : address & ~(0xFFUL << 56));
        }
    }
}

static unsafe class MemoryValue
{
    /// <summary>Reads a value; a signed integer is extended by its sign.</summary>
    public static ulong Read(byte* at, PtxType type) => type switch
    {
        PtxType.S8 => (ulong)*(sbyte*)at,
        PtxType.U8 => *at,
        PtxType.S16 => (ulong)*(short*)at,
        PtxType.S32 => (ulong)*(int*)at,
        _ => type.Size() switch { 2 => *(ushort*)at, 4 => *(uint*)at, _ => *(ulong*)at },
    };
}
