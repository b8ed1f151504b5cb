using ILGPU.Backends.PTX;
using ILGPU.IR;
using ILGPU.IR.Values;
using static IlgpuPeft.Kernels.PtxBlock;

namespace IlgpuPeft.Kernels;

/// <summary>The PTX of <see cref="AttentionTile"/>. Each generator appends a block of text with registers of its own; loops here are the unrolled loops of the kernel.</summary>
static class PtxAttentionTile
{
    const string MinusInfinity = "0fFF800000", Ln2 = "0f3F317218";

    public static void Multiply(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        int width = Constant(call[2]), rowBlocks = Constant(call[3]);
        string[] left = Names(generator, call[0]), right = Names(generator, call[1]);
        generator.Allocate(value);
        string[] sums = Names(generator, value);
        int tiles = sums.Length / 4 / rowBlocks;
        var layout = new TileLayout(width);
        using var text = new PtxBlock(generator);
        text.Line($".reg .b32 a<{4 * rowBlocks}>, b<4>;");
        TileLayout.Chunks(text, "l", left, layout.Pairs, 2);
        TileLayout.Chunks(text, "r", right, layout.Pairs, 2);
        foreach (string sum in sums)
        {
            text.Line($"mov.f32 {sum}, 0f00000000;");
        }

        for (int step = 0; step < width / 16; step++)
        {
            for (int block = 0; block < rowBlocks; block++)
            {
                text.Line($"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {List("a", 4 * block, 4)}, [{layout.At("l", 2 * step, 16 * block)}];");
            }

            for (int tile = 0; tile < tiles; tile += 2)
            {
                text.Line($"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {List("b", 0, 4)}, [{layout.At("r", 2 * step, 8 * tile)}];");
                TwoColumnTiles(text, sums, tile, rowBlocks);
            }
        }
    }

    public static void MultiplyAdd(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        int rowBlocks = Constant(call[3]);
        string[] p = Names(generator, call[1]), right = Names(generator, call[2]), sums = InPlace(generator, value);
        int tiles = sums.Length / 4 / rowBlocks, steps = p.Length / 8 / rowBlocks;
        var layout = new TileLayout(8 * tiles);
        using var text = new PtxBlock(generator);
        text.Line($".reg .b32 a<{4 * rowBlocks}>, b<4>;");
        TileLayout.Chunks(text, "r", right, layout.Pairs, 2);
        for (int step = 0; step < steps; step++)
        {
            // Two neighbouring score fragments are the left operand of a multiply over 16 columns, lane for lane.
            for (int i = 0; i < 4 * rowBlocks; i++)
            {
                int at = 8 * (i / 4 * steps + step) + 2 * (i % 4);
                text.Line($"cvt.rn.bf16x2.f32 a{i}, {p[at + 1]}, {p[at]};");
            }

            for (int tile = 0; tile < tiles; tile += 2)
            {
                text.Line($"ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {List("b", 0, 4)}, [{layout.At("r", tile, 16 * step)}];");
                TwoColumnTiles(text, sums, tile, rowBlocks);
            }
        }
    }

    public static void Mask(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string first = Register(generator, call[1]), end = Register(generator, call[2]);
        int rowBlocks = Constant(call[3]);
        string[] scores = InPlace(generator, value);
        using var text = new PtxBlock(generator);
        text.Line(".reg .pred p;");
        for (int i = 0; i < scores.Length; i++)
        {
            int column = 8 * (i / 4 % (scores.Length / 4 / rowBlocks)) + i % 2 - 8 * Row(i, scores.Length, 2 * rowBlocks);
            text.Line($"setp.gt.s32 p, {first}, {column};");
            text.Line($"@p mov.f32 {scores[i]}, {MinusInfinity};");
            text.Line($"setp.le.s32 p, {end}, {column};");
            text.Line($"@p mov.f32 {scores[i]}, {MinusInfinity};");
        }
    }

    public static void Rows(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        string from = Register(generator, ((MethodCall)value)[0]);
        generator.Allocate(value);
        using var text = new PtxBlock(generator);
        foreach (string row in Names(generator, value))
        {
            text.Line($"mov.f32 {row}, {from};");
        }
    }

    public static void Maximum(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string[] before = Names(generator, call[0]), scores = Names(generator, call[1]);
        string factor = Register(generator, call[2]);
        generator.Allocate(value);
        string[] rows = Names(generator, value);
        using var text = new PtxBlock(generator);
        text.Line(".reg .f32 other;");
        foreach (var (row, elements) in ByRow(rows, scores))
        {
            text.Line($"max.f32 {row}, {elements[0]}, {elements[1]};");
            foreach (string element in elements[2..])
            {
                text.Line($"max.f32 {row}, {row}, {element};");
            }

            AcrossLanes(text, "max.f32", row);
            text.Line($"mul.f32 {row}, {row}, {factor};");
        }

        for (int i = 0; i < rows.Length; i++)
        {
            text.Line($"max.f32 {rows[i]}, {rows[i]}, {before[i]};");
        }
    }

