namespace IlgpuPeft.PtxEmulator;

/// <summary>mov, also between one register and its parts.</summary>
static class MoveDecoder
{
    public static Instruction Move(DecodeContext c)
    {
        var type = c.TakeType();
        if (type == PtxType.Pred)
            return new PredicateMove(c.Destination(0, 0), c.Source(1, 0));
        int size = type.Size();
        if (ReadClock.Of(c) is { } clock)
            return clock;
        if (c.Operand(0) is Vector parts)
            return new Unpack([.. parts.Items.Select(item => c.Writable(item, size / parts.Items.Count))], c.Source(1, size));
        if (c.Operand(1) is Vector whole)
            return new Pack(c.Destination(0, size), [.. whole.Items.Select(item => c.Source(item, size / whole.Items.Count))]);
        var (d, a) = (c.Destination(0, size), c.Source(1, size));
        return size switch
        {
            2 => new Copy<ushort>(d, a),
            4 => new Copy<uint>(d, a),
            8 => new Copy<ulong>(d, a),
            _ => throw c.Unknown(),
        };
    }
}
