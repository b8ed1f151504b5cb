using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace IlgpuPeft.PtxEmulator;

/// <summary>What `ld` and `st` share: the address, and the registers of one or more consecutive values.</summary>
abstract unsafe class MemoryInstruction(Space space, Register start, long offset, Register[] values, PtxType type) : Instruction
{
    Allocation? last;

    protected Register[] Values { get; } = values;

    protected PtxType Type { get; } = type;

    /// <summary>Bytes of one value.</summary>
    protected int Size { get; } = type.Size();

    /// <summary>Whether registers hold the very bytes of memory: no value is extended or cut.</summary>
    protected bool IsPlain { get; } = Array.TrueForAll(values, value => value.LaneSize == type.Size());

    public override InstructionClass Class => InstructionClass.Memory;

    [SkipLocalsInit]
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

    protected abstract bool Stores { get; }

    protected abstract void Transfer(EmulatedWarp warp, Space part, AccessShape shape, ulong* addresses, uint mask);

    void Access(EmulatedWarp warp, Space part, ulong* addresses, uint mask)
    {
        int bytes = Size * Values.Length;
        var shape = warp.Block.Shape(this);
        shape.Fit(addresses, mask, bytes);
        MemoryAccess.Check(warp, part, shape, addresses, mask, bytes, ref last);
        MemoryAccess.Count(warp, part, shape, addresses, mask, bytes, Stores);
        Transfer(warp, part, shape, addresses, mask);
    }
}

/// <summary>`ld`.</summary>
sealed unsafe class Load(Space space, Register start, long offset, Register[] values, PtxType type)
    : MemoryInstruction(space, start, offset, values, type)
{
    protected override bool Stores => false;

    protected override void Transfer(EmulatedWarp warp, Space part, AccessShape shape, ulong* addresses, uint mask)
    {
        if (part == Space.Shared)
            Note(warp, shape, addresses, mask);
        for (int i = 0; i < Values.Length; i++)
        {
            byte* to = warp.Registers + Values[i].Slot;
            if (part == Space.Local || !IsPlain)
                for (uint rest = mask; rest != 0; rest &= rest - 1)
                {
                    int lane = BitOperations.TrailingZeroCount(rest);
                    byte* from = MemoryAccess.Pointer(warp, part, addresses[lane], lane) + (i * Size);
                    RegisterLanes.Write(to, Values[i].LaneSize, lane, MemoryValue.Read(from, Type));
                }
            else
                Gather(to, MemoryAccess.Pointer(warp, part, (ulong)(i * Size), lane: 0), shape, addresses, mask);
        }
    }

    void Note(EmulatedWarp warp, AccessShape shape, ulong* addresses, uint mask)
    {
        var shared = warp.Block.Shared;
        if (shape.Words is { } words && shared.Read(warp, shape, words))
            return;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            if (shared.Read(warp, lane, addresses[lane], Size * Values.Length) is { } problem)
                throw PtxEmulatorException.At(warp, lane, problem, addresses[lane]);
        }
    }

    void Gather(byte* to, byte* memory, AccessShape shape, ulong* addresses, uint mask)
    {
        switch (Size)
        {
            case 2:
                Gather((ushort*)to, memory, shape, addresses, mask);
                break;
            case 4:
                Gather((uint*)to, memory, shape, addresses, mask);
                break;
            default:
                Gather((ulong*)to, memory, shape, addresses, mask);
                break;
        }
    }

    /// <summary>Fetches one value for each lane from its address in a piece of memory.</summary>
    void Gather<T>(T* to, byte* memory, AccessShape shape, ulong* addresses, uint mask) where T : unmanaged
    {
        if (shape.IsUniform)
            Vectors.Fill(to, *(T*)(memory + shape.First), mask);
        else if (shape.IsContiguous && Values.Length == 1)
            for (int lane = 0; lane < EmulatedWarp.Size; lane += Vector256<T>.Count)
                Vector256.Load((T*)(memory + shape.First) + lane).StoreAligned(to + lane);
        else if (mask == uint.MaxValue)
            for (int lane = 0; lane < EmulatedWarp.Size; lane++)
                to[lane] = *(T*)(memory + addresses[lane]);
        else
            for (uint rest = mask; rest != 0; rest &= rest - 1)
            {
                int lane = BitOperations.TrailingZeroCount(rest);
                to[lane] = *(T*)(memory + addresses[lane]);
            }
    }
}

