namespace IlgpuPeft.PtxEmulator;

/// <summary>ldmatrix and mma.sync.</summary>
static class TensorDecoder
{
    public static Instruction LoadMatrix(DecodeContext c)
    {
        if (!c.Take("sync") || !c.Take("aligned") || !c.Take("m8n8") || !c.Take("shared"))
            throw c.Unknown();
        int count = c.TakeAny("x1", "x2", "x4") switch { "x1" => 1, "x2" => 2, "x4" => 4, _ => throw c.Unknown() };
        bool transpose = c.Take("trans");
        if (c.TakeType() != PtxType.U16)
            throw c.Unknown();
        var values = Registers(c, 0, count, write: true);
        var (_, start, offset) = MemoryDecoder.Place(c, 1, Space.Shared);
        return new LoadMatrix(values, start, offset, transpose);
    }

    public static Instruction Multiply(DecodeContext c)
    {
        if (!c.Take("sync") || !c.Take("aligned") || !c.Take("m16n8k16") || !c.Take("row") || !c.Take("col"))
            throw c.Unknown();
        var (sum, b, a, result) = (c.TakeType(), c.TakeType(), c.TakeType(), c.TakeType());
        if (sum != PtxType.F32 || result != PtxType.F32 || a != b || (a != PtxType.F16 && a != PtxType.Bf16))
            throw c.Unknown();
        return new MatrixMultiply(
            a == PtxType.Bf16, Registers(c, 0, 4, write: true), Registers(c, 1, 4), Registers(c, 2, 2), Registers(c, 3, 4));
    }

    static Register[] Registers(DecodeContext c, int operand, int count, bool write = false)
    {
        var items = c.Items(operand);
        if (items.Length != count)
            throw c.Malformed($"operand {operand + 1} has {items.Length} registers, expected {count}");
        return [.. items.Select(item => write || item is Register ? c.Writable(item, 4) : throw c.Malformed("matrix operands must be registers"))];
    }
}