    public static void Exponentials(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string[] shift = Names(generator, call[1]);
        string factor = Register(generator, call[2]);
        string[] scores = InPlace(generator, value);
        using var text = new PtxBlock(generator);
        text.Line(".reg .f32 down;");
        foreach (var (row, elements) in ByRow(shift, scores))
        {
            text.Line($"neg.f32 down, {row};");
            foreach (string element in elements)
            {
                text.Line($"fma.rn.f32 {element}, {element}, {factor}, down;");
                text.Line($"ex2.approx.ftz.f32 {element}, {element};");
            }
        }
    }

    public static void Ratios(PTXBackend backend, PTXCodeGenerator generator, Value value) =>
        EachRow(generator, value, (text, row, operands) =>
        {
            text.Line($"sub.f32 {row}, {operands[0]}, {operands[1]};");
            text.Line($"ex2.approx.ftz.f32 {row}, {row};");
        });

    public static void AddUp(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string[] kept = Names(generator, call[1]), p = Names(generator, call[2]), sums = InPlace(generator, value);
        using var text = new PtxBlock(generator);
        foreach (var ((sum, elements), factor) in ByRow(sums, p).Zip(kept))
        {
            text.Line($"fma.rn.f32 {sum}, {sum}, {factor}, {elements[0]};");
            foreach (string element in elements[1..])
            {
                text.Line($"add.f32 {sum}, {sum}, {element};");
            }
        }
    }

    public static void Total(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        string[] sums = InPlace(generator, value);
        using var text = new PtxBlock(generator);
        text.Line(".reg .f32 other;");
        foreach (string sum in sums)
        {
            AcrossLanes(text, "add.f32", sum);
        }
    }

    public static void Reciprocals(PTXBackend backend, PTXCodeGenerator generator, Value value) =>
        EachRow(generator, value, (text, row, operands) => text.Line($"rcp.rn.f32 {row}, {operands[0]};"));

    public static void Logarithms(PTXBackend backend, PTXCodeGenerator generator, Value value) =>
        EachRow(generator, value, (text, row, operands) =>
        {
            text.Line($"lg2.approx.ftz.f32 {row}, {operands[1]};");
            text.Line($"add.f32 {row}, {row}, {operands[0]};");
            text.Line($"mul.f32 {row}, {row}, {Ln2};");
        });

    public static void Scale(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        string[] factors = Names(generator, ((MethodCall)value)[1]), elements = InPlace(generator, value);
        using var text = new PtxBlock(generator);
        foreach (var (factor, row) in ByRow(factors, elements))
        {
            foreach (string element in row)
            {
                text.Line($"mul.f32 {element}, {element}, {factor};");
            }
        }
    }

    public static void Store(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        int rowBlocks = Constant(call[2]);
        string[] elements = Names(generator, call[0]), row = Names(generator, call[1]);
        int tiles = elements.Length / 4 / rowBlocks;
        var layout = new TileLayout(8 * tiles);
        using var text = new PtxBlock(generator);
        text.Line(".reg .b32 pair;");
        TileLayout.Chunks(text, "d", row, layout.Mask + 1, 1);
        for (int i = 0; i < elements.Length; i += 2)
        {
            text.Line($"cvt.rn.bf16x2.f32 pair, {elements[i + 1]}, {elements[i]};");
            text.Line($"st.shared.b32 [{layout.At("d", i / 4 % tiles, 8 * Row(i, elements.Length, 2 * rowBlocks), 1)}], pair;");
        }
    }

    public static void StoreRows(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string[] rows = Names(generator, call[0]);
        string address = Register(generator, call[1]);
        using var text = new PtxBlock(generator);
        for (int i = 0; i < rows.Length; i++)
        {
            text.Line($"st.shared.f32 [{address}+{32 * i}], {rows[i]};");
        }
    }

    public static void Differences(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string[] p = Names(generator, call[1]), shift = Names(generator, call[2]), dp = InPlace(generator, value);
        using var text = new PtxBlock(generator);
        for (int i = 0; i < dp.Length; i++)
        {
            text.Line($"sub.f32 {dp[i]}, {dp[i]}, {shift[Row(i, dp.Length, shift.Length)]};");
            text.Line($"mul.f32 {dp[i]}, {dp[i]}, {p[i]};");
        }
    }

    public static void ColumnExponentials(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string shifts = Register(generator, call[1]), factor = Register(generator, call[2]);
        ByColumn(generator, value, shifts, Constant(call[3]), (text, score, _, shift) =>
        {
            text.Line($"mul.f32 {score}, {score}, {factor};");
            text.Line($"sub.f32 {score}, {score}, {shift};");
            text.Line($"ex2.approx.ftz.f32 {score}, {score};");
        });
    }