/// <summary>`st`. Of lanes that store to one address the highest wins, as good a choice as any.</summary>
sealed unsafe class Store(Space space, Register start, long offset, Register[] values, PtxType type)
    : MemoryInstruction(space, start, offset, values, type)
{
    protected override bool Stores => true;

    protected override void Transfer(EmulatedWarp warp, Space part, AccessShape shape, ulong* addresses, uint mask)
    {
        var shared = warp.Block.Shared;
        bool noted = part == Space.Shared && shape.Words is { IsExclusive: true } words && shared.Write(warp, shape, words);
        if (IsPlain && (noted || part == Space.Global))
            for (int i = 0; i < Values.Length; i++)
                Scatter(warp.Registers + Values[i].Slot, MemoryAccess.Pointer(warp, part, (ulong)(i * Size), lane: 0), shape, addresses, mask);
        else
            LaneByLane(warp, part, addresses, mask, note: part == Space.Shared && !noted);
    }

    void LaneByLane(EmulatedWarp warp, Space part, ulong* addresses, uint mask, bool note)
    {
        byte* value = stackalloc byte[32];
        int bytes = Size * Values.Length;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            for (int i = 0; i < Values.Length; i++)
                *(ulong*)(value + (i * Size)) = RegisterLanes.Read(warp.Registers + Values[i].Slot, Values[i].LaneSize, lane);
            if (note && warp.Block.Shared.Write(warp, lane, addresses[lane], bytes, value) is { } problem)
                throw PtxEmulatorException.At(warp, lane, problem, addresses[lane]);
            new ReadOnlySpan<byte>(value, bytes).CopyTo(new Span<byte>(MemoryAccess.Pointer(warp, part, addresses[lane], lane), bytes));
        }
    }

    void Scatter(byte* from, byte* memory, AccessShape shape, ulong* addresses, uint mask)
    {
        switch (Size)
        {
            case 2:
                Scatter((ushort*)from, memory, shape, addresses, mask);
                break;
            case 4:
                Scatter((uint*)from, memory, shape, addresses, mask);
                break;
            default:
                Scatter((ulong*)from, memory, shape, addresses, mask);
                break;
        }
    }

    void Scatter<T>(T* from, byte* memory, AccessShape shape, ulong* addresses, uint mask) where T : unmanaged
    {
        if (shape.IsContiguous && Values.Length == 1)
            for (int lane = 0; lane < EmulatedWarp.Size; lane += Vector256<T>.Count)
                Vector256.LoadAligned(from + lane).Store((T*)(memory + shape.First) + lane);
        else
            for (uint rest = mask; rest != 0; rest &= rest - 1)
            {
                int lane = BitOperations.TrailingZeroCount(rest);
                *(T*)(memory + addresses[lane]) = from[lane];
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
                RegisterLanes.Fill(warp.Registers, values[i], MemoryValue.Read(parameters + offset + (i * type.Size()), type), mask);
    }
}

/// <summary>`cvta`: between an address of one space and a generic one.</summary>
sealed unsafe class ConvertAddress(Register d, Register a, Space space, bool toGeneric) : Instruction
{
    const ulong Top = 0xFFUL << 56;

    public override InstructionClass Class => InstructionClass.Move;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        ulong* from = (ulong*)(warp.Registers + a.Slot), to = (ulong*)(warp.Registers + d.Slot);
        var window = Vector256.Create(space switch { Space.Shared => MemoryAccess.SharedWindow, Space.Local => MemoryAccess.LocalWindow, _ => 0 });
        uint outside = 0;
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<ulong>.Count)
        {
            var address = Vector256.LoadAligned(from + i);
            var within = Vector256.Equals(address & Vector256.Create(Top), window) | Vector256.Equals(address, Vector256<ulong>.Zero);
            outside |= (~within).ExtractMostSignificantBits() << i;
        }
        outside &= toGeneric ? 0 : mask;
        if (outside != 0)
        {
            int lane = BitOperations.TrailingZeroCount(outside);
            throw PtxEmulatorException.At(warp, lane, "the generic address does not lie in the space that cvta.to names", from[lane]);
        }
        for (int i = 0; i < EmulatedWarp.Size; i += Vector256<ulong>.Count)
        {
            var address = Vector256.LoadAligned(from + i);
            Vectors.Store(to, i, toGeneric ? address | window : address & Vector256.Create(~Top), mask);
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
