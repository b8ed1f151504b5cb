using System.Numerics;

namespace IlgpuPeft.PtxEmulator;

enum ShuffleMode { Index, Up, Down, Butterfly }

/// <summary>`shfl.sync`: each lane reads a register of another. A lane that looks outside its segment keeps its own value.</summary>
sealed unsafe class Shuffle(ShuffleMode mode, Register d, Register? inside, Register a, Register b, Register clamp, Register members) : Instruction
{
    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        byte* r = warp.Registers;
        uint* from = (uint*)(r + a.Slot), to = (uint*)(r + d.Slot);
        uint* values = stackalloc uint[EmulatedWarp.Size];
        new ReadOnlySpan<uint>(from, EmulatedWarp.Size).CopyTo(new Span<uint>(values, EmulatedWarp.Size));
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            uint named = ((uint*)(r + members.Slot))[lane];
            warp.RequireConverged(mask, named);
            int by = (int)(((uint*)(r + b.Slot))[lane] & 31);
            uint c = ((uint*)(r + clamp.Slot))[lane];
            // Bits 8..12 of c cut the warp into segments, bits 0..4 are the last (for `up` the first) lane within one.
            int segment = (int)(c >> 8 & 31), limit = (int)(c & 31);
            int last = (lane & segment) | (limit & ~segment), first = lane & segment;
            int source = mode switch
            {
                ShuffleMode.Up => lane - by,
                ShuffleMode.Down => lane + by,
                ShuffleMode.Butterfly => lane ^ by,
                _ => first | (by & ~segment),
            };
            bool valid = mode == ShuffleMode.Up ? source >= last : source <= last;
            if (!valid)
                source = lane;
            // A lane without a thread is read by partial warps that then ignore the value; one that is elsewhere has no value to give.
            if ((mask >> source & 1) == 0 && (warp.AllLanes >> source & 1) != 0)
                throw warp.Fault($"shuffle reads lane {source}, which {((warp.Alive >> source & 1) == 0 ? "has returned" : "is on another path")}", 1u << lane);
            if ((named >> source & 1) == 0)
                throw warp.Fault($"shuffle reads lane {source}, which the member mask 0x{named:x} does not name", 1u << lane);
            to[lane] = values[source];
            if (inside != null)
                RegisterLanes.Write(r + inside.Slot, 0, lane, valid ? 1u : 0);
        }
    }
}

/// <summary>`vote.sync`: one result from the predicates of all members.</summary>
sealed unsafe class Vote(string mode, Register d, Register p, bool negated, Register members) : Instruction
{
    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        uint value = *(uint*)(warp.Registers + p.Slot);
        if (negated)
            value = ~value;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            uint named = ((uint*)(warp.Registers + members.Slot))[lane];
            warp.RequireConverged(mask, named);
            uint counted = mask & named, yes = value & counted;
            ulong result = mode switch
            {
                "ballot" => yes,
                "all" => yes == counted ? 1u : 0,
                "any" => yes != 0 ? 1u : 0,
                _ => yes == 0 || yes == counted ? 1u : 0,
            };
            RegisterLanes.Write(warp.Registers + d.Slot, d.LaneSize, lane, result);
        }
    }
}

/// <summary>`redux.sync`: an integer reduction over the members.</summary>
sealed unsafe class Reduce(Func<uint, uint, uint> operation, Register d, Register a, Register members) : Instruction
{
    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        uint named = ((uint*)(warp.Registers + members.Slot))[BitOperations.TrailingZeroCount(mask)];
        warp.RequireConverged(mask, named);
        uint* from = (uint*)(warp.Registers + a.Slot), to = (uint*)(warp.Registers + d.Slot);
        uint counted = mask & named;
        uint result = from[BitOperations.TrailingZeroCount(counted)];
        for (uint rest = counted & (counted - 1); rest != 0; rest &= rest - 1)
            result = operation(result, from[BitOperations.TrailingZeroCount(rest)]);
        for (uint rest = mask; rest != 0; rest &= rest - 1)
            to[BitOperations.TrailingZeroCount(rest)] = result;
    }
}

/// <summary>`match.sync`: which members have the same value.</summary>
sealed unsafe class Match(bool all, Register d, Register? agree, Register a, Register members) : Instruction
{
    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        byte* r = warp.Registers, values = r + a.Slot;
        var results = stackalloc uint[EmulatedWarp.Size];
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            uint named = ((uint*)(r + members.Slot))[lane];
            warp.RequireConverged(mask, named);
            for (uint others = mask & named; others != 0; others &= others - 1)
            {
                int other = BitOperations.TrailingZeroCount(others);
                if (RegisterLanes.Read(values, a.LaneSize, other) == RegisterLanes.Read(values, a.LaneSize, lane))
                    results[lane] |= 1u << other;
            }
            if (all && results[lane] != (mask & named))
                results[lane] = 0;
        }
        for (uint rest = mask; rest != 0; rest &= rest - 1)
        {
            int lane = BitOperations.TrailingZeroCount(rest);
            ((uint*)(r + d.Slot))[lane] = results[lane];
            if (agree != null)
                RegisterLanes.Write(r + agree.Slot, 0, lane, results[lane] != 0 ? 1u : 0);
        }
    }
}

/// <summary>`activemask`: the lanes on this path.</summary>
sealed unsafe class ActiveMask(Register d) : Instruction
{
    public override InstructionClass Class => InstructionClass.Synchronization;

    public override void Execute(EmulatedWarp warp, uint mask)
    {
        for (uint rest = mask; rest != 0; rest &= rest - 1)
            ((uint*)(warp.Registers + d.Slot))[BitOperations.TrailingZeroCount(rest)] = mask;
    }
}
