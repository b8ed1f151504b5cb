namespace IlgpuPeft.PtxEmulator;

/// <summary>ldmatrix, movmatrix and mma.sync.</summary>
static class TensorDecoder
{
    public static Instruction LoadMatrix(DecodeContext c)
    {
        if (!c.Take("sync") || !c.Take("aligned") || !c.Take("m8n8") || c.TakeAny("shared", "shared::cta") == null)
            throw c.Unknown();
        int count = c.TakeAny("x1", "x2", "x4") switch { "x1" => 1, "x2" => 2, "x4" => 4, _ => throw c.Unknown() };
        bool transpose = c.Take("trans");
        if (c.TakeType() != PtxType.U16)
            throw c.Unknown();
        var values = Registers(c, 0, count, size: 4, write: true);
        var (_, start, offset) = MemoryDecoder.Place(c, 1, Space.Shared);
        return new LoadMatrix(values, start, offset, transpose);
    }

    public static Instruction MoveMatrix(DecodeContext c)
    {
        if (!c.Take("sync") || !c.Take("aligned") || !c.Take("m8n8") || !c.Take("trans") || c.TakeType() != PtxType.U16)
            throw c.Unknown();
        return new TransposeMatrix(c.Destination(0, 4), c.Source(1, 4));
    }

    public static Instruction Multiply(DecodeContext c)
    {
        if (!c.Take("sync") || !c.Take("aligned"))
            throw c.Unknown();
        string shape = c.TakeNext();
        if (!c.Take("row") || !c.Take("col"))
            throw c.Unknown();
        bool saturates = c.Take("satfinite");
        string[] types = [c.TakeNext(), c.TakeNext(), c.TakeNext(), c.TakeNext()];
        bool known = (shape, $"{types[1]} {types[3]}") switch
        {
            ("m16n8k16" or "m16n8k8", "f16 f16" or "f16 f32" or "bf16 f32") => true,
            ("m16n8k8" or "m16n8k4", "tf32 f32") => true,
            ("m8n8k16" or "m16n8k16" or "m16n8k32", "s8 s32" or "u8 s32") => true,
            ("m8n8k4", "f64 f64") => true,
            _ => false,
        };
        bool integers = types[3] == "s32", mixed = integers && types[2] is "s8" or "u8";
        if (!known || types[0] != types[3] || (types[1] != types[2] && !mixed) || (saturates && !integers))
            throw c.Unknown();
        if (shape == "m16n8k16" && types[3] == "f32")
            return new MatrixMultiply(
                types[1] == "bf16", Registers(c, 0, 4, 4, write: true), Registers(c, 1, 4, 4), Registers(c, 2, 2, 4), Registers(c, 3, 4, 4));
        int rows = shape.StartsWith("m16", StringComparison.Ordinal) ? 16 : 8;
        var layout = new MatrixShape.Layout(rows, int.Parse(shape[(shape.IndexOf('k') + 1)..]), types[1], types[2], types[3], saturates);
        int size = layout.RegisterSize;
        return new MatrixShape(
            layout, Registers(c, 0, layout.SumRegisters, size, write: true), Registers(c, 1, layout.LeftRegisters, size),
            Registers(c, 2, layout.RightRegisters, size), Registers(c, 3, layout.SumRegisters, size));
    }

    static Register[] Registers(DecodeContext c, int operand, int count, int size, bool write = false)
    {
        var items = c.Items(operand);
        if (items.Length != count)
            throw c.Malformed($"operand {operand + 1} has {items.Length} registers, expected {count}");
        return [.. items.Select(item => write || item is Register ? c.Writable(item, size) : throw c.Malformed("matrix operands must be registers"))];
    }
}