    public static void ColumnDifferences(PTXBackend backend, PTXCodeGenerator generator, Value value)
    {
        var call = (MethodCall)value;
        string[] p = Names(generator, call[1]);
        ByColumn(generator, value, Register(generator, call[2]), Constant(call[3]), (text, dp, i, shift) =>
        {
            text.Line($"sub.f32 {dp}, {dp}, {shift};");
            text.Line($"mul.f32 {dp}, {dp}, {p[i]};");
        });
    }

    /// <summary>Multiplies fragments a of every row block with the two right operands that one ldmatrix gave, column tiles <paramref name="tile"/> and the next.</summary>
    static void TwoColumnTiles(PtxBlock text, string[] sums, int tile, int rowBlocks)
    {
        int tiles = sums.Length / 4 / rowBlocks;
        for (int block = 0; block < rowBlocks; block++)
        {
            for (int half = 0; half < 2; half++)
            {
                string sum = $"{{{string.Join(", ", sums.AsSpan(4 * (block * tiles + tile + half), 4).ToArray())}}}";
                text.Line($"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {sum}, {List("a", 4 * block, 4)}, {List("b", 2 * half, 2)}, {sum};");
            }
        }
    }

    /// <summary>Reduces a number over the four lanes that share a row.</summary>
    static void AcrossLanes(PtxBlock text, string instruction, string row)
    {
        foreach (int distance in (ReadOnlySpan<int>)[1, 2])
        {
            text.Line($"shfl.sync.bfly.b32 other, {row}, {distance}, 31, 0xffffffff;");
            text.Line($"{instruction} {row}, {row}, other;");
        }
    }

    /// <summary>Computes each row's number from the numbers of that row in the operands.</summary>
    static void EachRow(PTXCodeGenerator generator, Value value, Action<PtxBlock, string, string[]> append)
    {
        var call = (MethodCall)value;
        string[][] operands = [.. Enumerable.Range(0, call.Count).Select(i => Names(generator, call[i]))];
        generator.Allocate(value);
        string[] rows = Names(generator, value);
        using var text = new PtxBlock(generator);
        for (int i = 0; i < rows.Length; i++)
        {
            append(text, rows[i], [.. operands.Select(operand => operand[i])]);
        }
    }

    /// <summary>Changes each score, given its index and the shift of its column: of two columns at a time, which are next to each other in shared memory.</summary>
    static void ByColumn(PTXCodeGenerator generator, Value value, string shifts, int rowBlocks, Action<PtxBlock, string, int, string> append)
    {
        string[] scores = InPlace(generator, value);
        int count = scores.Length / rowBlocks;
        using var text = new PtxBlock(generator);
        text.Line(".reg .f32 shift<2>;");
        for (int tile = 0; tile < count; tile += 4)
        {
            text.Line($"ld.shared.v2.f32 {List("shift", 0, 2)}, [{shifts}+{8 * tile}];");
            for (int i = 0; i < 4 * rowBlocks; i++)
            {
                int at = i / 4 * count + tile + i % 4;
                append(text, scores[at], at, $"shift{i % 2}");
            }
        }
    }

    /// <summary>Each row with the elements of it that the lane holds.</summary>
    static IEnumerable<(string Row, string[] Elements)> ByRow(string[] rows, string[] elements) =>
        rows.Select((row, i) => (row, elements.Where((_, at) => Row(at, elements.Length, rows.Length) == i).ToArray()));

    /// <summary>Which of the lane's rows an element is of.</summary>
    static int Row(int element, int elements, int rows) => element / (elements / (rows / 2)) * 2 + element % 4 / 2;

    static string List(string name, int from, int count) => $"{{{string.Join(", ", Enumerable.Range(from, count).Select(i => name + i))}}}";

    /// <summary>Names the addresses of a lane's chunks in a swizzled tile of this width.</summary>
    readonly struct TileLayout(int width)
    {
        public int Mask { get; } = SharedRows.SwizzleMask(width);

        /// <summary>Different addresses that a lane has for pairs of chunks: whatever the swizzle leaves alone is added as a constant.</summary>
        public int Pairs => (Mask + 1) / 2;

        /// <summary>Computes the lane's first address of each of <paramref name="count"/> kinds, for chunks <paramref name="step"/> apart.</summary>
        public static void Chunks(PtxBlock text, string name, string[] row, int count, int step)
        {
            text.Line($".reg .b32 {name}<{count}>;");
            for (int i = 0; i < count; i++)
            {
                text.Line($"xor.b32 {name}{i}, {row[1]}, {16 * step * i};");
                text.Line($"add.u32 {name}{i}, {name}{i}, {row[0]};");
            }
        }

        /// <summary>The address of a chunk, <paramref name="rows"/> below the lane's row.</summary>
        public string At(string name, int chunk, int rows, int step = 2) => $"{name}{(chunk & Mask) / step}+{16 * (chunk & ~Mask) + 2 * width * rows}";
    }
}
