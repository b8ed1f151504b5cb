using System.Numerics;
using System.Runtime.CompilerServices;

namespace IlgpuPeft.PtxEmulator;

/// <summary>An atomic operation of any type.</summary>
abstract class AtomicInstruction : Instruction
{
    /// <summary>Whether another order of the blocks could give another result: an old value is returned or exchanged, or floats are added.</summary>
    public abstract bool DependsOnOrder { get; }

    public override InstructionClass Class => InstructionClass.Atomic;
}

/// <summary>`atom` and `red`: lanes act one after the other in ascending order, warps and blocks in theirs.</summary>
sealed unsafe class AtomicInstruction<T>(
    Space space, bool ordered, Register? d, Register start, long offset, Register a, Register? b, Func<T, T, T, T> operation, Func<T, T, T, T> inGlobal)
    : AtomicInstruction where T : unmanaged
{
    public override bool DependsOnOrder => ordered && space != Space.Shared;

    Allocation? last;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        ulong* addresses = stackalloc ulong[EmulatedWarp.Size];
        MemoryAccess.Addresses(warp, start, offset, addresses);
        if (space != Space.Generic)
        {
            Access(warp, space, addresses, mask);
            return;
        }
        foreach (var part in (ReadOnlySpan<Space>)[Space.Shared, Space.Global])
        {
            uint lanes = MemoryAccess.Select(addresses, mask, part);
            if (lanes != 0)
                Access(warp, part, addresses, lanes);
            mask &= ~lanes;
        }
        if (mask != 0)
            throw warp.Fault("atomics act on global and shared memory only", mask, addresses[BitOperations.TrailingZeroCount(mask)]);
    }

    void Access(EmulatedWarp warp, Space part, ulong* addresses, uint mask)
    {
        var shape = warp.Block.Shape(this);
        shape.Fit(addresses, mask, sizeof(T));
        MemoryAccess.Check(warp, part, shape, addresses, mask, sizeof(T), ref last);
        MemoryAccess.Count(warp, part, shape, addresses, mask, sizeof(T), store: true);
        T* x = (T*)(warp.Registers + a.Slot), y = (T*)(warp.Registers + (b ?? a).Slot);
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            if (part == Space.Shared && warp.Block.Shared.ReadModifyWrite(warp, lane, addresses[lane], sizeof(T)) is { } problem)
                throw PtxEmulatorException.At(warp, lane, problem, addresses[lane]);
            T old = Update(part == Space.Global ? inGlobal : operation, ref *(T*)MemoryAccess.Pointer(warp, part, addresses[lane], lane), x[lane], y[lane]);
            if (d != null)
                ((T*)(warp.Registers + d.Slot))[lane] = old;
        }
    }

    /// <summary>Compares and exchanges the bits of a value, as an integer of its size.</summary>
    static T Exchange<TBits>(ref T target, T updated, T old) where TBits : unmanaged => Unsafe.BitCast<TBits, T>(Interlocked.CompareExchange(
        ref Unsafe.As<T, TBits>(ref target), Unsafe.BitCast<T, TBits>(updated), Unsafe.BitCast<T, TBits>(old)));

    static T Update(Func<T, T, T, T> apply, ref T target, T x, T y)
    {
        // Other blocks run on other threads.
        while (true)
        {
            T old = target, updated = apply(old, x, y);
            T seen = sizeof(T) switch
            {
                2 => Exchange<ushort>(ref target, updated, old),
                4 => Exchange<uint>(ref target, updated, old),
                _ => Exchange<ulong>(ref target, updated, old),
            };
            if (new ReadOnlySpan<byte>(&seen, sizeof(T)).SequenceEqual(new ReadOnlySpan<byte>(&old, sizeof(T))))
                return old;
        }
    }
}
