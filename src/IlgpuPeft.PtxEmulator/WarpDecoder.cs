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

    public static Instruction Barrier(DecodeContext c)
    {
        if (c.Take("warp"))
            return c.Take("sync") ? new WarpBarrier((uint)c.Literal(0)) : throw c.Unknown();
        c.Take("cta");
        c.Take("aligned");
        if (c.Take("sync"))
        {
            if (c.Count > 1)
                throw c.Malformed("barriers of a part of the block are not supported");
            return new Barrier(c.Literal(0), "", null, null, false);
        }
        string reduction = c.Take("red") ? c.TakeAny("popc", "and", "or") ?? throw c.Unknown() : throw c.Unknown();
        c.TakeType();
        if (c.Count > 3)
            throw c.Malformed("barriers of a part of the block are not supported");
        var (p, negated) = c.Predicate(2);
        return new Barrier(c.Literal(1), reduction, c.Destination(0, reduction == "popc" ? 4 : 0), p, negated);
    }

    public static Instruction Fence(DecodeContext c)
    {
        while (c.TakeAny("cta", "gl", "gpu", "sys", "sc", "acq_rel") != null)
            continue;
        return new Fence();
    }
}
