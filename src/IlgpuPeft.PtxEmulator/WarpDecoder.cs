namespace IlgpuPeft.PtxEmulator;

/// <summary>Instructions by which the threads of a warp or block work together.</summary>
static class WarpDecoder
{
    public static Instruction Shuffle(DecodeContext c)
    {
        if (!c.Take("sync"))
            throw c.Unknown();
        var mode = c.TakeAny("idx", "up", "down", "bfly") switch
        {
            "idx" => ShuffleMode.Index,
            "up" => ShuffleMode.Up,
            "down" => ShuffleMode.Down,
            "bfly" => ShuffleMode.Butterfly,
            _ => throw c.Unknown(),
        };
        if (c.TakeType().Size() != 4)
            throw c.Unknown();
        var pair = c.Operand(0) as Pair;
        return new Shuffle(
            mode, c.Writable(pair?.First ?? c.Operand(0), 4), pair == null ? null : c.Writable(pair.Second, 0), c.Source(1, 4), c.Source(2, 4),
            c.Source(3, 4), c.Source(4, 4));
    }

    public static Instruction Vote(DecodeContext c)
    {
        string mode = c.Take("sync") ? c.TakeAny("ballot", "all", "any", "uni") ?? throw c.Unknown() : throw c.Unknown();
        c.TakeType();
        var (p, negated) = c.Predicate(1);
        return new Vote(mode, c.Destination(0, mode == "ballot" ? 4 : 0), p, negated, c.Source(2, 4));
    }

    public static Instruction Reduce(DecodeContext c)
    {
        string operation = c.Take("sync") ? c.TakeAny("add", "min", "max", "and", "or", "xor") ?? throw c.Unknown() : throw c.Unknown();
        bool signed = c.TakeType() switch { PtxType.S32 => true, PtxType.U32 => false, _ => throw c.Unknown() };
        Func<uint, uint, uint> function = operation switch
        {
            "add" => (x, y) => x + y,
            "and" => (x, y) => x & y,
            "or" => (x, y) => x | y,
            "xor" => (x, y) => x ^ y,
            "min" => signed ? (x, y) => (uint)Math.Min((int)x, (int)y) : Math.Min,
            _ => signed ? (x, y) => (uint)Math.Max((int)x, (int)y) : Math.Max,
        };
        return new Reduce(function, c.Destination(0, 4), c.Source(1, 4), c.Source(2, 4));
    }

    public static Instruction ActiveMask(DecodeContext c)
    {
        c.TakeType();
        return new ActiveMask(c.Destination(0, 4));
    }

    /// <summary>`match.any`: the lanes with the same value. `match.all d|p`: all lanes if all values agree, else none.</summary>
    public static Instruction Match(DecodeContext c)
    {
        bool all = c.TakeAny("any", "all") switch { "all" => true, "any" => false, _ => throw c.Unknown() };
        if (!c.Take("sync"))
            throw c.Unknown();
        int size = c.TakeType() switch { PtxType.U32 => 4, PtxType.U64 => 8, _ => throw c.Unknown() };
        var pair = c.Operand(0) as Pair;
        if (pair != null && !all)
            throw c.Malformed("only match.all has a predicate as second result");
        return new Match(
            all, c.Writable(pair?.First ?? c.Operand(0), 4), pair == null ? null : c.Writable(pair.Second, 0), c.Source(1, size), c.Source(2, 4));
    }

    /// <summary>`bar` and `barrier`: of a block, or of a warp.</summary>
    public static Instruction Barrier(DecodeContext c)
    {
        if (c.Take("warp"))
            return c.Take("sync") ? new WarpBarrier(c.Source(0, 4)) : throw c.Unknown();
        c.Take("cta");
        c.Take("aligned");
        bool arrives = c.Take("arrive");
        if (arrives || c.Take("sync"))
            return new Barrier(c.Source(0, 4), c.Count > 1 || arrives ? c.Source(1, 4) : null, arrives, "", null, null, false);
        string reduction = c.Take("red") ? c.TakeAny("popc", "and", "or") ?? throw c.Unknown() : throw c.Unknown();
        if (c.TakeType() != (reduction == "popc" ? PtxType.U32 : PtxType.Pred))
            throw c.Unknown();
        var (p, negated) = c.Predicate(c.Count - 1);
        return new Barrier(
            c.Source(1, 4), c.Count > 3 ? c.Source(2, 4) : null, arrives, reduction, c.Destination(0, reduction == "popc" ? 4 : 0), p, negated);
    }

    public static Instruction Fence(DecodeContext c)
    {
        while (c.TakeAny("cta", "gl", "gpu", "sys", "sc", "acq_rel", "proxy", "alias") != null)
            continue;
        return new Nothing(InstructionClass.Synchronization);
    }
}
