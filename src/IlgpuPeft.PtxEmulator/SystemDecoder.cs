namespace IlgpuPeft.PtxEmulator;

/// <summary>Questions about addresses and time, and hints that change no result.</summary>
static class SystemDecoder
{
    /// <summary>`isspacep`: whether a generic address lies in a state space.</summary>
    public static Instruction IsSpace(DecodeContext c)
    {
        ulong window = c.TakeAny("global", "shared", "shared::cta", "local") switch
        {
            "global" => 0,
            "shared" or "shared::cta" => MemoryAccess.SharedWindow,
            "local" => MemoryAccess.LocalWindow,
            _ => throw c.Unknown(),
        };
        return new TestProperty<ulong>(c.Destination(0, 0), c.Source(1, 8), address => address >> 56 == window >> 56);
    }

    /// <summary>`prefetch`, `prefetchu` and `applypriority`: an address and where to keep what is there.</summary>
    public static Instruction Prefetch(DecodeContext c)
    {
        MemoryDecoder.TakeSpace(c);
        while (c.TakeAny("L1", "L2", "L2::evict_last", "L2::evict_normal") != null)
            continue;
        MemoryDecoder.Place(c, 0, Space.Generic);
        if (c.Count > 1)
            c.Literal(1);
        return new Nothing(InstructionClass.Memory);
    }

    /// <summary>`createpolicy`: how long the cache should keep something; here a zero.</summary>
    public static Instruction CreatePolicy(DecodeContext c)
    {
        if (!c.Take("fractional") || c.TakeType() != PtxType.U64)
            throw c.Unknown();
        while (c.TakeAny("L2::evict_last", "L2::evict_normal", "L2::evict_first", "L2::evict_unchanged") != null)
            continue;
        if (c.Count > 1)
            c.Operand(1);
        return new Copy<ulong>(c.Destination(0, 8), c.Module.Registers.Constant(8, 0));
    }

    /// <summary>`nanosleep`.</summary>
    public static Instruction Sleep(DecodeContext c)
    {
        c.TakeType();
        c.Source(0, 4);
        return new Nothing(InstructionClass.Control);
    }
}

/// <summary>
/// `mov` from `%clock`, `%clock64` or `%globaltimer`: the number of warp instructions that the block has run so far. It only grows, and
/// is the same on every run.
/// </summary>
sealed class ReadClock(Register d, int shift) : Instruction
{
    static readonly Dictionary<string, (int LaneSize, int Shift)> Names = new()
    {
        ["%clock"] = (4, 0), ["%clock_hi"] = (4, 32), ["%clock64"] = (8, 0),
        ["%globaltimer"] = (8, 0), ["%globaltimer_lo"] = (4, 0), ["%globaltimer_hi"] = (4, 32),
    };

    public override InstructionClass Class => InstructionClass.Move;

    /// <summary>The instruction that reads a register of this name, or null if it is no clock.</summary>
    public static ReadClock? Of(DecodeContext c) => c.Operand(1) is Name name && Names.TryGetValue(name.Text, out var clock)
        ? new ReadClock(c.Destination(0, clock.LaneSize), clock.Shift)
        : null;

    public override unsafe void Execute(EmulatedWarp warp, uint mask)
    {
        ulong value = (ulong)warp.Block.Clock >> shift;
        for (uint rest = mask; rest != 0; rest &= rest - 1)
            RegisterLanes.Write(warp.Registers + d.Slot, d.LaneSize, System.Numerics.BitOperations.TrailingZeroCount(rest), value);
    }
}
